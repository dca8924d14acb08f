use serde_json::{Value, json};

use super::*;

const GOOD: &str = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
    "operation": "CREATE", "kind": {"group": "security.istio.io", "version": "v1", "kind": "PeerAuthentication"},
    "resource": {"group": "security.istio.io", "version": "v1", "resource": "peerauthentications"}, "userInfo": {},
    "object": {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "a", "namespace": "b"}, "spec": {"mtls": {"mode": "STRICT"}}}}}"#;

async fn ask(webhook: &Webhook, method: Method, path: &str, body: String) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body))).unwrap();
    let response = answer(request, webhook, Arc::new(Semaphore::new(1))).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn reviews_are_answered_and_everything_else_gets_a_sentence() {
    let webhook = Webhook::default();
    let long = " ".repeat(MAX_BODY_BYTES + 1);
    for (method, path, body, status, said) in [
        (Method::POST, "/validate", GOOD.to_owned(), 200, "\"allowed\":true"),
        (Method::POST, "/validate?timeout=3s", GOOD.replace("STRICT", "NO"), 200, "unknown-value: spec.mtls.mode"),
        (Method::POST, "/validate", "{}".to_owned(), 400, "missing field"),
        (Method::POST, "/validate", long, 413, "8388608 bytes at most"),
        (Method::GET, "/validate", String::new(), 405, "by POST"),
        (Method::POST, "/", GOOD.to_owned(), 404, "/validate and nothing else"),
    ] {
        let (seen, text) = ask(&webhook, method, path, body).await;
        assert_eq!(seen, status, "{path}: {text}");
        assert!(text.contains(said), "{path}: {text}");
    }
    let counted = |kind: &'static str, outcome| {
        let group = if kind.is_empty() { "" } else { "security.istio.io" };
        webhook.reviews.get_or_create(&[("group", group), ("kind", kind), ("outcome", outcome)]).get()
    };
    assert_eq!(counted("PeerAuthentication", "admitted"), 1);
    assert_eq!(counted("PeerAuthentication", "refused"), 1);
    assert_eq!(counted("", "malformed"), 2);
}

#[tokio::test]
async fn a_kind_that_is_none_of_the_tables_makes_no_row_of_its_own() {
    let webhook = Webhook::default();
    let mut review: Value = serde_json::from_str(GOOD).unwrap();
    review["request"]["kind"] = json!({"group": "x", "version": "v1", "kind": "Y"});
    ask(&webhook, Method::POST, "/validate", review.to_string()).await;
    assert_eq!(webhook.reviews.get_or_create(&[("group", ""), ("kind", ""), ("outcome", "admitted")]).get(), 1);
}
