//! A request's way through tokens, policies, limits and the choice of an endpoint, by what other crates can see of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use mesh_core::identity::SpiffeId;
use mesh_core::l7::authorization::Policy;
use mesh_core::l7::destination;
use mesh_core::l7::ratelimit::RateLimit;
use mesh_core::workload::{ServiceKey, Uid};
use mesh_net::header_list::HeaderList;
use mesh_waypoint::engine::authorization::{Peer, Policies, Request, Verdict};
use mesh_waypoint::engine::experience::{Experiences, Target};
use mesh_waypoint::engine::jwt::{Authentication, Head};
use mesh_waypoint::engine::limits::{Breakers, Limited};
use mesh_waypoint::engine::outliers::Outcome;
use mesh_waypoint::engine::ratelimit::RateLimits;
use rand::SeedableRng;
use rand::rngs::SmallRng;

#[test]
fn a_request_goes_through_all_of_it() {
    // Once for a model.
    let policies: Vec<Policy> = serde_json::from_str(
        r#"[{ "name": "shop/read", "action": "allow", "rules": [
            { "from": [{ "namespaces": [{ "exact": "dev" }] }], "to": [{ "methods": [{ "exact": "GET" }] }] }] }]"#,
    )
    .expect("policies");
    let limits: Vec<RateLimit> = serde_json::from_str(
        r#"[{ "name": "shop/calm", "by": ["identity"], "requests": 2, "per": { "secs": 60, "nanos": 0 }, "max_keys": 100 }]"#,
    )
    .expect("limits");
    let policies = Policies::compile(&policies);
    let limits = RateLimits::compile(&limits, &RateLimits::default(), &mut SmallRng::seed_from_u64(1));
    let authentication = Authentication::compile(&[]);
    let (breakers, experiences) = (Breakers::default(), Experiences::default());

    // Once for a connection.
    let identity = SpiffeId::new("td", "dev", "shell").expect("an identity");
    let (address, destination) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 96, 0, 7]));
    let peer = Peer { identity: Some(&identity), address, destination, port: 80, sni: None };
    let (policies, limits) = (policies.for_connection(peer), limits.for_connection(peer));

    // For each request.
    let mut headers = HeaderList::new();
    headers.insert("x-team", HeaderValue::from_static("blue"));
    let decide = |method: &str| {
        let head = Head { scheme: "http", host: "web", target: "/a?b", fields: &headers };
        let accepted = authentication.authenticate(&head, &|_| None, 1_700_000_000).expect("no token, no fault");
        let authenticated = accepted.authenticated.as_ref();
        let request = Request { method, host: "web", path: "/a", query: Some("b"), fields: &headers, authenticated };
        match policies.evaluate(&request, &[]).verdict {
            Verdict::Allow(policy) => Ok((policy, limits.take(&request, Instant::now))),
            denied => Err(denied),
        }
    };
    let (policy, ruling) = decide("GET").expect("allowed");
    assert_eq!((policy.as_deref(), ruling.refused), (Some("shop/read"), None));
    assert!(decide("PUT").is_err());
    assert!(decide("GET").expect("allowed").1.refused.is_none());
    assert_eq!(decide("GET").expect("allowed").1.refused.expect("a third").rule, "shop/calm".into());

    let service = ServiceKey { namespace: "shop".into(), hostname: "web".into() };
    let target = Target { service, port: 80, subset: None };
    let pool = destination::Pool { max_requests: Some(1), ..Default::default() };
    let taken = breakers.of(&target).take(Limited::Requests, &pool).expect("room for one");
    assert!(breakers.of(&target).take(Limited::Requests, &pool).is_err());
    let (experience, uid) = (experiences.of(&target), Uid(Arc::from("c//Pod/shop/web-1")));
    let in_flight = experience.begin(&uid);
    assert!(!experience.record(&uid, Outcome::Status(200), &destination::Policy::default(), 1, Instant::now()));
    drop((in_flight, taken));
}
