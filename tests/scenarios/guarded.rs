//! Who may ask what at a service with a waypoint, and that nothing goes around it.

use std::io::{ErrorKind, Read, Write};
use std::time::SystemTime;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::apps;
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::outcome::{Outcome, ask};
use weft_tests::program::built;
use weft_tests::reviews::{GATE, Reviews, SERVICE, virtual_service};
use weft_tests::tokens::Issuer;
use weft_tests::wait::{PATIENCE, until};

const AT_SERVICE: &str = "targetRefs: [{group: '', kind: Service, name: reviews}]";

#[test]
fn methods_paths_and_clients_are_told_apart() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-policy", &["v1"])?;
    let policy = security(
        "AuthorizationPolicy",
        "shop",
        "reviews",
        &format!(
            "{{{AT_SERVICE}, action: ALLOW, rules: [{{from: [{{source: {{principals: \
             [cluster.local/ns/shop/sa/web]}}}}], to: [{{operation: {{methods: [GET], paths: ['/public/*', '/users/{{*}}/name'], \
             notPaths: ['/public/no']}}}}]}}]}}"
        ),
    );
    reviews.apply(&policy)?;
    for (path, method, status) in [
        ("/public/a", "GET", 200),
        ("/public/a", "POST", 403),
        ("/public/no", "GET", 403),
        ("/public/../secret", "GET", 403),
        ("/%70ublic/a", "GET", 200),
        ("/users/7/name", "GET", 200),
        ("/users/7/x/name", "GET", 403),
        ("/", "GET", 403),
    ] {
        let answer = reviews.request(path, &[], &["--request", method])?;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.body, "RBAC: access denied");
        }
    }
    let lines = reviews.waypoint.accesses();
    let denied = lines.iter().find(|line| line["response_code"] == 403).expect("a line");
    ensure!(denied["response_code_details"].as_str().is_some_and(|why| why.contains("rbac_access_denied")), "{denied}");
    // A DENY wins, also over what an ALLOW lets in.
    let deny = security(
        "AuthorizationPolicy",
        "shop",
        "no-admin",
        &format!(
            "{{{AT_SERVICE}, action: DENY, rules: [{{when: [{{key: 'request.headers[x-role]', values: [admin]}}]}}]}}"
        ),
    );
    reviews.apply(&format!("{policy}---\n{deny}"))?;
    assert_eq!(reviews.ask("/public/a", &["x-role: admin"])?.status, 403);
    assert_eq!(reviews.ask("/public/a", &["x-role: user"])?.status, 200);
    Ok(())
}

#[test]
fn nothing_goes_around_a_waypoint() -> Result<()> {
    needs!("curl");
    let mut reviews = Reviews::open("l7-around", &["v1"])?;
    assert_eq!(reviews.ask("/", &[])?.status, 200);
    // Without an instance, requests are refused: it could be there to refuse them.
    reviews.waypoint.program.kill()?;
    assert_eq!(ask(&reviews.web, (SERVICE.parse::<std::net::IpAddr>()?, 80).into()), Outcome::Reset);
    reviews.mesh.agent("a").until_access(&["\"connect_refused\""])?;
    Ok(())
}

#[test]
fn a_workload_with_a_waypoint_is_reached_through_it_alone() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-workload", &["v1"])?;
    let label = "istio.io/use-waypoint: \"all\"";
    let all = weft_tests::waypoint::Waypoint::start(&reviews.mesh, "shop", "all", "b", "all", "10.96.0.19".parse()?)?;
    let pod = &reviews.versions[0];
    let labelled = weft_tests::objects::pod(pod).replacen("labels:", &format!("labels:\n    {label}"), 1);
    reviews.mesh.apply("pod-shop-reviews-v1", &labelled)?;
    let url = format!("http://{}/by-pod", pod.at(8080));
    let mut last = String::new();
    until("a request to the pod's own address by the waypoint", PATIENCE, || {
        let said = apps::curl(&reviews.web).arg(&url).stdout().ok()?;
        last = all.accesses().iter().map(ToString::to_string).collect();
        (said.contains("/by-pod") && last.contains("/by-pod")).then_some(())
    })?;
    // A client that no agent takes to the waypoint is turned away by the destination's.
    let outside = reviews.mesh.world.outside();
    let mut said = String::new();
    match outside.dial(pod.at(8080)) {
        Ok(mut stream) => {
            // It may have been reset already.
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_string(&mut said);
        }
        // Before the client was told that it is open.
        Err(error) => ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}"),
    }
    assert_eq!(said, "", "from outside of the mesh");
    reviews.mesh.agent("b").until_access(&["\"waypoint_required\""])?;
    Ok(())
}

