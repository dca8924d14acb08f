//! Requests that are answered by what their head is, as the reference answers them; and what a copy costs its request.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;

use std::time::{Duration, Instant};

use bench::{Bench, Server, key, text};
use http::Request;
use mesh_core::l7::{PortRules, Protocol, Target};
use mesh_waypoint::keys::Keys;

#[tokio::test]
async fn methods_that_there_are_not_are_bad_requests() {
    let bench = Bench::new(&[], Keys::default(), |_| {}).await;
    for (method, status) in [("PROPFIND", 200), ("FOO", 400), ("get", 400)] {
        let response = bench.ask(Request::builder().method(method).uri("/").body("").unwrap()).await;
        assert_eq!(response.status().as_u16(), status, "{method}");
    }
}

#[tokio::test]
async fn the_asterisk_of_options_is_nowhere() {
    for target in [Target::Service(key("web")), Target::Workloads] {
        let bench = Bench::new(&[], Keys::default(), |model| model.target = target.clone()).await;
        let mut statuses = Vec::new();
        for uri in ["*", "/"] {
            let response = bench.ask(Request::options(uri).body("").unwrap()).await;
            statuses.push(response.status().as_u16());
        }
        assert_eq!((statuses, bench.backend.count()), (vec![404, 200], 1), "{target:?}");
    }
}

#[tokio::test]
async fn a_body_too_long_to_be_copied_still_goes_on_whole() {
    let copies = Server::start(|_| text(200, "")).await;
    let to = |name: &str| serde_json::json!({ "service": { "service": key(name), "port": 80, "subset": null } });
    let routes = serde_json::json!({
        "entries": [{ "rule": 0 }],
        "rules": [{
            "origin": "r",
            "action": { "forward": { "backends": [{ "weight": 1, "to": to("web") }], "otherwise": 503 } },
            "mirrors": [{ "to": to("copy"), "share": 1_000_000 }],
        }],
    });
    let routes = serde_json::from_value(routes).unwrap();
    let bench = Bench::new(&[("copy", copies.address)], Keys::default(), |model| {
        let rules = PortRules { protocol: Protocol::Http, http: Some(routes), ..PortRules::default() };
        model.ports = [(80, rules)].into();
    })
    .await;
    let long = "0123456789".repeat(20_000);
    assert_eq!(bench.ask(Request::post("/").body(long.as_str()).unwrap()).await.status(), 200);
    assert!(bench.backend.seen()[0].body() == long.as_str());
    assert_eq!(bench.ask(Request::post("/").body("short").unwrap()).await.status(), 200);
    let began = Instant::now();
    while copies.count() == 0 && began.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(copies.seen().iter().map(|copy| copy.body().clone()).collect::<Vec<_>>(), ["short"]);
}
