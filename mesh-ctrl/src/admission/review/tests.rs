use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A VirtualService whose route takes `timeout`.
fn service(timeout: &str, metadata: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {
            "hosts": ["reviews"],
            "http": [{"timeout": timeout, "route": [{"destination": {"host": "reviews"}}]}],
        },
    });
    for (name, value) in metadata.as_object().into_iter().flatten() {
        object["metadata"][name] = value.clone();
    }
    object
}

fn question(operation: &str, object: &Value, old: &Value) -> Value {
    let of = if object.is_null() { old } else { object };
    let (group, version) = of["apiVersion"].as_str().unwrap().rsplit_once('/').unwrap();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "a-1", "operation": operation, "object": object, "oldObject": old, "dryRun": false,
            "kind": {"group": group, "version": version, "kind": of["kind"]},
            "resource": {"group": group, "version": version, "resource": "things"},
            "name": "reviews", "namespace": "shop", "userInfo": {"username": "ann", "groups": ["dev"]},
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}

fn ask(operation: &str, object: &Value, old: &Value) -> (Outcome, Value) {
    let reviewed = review(question(operation, object, old).to_string().as_bytes()).unwrap();
    let answer = serde_json::to_value(&reviewed.answer).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "a-1");
    assert_eq!(answer["response"]["allowed"], reviewed.outcome != Outcome::Refused);
    (reviewed.outcome, answer["response"].clone())
}

#[test]
fn what_cannot_be_put_in_force_is_refused_with_the_reason() {
    let (outcome, response) = ask("CREATE", &service("0s", &json!({})), &Value::Null);
    assert_eq!(outcome, Outcome::Refused);
    let status = &response["status"];
    assert_eq!(
        (&status["code"], &status["reason"], &status["status"]),
        (&json!(422), &json!("Invalid"), &json!("Failure"))
    );
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("bad-duration: spec.http[0].timeout: "), "{message}");
    assert!(message.ends_with(Code::BadDuration.advice()), "{message}");
    assert_eq!(status.get("details"), None);
}

#[test]
fn a_warning_is_said_and_does_not_refuse() {
    let sidecar = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "s", "namespace": "shop"},
        "spec": {"egress": [{"hosts": ["./*"]}]},
    });
    let (outcome, response) = ask("CREATE", &sidecar, &Value::Null);
    assert_eq!(outcome, Outcome::Warned, "{response}");
    assert!(response["warnings"][0].as_str().unwrap().starts_with("without-effect: kind: "), "{response}");
}

/// Operation, new and old object, and what comes of it.
#[test]
fn only_what_a_change_brings_is_refused() {
    let none = Value::Null;
    let (good, bad, worse) = (service("1s", &json!({})), service("0s", &json!({})), service("0", &json!({})));
    let labelled = service("0s", &json!({"labels": {"team": "a"}}));
    let released = service("0s", &json!({"finalizers": []}));
    let held = service("0s", &json!({"finalizers": ["weft.io/x"]}));
    let deleted = service("0", &json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["weft.io/x"]}));
    let tried = service("0s", &json!({"annotations": {"istio.io/dry-run": "true"}}));
    let generated = service("1s", &json!({"generateName": "reviews-"}));
    let mut with_status = bad.clone();
    with_status["status"] = json!({"observedGeneration": "2"});
    let mut misspelt = bad.clone();
    misspelt["sepc"] = json!({});
    for (what, operation, object, old, outcome) in [
        ("good", "CREATE", &good, &none, Outcome::Admitted),
        ("a name still to be made", "CREATE", &generated, &none, Outcome::Admitted),
        ("bad", "CREATE", &bad, &none, Outcome::Refused),
        ("deleted", "DELETE", &none, &bad, Outcome::Admitted),
        ("connected to", "CONNECT", &bad, &none, Outcome::Admitted),
        ("mended", "UPDATE", &good, &bad, Outcome::Admitted),
        ("broken", "UPDATE", &bad, &good, Outcome::Refused),
        ("broken otherwise", "UPDATE", &worse, &bad, Outcome::Refused),
        ("without an old object", "UPDATE", &bad, &none, Outcome::Refused),
        ("the same", "UPDATE", &bad, &bad, Outcome::Warned),
        ("a label", "UPDATE", &labelled, &bad, Outcome::Warned),
        ("a finalizer added", "UPDATE", &held, &bad, Outcome::Warned),
        ("a finalizer removed", "UPDATE", &released, &held, Outcome::Warned),
        ("a status", "UPDATE", &with_status, &bad, Outcome::Warned),
        ("anything, on its way out", "UPDATE", &deleted, &good, Outcome::Admitted),
        ("an annotation that is itself wrong", "UPDATE", &tried, &bad, Outcome::Refused),
        ("a part that is none", "UPDATE", &misspelt, &bad, Outcome::Refused),
    ] {
        let (seen, response) = ask(operation, object, old);
        assert_eq!(seen, outcome, "{what}: {response}");
    }
    let (_, response) = ask("UPDATE", &tried, &bad);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("bad-annotation: ") && !message.contains("bad-duration"), "{message}");
    assert!(response["warnings"][0].as_str().unwrap().starts_with("bad-duration: "), "{response}");
}