#[test]
fn other_protocols_pass_a_waypoint() -> Result<()> {
    needs!("curl", "redis-server", "redis-cli", "nghttp");
    let reviews = Reviews::open("l7-protocols", &["v1"])?;
    let pod = &reviews.versions[0];
    let ip = SERVICE.parse()?;
    let _redis = apps::redis(pod)?;
    assert_eq!(apps::redis_cli(&reviews.web, ip, &["SET", "key", "7"])?, "OK");
    let _grpc = apps::grpc(pod, 9000)?;
    let called = reviews.web.command(&built("grpc")?).args(["call", &format!("{SERVICE}:9000")]).stdout()?;
    ensure!(called.contains("100"), "{called}");
    let lines = reviews.waypoint.accesses();
    ensure!(lines.iter().any(|line| line["protocol"] == "HTTP/2" && line["grpc_status"] == "0"), "{lines:?}");
    // Nobody has said what port 7000 speaks: HTTP or not is told by the first bytes, and a server that speaks first is heard.
    let _greet = apps::probe(pod, "greet", 7000, &["--greeting", "hello"])?;
    let said = reviews.web.command(&built("probe")?).args(["say", &format!("{SERVICE}:7000"), "x\n"]).stdout()?;
    ensure!(said.starts_with("hello"), "{said:?}");
    let h2 = reviews.request("/h2", &[], &["--http2-prior-knowledge"])?;
    assert_eq!((h2.status, h2.report()?["version"].as_str()), (200, Some("HTTP/1.1")));
    ensure!(GATE.is_ipv4());
    reviews.apply(&virtual_service("[{route: [{destination: {host: reviews}}]}]"))?;
    assert_eq!(reviews.request("/h2", &[], &["--http2-prior-knowledge"])?.status, 200);
    Ok(())
}

#[test]
fn tokens_are_checked_and_their_claims_decide() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-jwt", &["v1"])?;
    let issuer = Issuer::new()?;
    let spec = format!(
        "{{{AT_SERVICE}, jwtRules: [{{issuer: 'https://issuer.test', jwks: '{}', outputClaimToHeaders: [{{header: x-group, claim: \
         group}}]}}]}}",
        issuer.keys()
    );
    let authentication = security("RequestAuthentication", "shop", "tokens", &spec);
    reviews.apply(&authentication)?;
    let claims = |group: &str, seconds: i64| json!({"iss": "https://issuer.test", "sub": "ann", "group": group, "exp": now() + seconds});
    let bearer = |claims: &Value| issuer.token(claims).map(|token| format!("authorization: Bearer {token}"));
    let good = bearer(&claims("staff", 600))?;
    assert_eq!(reviews.ask("/", &[])?.status, 200, "without a token it passes as nobody");
    let answer = reviews.ask("/", &[&good, "x-group: forged"])?;
    assert_eq!((answer.status, answer.sent("x-group")?), (200, vec!["staff".to_owned()]));
    assert_eq!(answer.sent("authorization")?, [""; 0], "the token does not go on");
    let expired = reviews.ask("/", &[&bearer(&claims("staff", -600))?])?;
    assert_eq!((expired.status, expired.body.as_str()), (401, "Jwt is expired"));
    ensure!(expired.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer realm=")), "{expired:?}");
    let forged = Issuer::new()?.token(&claims("staff", 600))?;
    assert_eq!(reviews.ask("/", &[&format!("authorization: Bearer {forged}")])?.status, 401);

    let policy = security(
        "AuthorizationPolicy",
        "shop",
        "staff",
        &format!(
            "{{{AT_SERVICE}, action: ALLOW, rules: [{{from: [{{source: {{requestPrincipals: ['https://issuer.test/ann']}}}}], \
             when: [{{key: 'request.auth.claims[group]', values: [staff]}}]}}]}}"
        ),
    );
    reviews.apply(&format!("{authentication}---\n{policy}"))?;
    assert_eq!(reviews.ask("/", &[])?.status, 403);
    assert_eq!(reviews.ask("/", &[&good])?.status, 200);
    assert_eq!(reviews.ask("/", &[&bearer(&claims("guests", 600))?])?.status, 403);
    Ok(())
}

