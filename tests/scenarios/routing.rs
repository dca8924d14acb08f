//! Requests to a service with a waypoint: where they go and what is done to them, by VirtualService, DestinationRule and HTTPRoute.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::needs;
use weft_tests::reviews::{Reviews, subsets, virtual_service};
use weft_tests::wait::{PATIENCE, until};

fn counts(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    answers.iter().for_each(|answer| *counts.entry(answer.as_str()).or_default() += 1);
    counts
}

/// A Service of one version's pods.
fn version(version: &str, ip: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: reviews-{version}, namespace: shop}}, spec: {{clusterIP: {ip}, clusterIPs: \
         [{ip}], selector: {{app: reviews, version: {version}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n"
    )
}

#[test]
fn without_rules_requests_pass_and_are_told_of() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-plain", &["v1"])?;
    let answer = reviews.ask("/a/./b?q=1", &["x-request-id: 7", "user-agent: test"])?;
    assert_eq!((answer.status, answer.by()), (200, "v1"));
    assert_eq!(answer.report()?["target"], "/a/b?q=1");
    assert_eq!(answer.sent("x-request-id")?, ["7"]);
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    let lines = reviews.waypoint.accesses();
    let line = lines.first().expect("a line for each request");
    assert_eq!(line["response_code"], 200);
    assert_eq!(line["path"], "/a/./b?q=1");
    assert_eq!(line["downstream_identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(line["upstream_workload"], "reviews-v1");
    let metrics = reviews.waypoint.admin("/metrics")?;
    let counted = metrics.lines().find(|line| line.starts_with("istio_requests_total{"));
    let counted = counted.unwrap_or_default();
    for label in [
        "source_workload=\"web\"",
        "destination_service=\"reviews.shop.svc.cluster.local\"",
        "response_code=\"200\"",
        "reporter=\"waypoint\"",
    ] {
        ensure!(counted.contains(label), "{label} in {metrics}");
    }
    // The waypoint keeps its connection to the endpoint, which the agent there has on record as the waypoint's.
    let carried = reviews.mesh.connections("b", "carried")?;
    ensure!(
        carried.iter().any(|row| row.to_string().contains("spiffe://cluster.local/ns/shop/sa/gate")),
        "{carried:?}"
    );
    Ok(())
}

#[test]
fn a_canary_gets_its_share_and_a_user_sees_another_version() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-canary", &["v1", "v2", "v3"])?;
    let rules = "[{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews, subset: v3}}]}, \
                 {route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v2}, \
                 weight: 10}]}]";
    reviews.apply(&format!("{}{}", subsets(&["v1", "v2", "v3"]), virtual_service(rules)))?;
    for _ in 0..5 {
        assert_eq!(reviews.ask("/", &["end-user: jason"])?.by(), "v3");
    }
    let answers = reviews.crowd("/", 1000)?;
    let counts = counts(&answers);
    assert_eq!(counts.values().sum::<usize>(), 1000);
    let share = counts.get("v2 200").copied().unwrap_or_default();
    // 1,000 draws of a tenth: four standard deviations are 38.
    ensure!((62..=138).contains(&share) && counts.get("v1 200").copied() == Some(1000 - share), "{counts:?}");
    Ok(())
}

#[test]
fn paths_are_rewritten_redirected_and_answered_and_headers_changed() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-shapes", &["v1"])?;
    let rules = "[{match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: other.example}, route: [{destination: {host: \
                 reviews}, headers: {request: {add: {x-to: dest}}}}], headers: {request: {set: {x-set: rule}, remove: [x-gone]}, \
                 response: {set: {x-back: '%RESPONSE_CODE%'}}}}, \
                 {match: [{uri: {exact: /moved}}], redirect: {uri: /there, redirectCode: 308}}, \
                 {match: [{uri: {prefix: /said}}], directResponse: {status: 418, body: {string: short}}}, \
                 {match: [{uri: {regex: '/num/[0-9]+'}}], route: [{destination: {host: reviews}}]}]";
    reviews.apply(&virtual_service(rules))?;
    let answer = reviews.ask("/old/x?q=1", &["x-gone: 1", "x-set: client"])?;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.report()?["target"], "/new/x?q=1");
    assert_eq!(answer.sent("host")?, ["other.example"]);
    assert_eq!(answer.sent("x-envoy-original-path")?, ["/old/x?q=1"]);
    assert_eq!((answer.sent("x-set")?, answer.sent("x-to")?), (vec!["rule".to_owned()], vec!["dest".to_owned()]));
    assert_eq!(answer.sent("x-gone")?, [""; 0]);
    assert_eq!(answer.header("x-back"), Some("200"));
    let moved = reviews.ask("/moved?q=1", &[])?;
    assert_eq!((moved.status, moved.header("location")), (308, Some("http://10.96.0.7/there?q=1")));
    let said = reviews.ask("/said", &[])?;
    assert_eq!((said.status, said.body.as_str()), (418, "short"));
    assert_eq!(reviews.ask("/num/12", &[])?.status, 200);
    let nothing = reviews.ask("/num/12a", &[])?;
    assert_eq!((nothing.status, nothing.body.as_str()), (404, ""));
    Ok(())
}

