//! What is broken, late or too much.

use crate::ask::{Ask, ask, get};
use crate::intent::Intent;

pub(crate) fn table() -> Vec<Intent> {
    let grpc = &["content-type: application/grpc", "te: trailers"][..];
    let asks = [
        get("/abort"),
        ask("POST", "/abort", &["content-type: application/grpc", "content-length: 0"]),
        get("/grpc-abort"),
        ask("POST", "/grpc-abort", &["content-type: application/grpc", "content-length: 0"]),
        Ask::second("GET", "/abort", &[]),
        get("/late"),
        get("/both"),
        get("/slow"),
        get("/slow?delay=1000"),
        ask("POST", "/slow?delay=1001", &["content-type: application/grpc", "content-length: 0"]),
        get("/again?status=503&first=3"),
        get("/again?status=500&first=9"),
        get("/again?reset=1&first=2"),
        get("/again?status=404"),
        get("/gateway?status=500&first=1"),
        get("/gateway?status=502&first=1"),
        get("/reset?reset=1&first=1"),
        get("/reset?status=503&first=1"),
        get("/reset?reset=1"),
        get("/numbers?status=418&first=1"),
        get("/numbers?status=429&first=3"),
        get("/numbers?status=503&first=1"),
        get("/per-try?delay=1000"),
        get("/all-tries?delay=1000"),
        get("/only-number?delay=1000"),
        get("/only-number?status=503&first=1"),
        get("/never?reset=1&first=1"),
        get("/dead"),
        ask("GET", "/dead", grpc),
        // Which of the two is asked first is chance: its name is in the body, so there is none.
        ask("HEAD", "/pair?status=503&first=1", &[]),
        get("/else?reset=1&first=1"),
        get("/else?status=503&first=1"),
        ask(
            "GET",
            "/else?a",
            &["x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9", "x-envoy-upstream-rq-timeout-ms: 5"],
        ),
        Ask::second("GET", "/slow?delay=1002", &[]),
    ];
    vec![
        Intent::new("failures", asks),
        Intent::new("overflow", [get("/a?delay=500").crowd(4), get("/a")]),
        Intent::new("one-connection", [get("/a").crowd(4)]),
        Intent::new("most-requests", [get("/a?delay=500").crowd(4), get("/a")]),
    ]
}