/// Authorizers by the mesh's own configuration: one over HTTP, which is a backend that says what it was told to, and one over gRPC.
#[test]
fn authorizers_of_the_meshs_configuration_are_asked() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-custom", &["v1"])?;
    let mesh = &reviews.mesh;
    let guard = mesh.enrolled(mesh.pod("guard").namespace("shop"), "b")?;
    let _http = apps::backend(&guard, 8080, "guard")?;
    let _grpc = apps::authorizer(&guard, 9000)?;
    mesh.until_captured(&guard)?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: guard, namespace: shop}, spec: {clusterIP: 10.96.0.17, clusterIPs: \
                   [10.96.0.17], selector: {app: guard}, ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 9000}]}}\n---\n";
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
                  extensionProviders:\n    - name: by-http\n      envoyExtAuthzHttp:\n        service: guard.shop.svc.cluster.local\n        \
                  port: 80\n        headersToUpstreamOnAllow: [served-by]\n        headersToDownstreamOnDeny: [served-by]\n    - name: by-grpc\n      \
                  envoyExtAuthzGrpc: {service: shop/guard.shop.svc.cluster.local, port: 9000, statusOnError: '503'}\n---\n";
    let ask = |provider: &str| {
        let spec = format!(
            "{{{AT_SERVICE}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/guarded*]}}}}]}}]}}"
        );
        reviews.apply(&format!("{service}{config}{}", security("AuthorizationPolicy", "shop", "ask", &spec)))
    };
    ask("by-http")?;
    let passed = reviews.ask("/guarded", &[])?;
    assert_eq!((passed.by(), passed.sent("served-by")?), ("v1", vec!["guard".to_owned()]));
    let denied = reviews.ask("/guarded?status=402", &[])?;
    assert_eq!((denied.status, denied.by()), (402, "guard"));
    assert_eq!(reviews.ask("/open?status=402", &[])?.by(), "v1", "nobody was asked about this");

    ask("by-grpc")?;
    let passed = reviews.ask("/guarded", &["x-pass: yes"])?;
    assert_eq!((passed.status, passed.sent("x-let-in-by")?), (200, vec!["authorizer".to_owned()]));
    let denied = reviews.ask("/guarded", &[])?;
    assert_eq!((denied.status, denied.body.as_str()), (451, "not without a pass"));
    let line = reviews.waypoint.accesses().into_iter().rev().find(|line| line["response_code"] == 451).expect("a line");
    assert_eq!(line["response_flags"], "UAEX");

    ask("nobody")?;
    assert_eq!(reviews.ask("/guarded", &["x-pass: yes"])?.status, 403, "nobody can be asked");
    assert_eq!(reviews.ask("/open", &[])?.status, 200);
    Ok(())
}