#[test]
fn faults_timeouts_and_retries_are_as_the_rule_says() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-faults", &["v1"])?;
    let to = "route: [{destination: {host: reviews}}]";
    let rules = format!(
        "[{{match: [{{uri: {{prefix: /abort}}}}], fault: {{abort: {{httpStatus: 555, percentage: {{value: 100}}}}}}, {to}}}, \
         {{match: [{{uri: {{prefix: /late}}}}], fault: {{delay: {{fixedDelay: 300ms, percentage: {{value: 100}}}}}}, {to}}}, \
         {{match: [{{uri: {{prefix: /slow}}}}], timeout: 300ms, {to}}}, \
         {{match: [{{uri: {{prefix: /again}}}}], retries: {{attempts: 3, retryOn: 5xx}}, {to}}}, \
         {{match: [{{uri: {{prefix: /once}}}}], retries: {{attempts: 0}}, {to}}}]"
    );
    reviews.apply(&virtual_service(&rules))?;
    let abort = reviews.ask("/abort", &[])?;
    assert_eq!((abort.status, abort.body.as_str()), (555, "fault filter abort"));
    let begun = Instant::now();
    assert_eq!(reviews.ask("/late", &[])?.status, 200);
    ensure!(begun.elapsed() >= Duration::from_millis(300));
    let slow = reviews.ask("/slow?delay=2000", &[])?;
    assert_eq!((slow.status, slow.body.as_str()), (504, "upstream request timeout"));
    assert_eq!(reviews.ask("/again?status=503&first=3", &[])?.status, 200);
    assert_eq!(reviews.ask("/again?status=503&first=9", &[])?.status, 503);
    assert_eq!(reviews.ask("/again?reset=1&first=1", &[])?.status, 200);
    // A body is sent again as well.
    let again = reviews.request("/again?status=503&first=1&n=2", &[], &["--data", "hello"])?;
    assert_eq!((again.status, again.report()?["body"].as_str()), (200, Some("hello")));
    assert_eq!(reviews.ask("/once?status=503&first=1", &[])?.status, 503);
    Ok(())
}

#[test]
fn an_http_route_of_the_gateway_api_does_the_same() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-gwapi", &["v1", "v2"])?;
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: reviews, namespace: shop}, spec: \
                 {parentRefs: [{group: '', kind: Service, name: reviews, port: 80}], rules: [\
                 {matches: [{path: {type: PathPrefix, value: /v2}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: \
                 ReplacePrefixMatch, replacePrefixMatch: /}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: \
                 x-by, value: route}]}}], backendRefs: [{name: reviews-v2, port: 80}]}, \
                 {matches: [{path: {type: PathPrefix, value: /gone}}], backendRefs: [{name: nobody, port: 80}]}, \
                 {matches: [{path: {type: PathPrefix, value: /again}}], retry: {codes: [503], attempts: 3}, sessionPersistence: \
                 {sessionName: stay}, backendRefs: [{name: reviews, port: 80}]}, \
                 {backendRefs: [{name: reviews-v1, port: 80}]}]}}";
    let versions = [version("v1", "10.96.0.11"), version("v2", "10.96.0.12")].concat();
    reviews.apply(&format!("{versions}{route}"))?;
    let answer = reviews.ask("/v2/a", &[])?;
    assert_eq!((answer.status, answer.by()), (200, "v2"));
    assert_eq!(answer.report()?["target"], "/a");
    assert_eq!(answer.sent("x-by")?, ["route"]);
    // By elements of the path.
    assert_eq!(reviews.ask("/v2a", &[])?.by(), "v1");
    assert_eq!(reviews.ask("/gone", &[])?.status, 500);
    // Of the experimental channel. Each of the two endpoints fails once.
    let first = reviews.ask("/again?status=503&first=1", &[])?;
    assert_eq!(first.status, 200);
    let cookie = first.header("set-cookie").unwrap_or_default();
    ensure!(cookie.starts_with("stay="), "{first:?}");
    let sent = format!("cookie: {}", cookie.split(';').next().unwrap_or_default());
    for _ in 0..10 {
        assert_eq!(reviews.ask("/again", &[&sent])?.by(), first.by());
    }
    Ok(())
}