#[test]
fn words_of_a_later_gateway_api_are_not_refused_and_those_of_istio_are() {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "public"}], "rules": [{"tomorrow": true, "backendRefs": [{"name": "a", "port": 1}]}]},
    });
    let (outcome, response) = ask("CREATE", &route, &Value::Null);
    assert_eq!(outcome, Outcome::Warned);
    assert!(
        response["warnings"][0].as_str().unwrap().starts_with("unknown-field: spec.rules[0].tomorrow"),
        "{response}"
    );
    let mut relative = route.clone();
    relative["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "PathPrefix", "value": "api"}}]);
    assert_eq!(ask("CREATE", &relative, &Value::Null).0, Outcome::Refused, "what is known is checked");

    let mut service = service("1s", &json!({}));
    service["spec"]["http"][0]["tomorrow"] = json!(true);
    assert_eq!(ask("CREATE", &service, &Value::Null).0, Outcome::Refused);
}

#[test]
fn kinds_without_a_table_are_taken() {
    let pod = json!({"apiVersion": "example.com/v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": 7});
    assert_eq!(ask("CREATE", &pod, &Value::Null).0, Outcome::Admitted);
}

#[test]
fn what_is_no_review_gets_a_sentence() {
    let good = question("CREATE", &service("1s", &json!({})), &Value::Null);
    let with = |pointer: &str, value: Value| {
        let mut question = good.clone();
        *question.pointer_mut(pointer).unwrap() = value;
        review(question.to_string().as_bytes()).unwrap_err().to_string()
    };
    assert!(review(b"").unwrap_err().to_string().starts_with("the body is no AdmissionReview: EOF"));
    assert!(review(b"[1]").is_err());
    assert_eq!(
        with("/apiVersion", json!("admission.k8s.io/v1beta1")),
        "the body is a AdmissionReview of \"admission.k8s.io/v1beta1\"; answered is an AdmissionReview of admission.k8s.io/v1"
    );
    assert_eq!(with("/request", Value::Null), "the review has no request");
    assert_eq!(with("/request/object", Value::Null), "the review has no object");
    assert!(with("/request/operation", json!("create")).contains("unknown variant"));
    assert!(with("/request/object/metadata", json!([])).contains("AdmissionReview"));
}

/// JSON of any shape, with words in it that a review has.
fn anything() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "uid",
        "kind",
        "group",
        "version",
        "resource",
        "object",
        "oldObject",
        "operation",
        "CREATE",
        "UPDATE",
        "metadata",
        "spec",
        "name",
        "userInfo",
        "apiVersion",
        "networking.istio.io/v1",
        "VirtualService",
        "http",
        "hosts",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_are_too_much_for_it(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(review(&bytes).is_err());
    }

    #[test]
    fn any_object_gets_an_answer(spec in anything(), old in anything(), update in any::<bool>()) {
        let (mut new, mut before) = (service("1s", &json!({})), service("1s", &json!({})));
        (new["spec"], before["spec"]) = (spec, old);
        let operation = if update { "UPDATE" } else { "CREATE" };
        let (outcome, response) = ask(operation, &new, &before);
        let refused = mesh_analysis::is_refused(&validate(&new)) && !(update && new == before);
        prop_assert_eq!(outcome == Outcome::Refused, refused, "{}", response);
    }

    #[test]
    fn any_request_gets_an_answer_or_a_sentence(request in anything()) {
        let question = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        if let Err(malformed) = review(question.to_string().as_bytes()) {
            prop_assert!(!malformed.to_string().is_empty());
        }
    }
}
