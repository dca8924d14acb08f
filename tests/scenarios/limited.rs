//! How many requests a client may make at a service with a waypoint.

use anyhow::{Result, ensure};
use weft_tests::answer::Answer;
use weft_tests::needs;
use weft_tests::reviews::Reviews;

/// Limits for the service, as rules in YAML's flow style.
fn limits(rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: BackendTrafficPolicy, metadata: {{name: reviews, namespace: shop}}, spec: \
         {{targetRefs: [{{group: '', kind: Service, name: reviews}}], rateLimit: {{type: Local, local: {{rules: [{rules}]}}}}}}}}\n"
    )
}

#[test]
fn who_asks_too_often_is_told_to_wait() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-limits", &["v1"])?;
    let by_identity = "{clientSelectors: [{headers: [{name: ':identity', type: Distinct}], path: {value: /paid}}], limit: {requests: 3, \
                       unit: Hour}}";
    let on_trial =
        "{clientSelectors: [{methods: [{value: PUT}]}], limit: {requests: 0, unit: Second}, shadowMode: true}";
    reviews.apply(&limits(&format!("{by_identity}, {on_trial}")))?;
    let left = |answer: &Answer| answer.header("x-ratelimit-remaining").map(str::to_owned);
    for remaining in ["2", "1", "0"] {
        let answer = reviews.ask("/paid/a", &[])?;
        assert_eq!((answer.status, left(&answer).as_deref()), (200, Some(remaining)), "{answer:?}");
    }
    let refused = reviews.ask("/paid/b", &[])?;
    assert_eq!((refused.status, refused.body.as_str()), (429, "local_rate_limited"));
    assert_eq!(refused.header("x-ratelimit-limit"), Some("3"));
    let wait: u64 = refused.header("retry-after").unwrap_or_default().parse()?;
    ensure!((1..=1200).contains(&wait), "{refused:?}");
    let lines = reviews.waypoint.accesses();
    let line = lines.iter().find(|line| line["response_code"] == 429).expect("a line");
    assert_eq!((&line["response_flags"], &line["response_code_details"]), (&"RL".into(), &"local_rate_limited".into()));
    let grpc = reviews.request("/paid/c", &["content-type: application/grpc"], &["--http2-prior-knowledge"])?;
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{grpc:?}");
    assert_eq!(reviews.ask("/free", &[])?.status, 200, "the limit is for a path");
    assert_eq!(reviews.request("/free", &[], &["--request", "PUT"])?.status, 200, "this one only counts");
    let metrics = reviews.waypoint.admin("/metrics")?;
    for said in [
        "weft_requests_limited_total{policy=\"shop/reviews\",enforced=\"true\"} 2",
        "enforced=\"false\"} 1",
        "response_flags=\"RL\"",
    ] {
        ensure!(metrics.contains(said), "{said}: {metrics}");
    }

    // What others say changes nothing of it, and a limit that is another begins anew.
    reviews.apply(&limits(by_identity))?;
    assert_eq!(reviews.ask("/paid/d", &[])?.status, 429);
    reviews.apply(&limits(&by_identity.replace("requests: 3", "requests: 4")))?;
    assert_eq!(reviews.ask("/paid/e", &[])?.status, 200);
    reviews.apply("")?;
    assert_eq!(left(&reviews.ask("/paid/f", &[])?), None);
    Ok(())
}