/// Whoever asks meanwhile is answered: by what was in force before or by all of what was written at once, never by a part of it.
#[test]
fn a_route_and_the_service_that_it_leads_to_come_and_go_together() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-together", &["v1", "v2"])?;
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: reviews, namespace: shop}, spec: \
                 {parentRefs: [{group: '', kind: Service, name: reviews, port: 80}], rules: [{backendRefs: [{name: reviews-v2, \
                 port: 80}]}]}}\n";
    let both = format!("{}{route}", version("v2", "10.96.0.12"));
    let done = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut all = Vec::new();
            while !done.load(Ordering::Relaxed) {
                all.extend(reviews.crowd("/", 200)?);
            }
            Ok::<_, anyhow::Error>(all)
        });
        let turns = (0..10).try_for_each(|_| {
            reviews.apply(&both)?;
            ensure!(reviews.ask("/", &[])?.by() == "v2", "the route leads to v2");
            reviews.apply("{apiVersion: v1, kind: Namespace, metadata: {name: empty}}")
        });
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().expect("asking does not panic");
        turns.and(asked)
    })?;
    let counts = counts(&asked);
    println!("{counts:?}");
    ensure!(counts.keys().all(|answer| answer.ends_with(" 200")), "{counts:?}");
    ensure!(["v1 200", "v2 200"].iter().all(|answer| counts.contains_key(answer)), "{counts:?}");
    Ok(())
}

#[test]
fn an_endpoint_that_fails_is_ejected_and_comes_back() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-eject", &["v1", "v2"])?;
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: reviews, namespace: shop}, spec: \
                {host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2, \
                interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50}}}}\n---\n";
    let bad = "[{match: [{headers: {x-bad: {exact: 'yes'}}}], retries: {attempts: 0}, route: [{destination: {host: reviews}}]}, \
               {retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]";
    reviews.apply(&format!("{rule}{}", virtual_service(bad)))?;
    assert_eq!(counts(&reviews.crowd("/", 20)?), BTreeMap::from([("v1 200", 10), ("v2 200", 10)]));
    // Both fail in turns until one has failed twice in a row; half of them may be ejected.
    let failed = reviews.crowd("/?status=500", 20)?;
    let after = reviews.crowd("/", 20)?;
    let after = counts(&after);
    ensure!(after.len() == 1, "one is ejected: {failed:?} {after:?}");
    until("the ejected one to come back", PATIENCE, || {
        let answers = reviews.crowd("/", 20).ok()?;
        (counts(&answers).len() == 2).then_some(())
    })
}

#[test]
fn a_change_of_rules_and_a_restart_of_the_waypoint_drop_no_request() -> Result<()> {
    needs!("curl", "h2load");
    let mut reviews = Reviews::open("l7-change", &["v1", "v2"])?;
    let rules = |share: u32| {
        let rest = 100 - share;
        virtual_service(&format!(
            "[{{route: [{{destination: {{host: reviews, subset: v1}}, weight: {share}}}, {{destination: {{host: reviews, subset: \
             v2}}, weight: {rest}}}]}}]"
        ))
    };
    reviews.apply(&format!("{}{}", subsets(&["v1", "v2"]), rules(50)))?;
    let load = |reviews: &Reviews, seconds: u32| {
        let url = format!("http://{}/", weft_tests::reviews::SERVICE);
        let launch = reviews.web.command("h2load").args(["--h1", "--clients", "8", "--duration", &seconds.to_string()]);
        launch.arg(&url).start()
    };
    let mut running = load(&reviews, 5)?;
    for share in [10, 90, 30, 70, 50] {
        reviews.apply(&format!("{}{}", subsets(&["v1", "v2"]), rules(share)))?;
    }
    running.wait_exit(Duration::from_secs(20))?;
    complete(&running.log())?;

    // A second instance takes over; the first ends in good order.
    let pod = reviews
        .mesh
        .pod("gate-2")
        .namespace("shop")
        .service_account("gate")
        .label("app", "gate")
        .label("gateway.networking.k8s.io/gateway-name", "gate")
        .label("istio.io/dataplane-mode", "none")
        .on(reviews.mesh.world.node("b"))?;
    reviews.mesh.apply("pod-shop-gate-2", &weft_tests::objects::pod(&pod))?;
    let _second = weft_tests::waypoint::launch(&reviews.mesh, &pod, "gate")?;
    reviews.settle()?;
    let mut running = load(&reviews, 4)?;
    std::thread::sleep(Duration::from_secs(1));
    // It is taken out of the service, as a pod that ends is, and then ended.
    let leaving = weft_tests::objects::pod(&reviews.waypoint.pod).replace("status: \"True\"", "status: \"False\"");
    reviews.mesh.apply("pod-shop-gate", &leaving)?;
    reviews.mesh.settle()?;
    let ended = reviews.waypoint.program.terminate()?;
    ensure!(ended.success(), "{ended}");
    running.wait_exit(Duration::from_secs(20))?;
    complete(&running.log())
}

