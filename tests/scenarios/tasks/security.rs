//! Pages with httpbin and tcp-echo about security: denials, tokens, trials, other authorizers, and names of the mesh.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::needs;

use super::page::{Ask, Page, Say, get, turn};
use super::samples::APPS;
use super::stage::Stage;

fn httpbin(path: &str) -> Ask {
    get("curl", &format!("http://httpbin.foo:8000{path}"))
}

fn refused(ask: Ask) -> Ask {
    ask.status(403).body("RBAC: access denied")
}

fn denying() -> Vec<Page> {
    let admin = |ask: Ask| ask.header("x-token: admin");
    vec![
        Page::of(&["security/deny-method-get"])
            .ask(refused(httpbin("/get")))
            .ask(httpbin("/post").method("POST").status(200)),
        Page::of(&["security/deny-without-token"])
            .ask(admin(httpbin("/get")).status(200))
            .ask(refused(httpbin("/get").header("x-token: guest")))
            .ask(refused(httpbin("/get"))),
        Page::of(&["security/deny-without-token", "security/allow-path-ip"])
            .ask(refused(httpbin("/ip").header("x-token: guest")))
            .ask(admin(httpbin("/ip")).status(200))
            .ask(refused(admin(httpbin("/get")))),
        // Who is in no mesh does not get around it.
        Page::of(&["security/allow-path-ip"])
            .ask(get("curl-bar", "http://httpbin.foo:8000/ip").status(200))
            .ask(get("curl-legacy", "http://httpbin.foo:8000/ip").cut()),
    ]
}

fn connections() -> Vec<Page> {
    let echo = |client, port| Say { client, name: "tcp-echo", port };
    let heard = |page: Page, client, first: bool, second: bool| {
        let greetings = |yes: bool| if yes { &["one", "two"][..] } else { &[] };
        page.say(echo(client, 9000), greetings(first)).say(echo(client, 9001), greetings(second))
    };
    let on = |policy: &'static str| Page::of(&[policy]);
    vec![
        heard(on("security/tcp-policy"), "curl", true, true),
        // A rule with a field of HTTP allows no connection.
        heard(on("security/tcp-policy-http-field"), "curl", false, false),
        // And denies as if it had none.
        heard(on("security/tcp-policy-deny"), "curl", false, true),
        heard(heard(on("security/tcp-policy-client"), "curl", true, false), "curl-bar", false, false),
    ]
}

fn tokens(stage: &Stage) -> Result<Vec<Page>> {
    let claims = |more: Value| {
        let mut claims =
            json!({"iss": "testing@secure.istio.io", "sub": "testing@secure.istio.io", "exp": now() + 600});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    };
    let token = |more| stage.issuer.token(&claims(more));
    let plain = format!("authorization: Bearer {}", token(json!({}))?);
    let group = format!("authorization: Bearer {}", token(json!({"groups": ["group1", "group2"]}))?);
    let other = format!("authorization: Bearer {}", token(json!({"groups": ["group3"]}))?);
    let expired = format!("authorization: Bearer {}", token(json!({"exp": now() - 600}))?);
    let stranger = format!("authorization: Bearer {}", token(json!({"sub": "somebody"}))?);
    let asserted = format!("x-jwt-assertion: Token {}", token(json!({"foo": "bar"}))?);
    let headers = || httpbin("/headers");
    Ok(vec![
        Page::of(&["security/jwt-example"])
            .ask(headers().status(200))
            .ask(headers().header(&*plain).status(200).sent("authorization", &[]))
            .ask(headers().header(expired).status(401).body("Jwt is expired"))
            .ask(
                headers()
                    .header("authorization: Bearer invalidToken")
                    .status(401)
                    .body("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
            ),
        Page::of(&["security/jwt-example", "security/require-jwt"])
            .ask(headers().header("authorization: Bearer invalidToken").status(401))
            .ask(headers().header(&*plain).status(200))
            .ask(refused(headers().header(stranger)))
            .ask(refused(headers())),
        Page::of(&["security/jwt-example", "security/require-jwt-group"])
            .ask(headers().header(group).status(200))
            .ask(refused(headers().header(other)))
            .ask(refused(headers().header(&*plain))),
        Page::of(&["security/jwt-example", "security/require-jwt-path"])
            .ask(refused(headers()))
            .ask(headers().header(&*plain).status(200))
            .ask(httpbin("/ip").status(200)),
        Page::of(&["security/jwt-claims-to-headers"])
            .ask(headers().header(&*asserted).status(200).sent("x-jwt-claim-foo", &["bar"]))
            .ask(headers().header("x-jwt-claim-foo: forged").status(200).sent("x-jwt-claim-foo", &[])),
    ])
}

fn trials() -> Vec<Page> {
    vec![Page::of(&["security/dry-run-deny"]).ask(httpbin("/headers").status(200)).then(|stage| {
        let metrics = stage.waypoint.admin("/metrics")?;
        let counted = metrics.lines().find(|line| line.starts_with("weft_policy_recorded_total{"));
        let counted = counted.unwrap_or_default();
        ensure!(counted.contains("dry_run_deny") && counted.contains("foo/deny-path-headers"), "{metrics}");
        Ok(())
    })]
}

fn others() -> Vec<Page> {
    vec![
        Page::of(&["security/ext-authz-grpc"])
            .ask(httpbin("/headers").status(451).body("not without a pass"))
            .ask(httpbin("/headers").header("x-pass: yes").status(200).sent("x-let-in-by", &["authorizer"]))
            .ask(httpbin("/ip").status(200)),
        Page::of(&["security/ext-authz-http"])
            .ask(httpbin("/headers?status=403").status(403).answers("served-by", Some("ext-authz")))
            .ask(httpbin("/headers").status(200).sent("served-by", &["ext-authz"]))
            .ask(httpbin("/ip").status(200)),
    ]
}

fn domains() -> Vec<Page> {
    let both = |page: Page, expect: fn(Ask) -> Ask| {
        page.ask(expect(httpbin("/get"))).ask(expect(get("curl-bar", "http://httpbin.foo:8000/get")))
    };
    vec![
        both(Page::of(&["security/old-domain"]), |ask| ask.status(200)),
        both(Page::of(&["security/old-domain", "security/aliases"]), refused),
    ]
}

#[test]
fn httpbin_and_tcp_echo_are_guarded_as_the_pages_say() -> Result<()> {
    needs!("curl");
    let mut stage = Stage::open("tasks-security", &["a", "b"], "samples", "foo", &APPS)?;
    let pages = [denying(), connections(), tokens(&stage)?, trials(), others(), domains()];
    turn(pages.into_iter().flatten(), &mut stage)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