/// A policy that selects the pods, and knows nothing of a waypoint, means the same with one.
#[test]
fn policies_of_the_workload_are_about_the_client_also_behind_a_waypoint() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-selector", &["v1"])?;
    let allow = |who: &str| {
        security(
            "AuthorizationPolicy",
            "shop",
            "reviews",
            &format!(
                "{{selector: {{matchLabels: {{app: reviews}}}}, action: ALLOW, rules: [{{from: [{{source: {{principals: \
                 [cluster.local/ns/shop/sa/{who}]}}}}]}}]}}"
            ),
        )
    };
    reviews.apply(&allow("web"))?;
    assert_eq!(reviews.ask("/", &[])?.status, 200, "the client is let in, and so is the waypoint that asks for it");
    reviews.apply(&allow("somebody-else"))?;
    assert_eq!(reviews.ask("/", &[])?.status, 403);
    let deny = allow("web").replace("action: ALLOW", "action: DENY");
    reviews.apply(&deny)?;
    assert_eq!(reviews.ask("/", &[])?.status, 403);
    // By the pod's own address, around the service, the agent asks it.
    assert_eq!(ask(&reviews.web, reviews.versions[0].at(8080)), Outcome::Reset);
    Ok(())
}

/// What a waypoint has not asked, the endpoint's agent does, about the waypoint.
#[test]
fn a_rule_that_leads_to_another_service_opens_nothing_there() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-elsewhere", &["v1"])?;
    let mesh = &reviews.mesh;
    let ratings = mesh.enrolled(mesh.pod("ratings").namespace("shop"), "b")?;
    let _backend = apps::backend(&ratings, 8080, "ratings")?;
    mesh.until_captured(&ratings)?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: ratings, namespace: shop, labels: {istio.io/use-waypoint: gate}}, \
                   spec: {clusterIP: 10.96.0.17, clusterIPs: [10.96.0.17], selector: {app: ratings}, ports: [{name: http, port: 80, \
                   targetPort: 8080}]}}\n---\n";
    let rules = format!("{service}{}", virtual_service("[{route: [{destination: {host: ratings}}]}]"));
    reviews.apply(&rules)?;
    let answer = reviews.ask("/", &[])?;
    assert_eq!((answer.status, answer.by()), (200, "ratings"));
    let allow = security(
        "AuthorizationPolicy",
        "shop",
        "ratings",
        "{selector: {matchLabels: {app: ratings}}, action: ALLOW, rules: [{from: [{source: {principals: \
         [cluster.local/ns/shop/sa/nobody]}}]}]}",
    );
    reviews.apply(&format!("{rules}---\n{allow}"))?;
    until("the waypoint to be turned away", PATIENCE, || (reviews.ask("/", &[]).ok()?.status == 503).then_some(()))
}

/// The usual way of the Gateway API to lead to a version: by a Service of its own. The pods are of the service that was asked for.
#[test]
fn a_rule_that_leads_to_a_version_by_a_service_of_its_own_is_under_the_policies_about_the_client() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-version", &["v1", "v2"])?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: reviews-v2, namespace: shop}, spec: {clusterIP: 10.96.0.18, \
                   clusterIPs: [10.96.0.18], selector: {app: reviews, version: v2}, ports: [{name: http, port: 80, targetPort: 8080}]}}";
    let allow = |who: &str| {
        let spec = format!(
            "{{selector: {{matchLabels: {{app: reviews}}}}, action: ALLOW, rules: [{{from: [{{source: {{principals: \
             [cluster.local/ns/shop/sa/{who}]}}}}]}}]}}"
        );
        let policy = security("AuthorizationPolicy", "shop", "reviews", &spec);
        format!("{service}\n---\n{}\n---\n{policy}", virtual_service("[{route: [{destination: {host: reviews-v2}}]}]"))
    };
    reviews.apply(&allow("web"))?;
    let answer = reviews.ask("/", &[])?;
    assert_eq!((answer.status, answer.by()), (200, "v2"));
    reviews.apply(&allow("somebody-else"))?;
    assert_eq!(reviews.ask("/", &[])?.status, 403);
    Ok(())
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