/// What h2load says at its end has no request that failed, and thousands that did not.
fn complete(said: &str) -> Result<()> {
    let line = said.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
    let number = |name: &str| {
        let before = line.split(&[',', ':'][..]).find(|part| part.trim_end().ends_with(name)).unwrap_or_default();
        before.split_whitespace().next().and_then(|n| n.parse::<u64>().ok())
    };
    let numbers = ["succeeded", "failed", "errored", "timeout"].map(number);
    ensure!(matches!(numbers, [Some(500..), Some(0), Some(0), Some(0)]), "{said}");
    Ok(())
}

#[test]
fn limits_of_the_connection_pool_refuse_what_is_over_them() -> Result<()> {
    needs!("curl", "h2load");
    let reviews = Reviews::open("l7-limits", &["v1"])?;
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: reviews, namespace: shop}, spec: \
                {host: reviews, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2}}}}}";
    reviews.apply(rule)?;
    let url = format!("http://{}/?delay=3000", weft_tests::reviews::SERVICE);
    let load = reviews.web.command("h2load").args(["--h1", "--clients", "8", "--requests", "8"]).arg(&url).stdout()?;
    let statuses = load.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
    ensure!(statuses.contains("2 2xx") && statuses.contains("6 5xx"), "{load}");
    let lines = reviews.waypoint.accesses();
    ensure!(lines.iter().filter(|line| line["response_flags"] == "UO").count() == 6, "{lines:?}");
    Ok(())
}

#[test]
fn a_client_stays_with_its_endpoint_by_a_cookie_and_by_a_header() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-sticky", &["v1", "v1-b", "v1-c"])?;
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: reviews, namespace: shop}, spec: \
                {host: reviews, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}}";
    reviews.apply(rule)?;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let header = format!("x-user: {user}");
        let by = reviews.ask("/", &[&header])?.by().to_owned();
        assert_eq!(reviews.ask("/again", &[&header])?.by(), by);
        seen.insert(by);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    reviews.apply(&rule.replace("httpHeaderName: x-user", "httpCookie: {name: user, ttl: 60s}"))?;
    let first = reviews.ask("/", &[])?;
    let cookie = first.header("set-cookie").unwrap_or_default().to_owned();
    ensure!(cookie.starts_with("user=") && cookie.contains("Max-Age=60"), "{first:?}");
    let sent = format!("cookie: {}", cookie.split(';').next().unwrap_or_default());
    for _ in 0..10 {
        assert_eq!(reviews.ask("/", &[&sent])?.by(), first.by());
    }
    Ok(())
}

#[test]
fn a_copy_of_each_request_goes_to_the_mirror() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-mirror", &["v1", "v2"])?;
    let rules = "[{route: [{destination: {host: reviews, subset: v1}}], mirror: {host: reviews, subset: v2}}]";
    reviews.apply(&format!("{}{}", subsets(&["v1", "v2"]), virtual_service(rules)))?;
    for n in 0..5 {
        let answer = reviews.request("/m?status=503&first=1", &[], &["--data", &format!("copy {n}")])?;
        // The mirror's answer is nobody's: v1 says 503 to its first, and v2 to its own first.
        assert_eq!((answer.by(), answer.status), ("v1", if n == 0 { 503 } else { 200 }));
    }
    until("copies at the mirror", PATIENCE, || {
        let metrics = reviews.mesh.connections("b", "carried").ok()?;
        metrics.iter().any(|row| row.to_string().contains("reviews-v2")).then_some(())
    })
}
