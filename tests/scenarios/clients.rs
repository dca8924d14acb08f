//! Clients that people use, by their own libraries, through a waypoint: gRPC of Google's C core (Python) and of Go, WebSocket,
//! and what a browser says for gRPC.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::binaries::Binaries;
use weft_tests::place::Place;
use weft_tests::program::Launch;
use weft_tests::reviews::{Reviews, SERVICE, virtual_service};
use weft_tests::{apps, needs};
use xtask::download::CLIENTS;

/// What the calls of both clients ask for by name.
const RULES: &str = "[{match: [{headers: {x-late: {exact: '1'}}}], fault: {delay: {fixedDelay: 2s, percentage: {value: 100}}}, route: \
                     [{destination: {host: reviews, port: {number: 9000}}}]}, \
                     {match: [{headers: {x-abort: {exact: '1'}}}], fault: {abort: {grpcStatus: ABORTED, percentage: {value: 100}}}, \
                     route: [{destination: {host: reviews, port: {number: 9000}}}]}, \
                     {route: [{destination: {host: reviews}}]}]";
const DENY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: secret, namespace: shop}, spec: \
                    {targetRefs: [{kind: Service, group: '', name: reviews}], action: DENY, rules: [{to: [{operation: {paths: \
                    [/weft.test.Secret/*]}}]}]}}\n---\n";

fn python(place: &Place, script: &str) -> Launch {
    let script = format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    place.command("python3").arg("-u").arg(script).env("PYTHONPATH", CLIENTS.dir())
}

fn guarded(name: &str) -> Result<Reviews> {
    let reviews = Reviews::open(name, &["v1"])?;
    reviews.apply(&format!("{}{DENY}", virtual_service(RULES)))?;
    Ok(reviews)
}

#[test]
fn grpc_of_python_has_its_calls_statuses_and_deadlines() -> Result<()> {
    needs!("curl", "python3", "grpcio and websockets");
    let reviews = guarded("l7-python")?;
    let _server = apps::grpc(&reviews.versions[0], 9000)?;
    let said = python(&reviews.web, "grpc_calls.py").arg(format!("{SERVICE}:9000")).stdout()?;
    let said: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
    let late = said["late"].as_str().unwrap_or_default();
    ensure!(late.starts_with("DEADLINE_EXCEEDED"), "{said}");
    let expected = json!({
        "unary": true, "turns": true, "metadata": "istio-envoy", "late": late, "aborted": "ABORTED: fault filter abort",
        "denied": "PERMISSION_DENIED: RBAC: access denied", "unknown": "UNIMPLEMENTED: no such method", "after": true,
    });
    assert_eq!(said, expected);
    Ok(())
}

#[test]
fn grpc_of_go_has_the_same() -> Result<()> {
    needs!("curl");
    let Some(calls) = Binaries::grpc_calls() else {
        println!(
            "skipped: {}:{}: needs grpc-calls, which `cargo xtask cluster build` builds with Go",
            module_path!(),
            line!()
        );
        return Ok(());
    };
    let reviews = guarded("l7-go")?;
    let _server = apps::grpc(&reviews.versions[0], 9000)?;
    let said = reviews.web.command(&calls.display().to_string()).arg(format!("{SERVICE}:9000")).stdout()?;
    let said: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
    let late = said["late"].as_str().unwrap_or_default();
    ensure!(late.starts_with("DeadlineExceeded"), "{said}");
    let expected = json!({
        "unary": "OK: ", "turns": "OK: ", "late": late, "aborted": "Aborted: fault filter abort",
        "denied": "PermissionDenied: RBAC: access denied", "unknown": "Unimplemented: no such method",
    });
    assert_eq!(said, expected);
    Ok(())
}

#[test]
fn a_web_socket_carries_messages_of_both_kinds_and_closes_in_order() -> Result<()> {
    needs!("curl", "python3", "grpcio and websockets");
    let reviews = guarded("l7-socket")?;
    let place: &Place = &reviews.versions[0];
    let mut server = python(place, "websocket.py").args(["serve", "7000"]).start()?;
    server.wait_listens(7000)?;
    let said = python(&reviews.web, "websocket.py").args(["call", &format!("ws://{SERVICE}:7000/")]).stdout()?;
    assert_eq!(said.trim(), "100 messages, closed with 1000");
    let lines = reviews.waypoint.accesses();
    ensure!(lines.iter().any(|line| line["response_code"] == 101), "{lines:?}");
    Ok(())
}

#[test]
fn what_browsers_say_for_grpc_passes_untouched() -> Result<()> {
    needs!("curl");
    let reviews = guarded("l7-grpc-web")?;
    // A frame with no compression of three bytes, in base64 as `grpc-web-text` has it.
    let body = "AAAAAAMKAXg=";
    let headers = ["content-type: application/grpc-web-text", "x-grpc-web: 1"];
    let answer = reviews.request("/weft.test.Echo/Who", &headers, &["--data", body])?;
    assert_eq!((answer.status, answer.by()), (200, "v1"));
    assert_eq!(answer.report()?["body"], body);
    assert_eq!(answer.sent("content-type")?, ["application/grpc-web-text"]);
    assert_eq!(answer.sent("x-grpc-web")?, ["1"]);
    // It is no gRPC to a proxy: what is refused is refused in HTTP's words.
    let denied = reviews.request("/weft.test.Secret/Who", &headers, &["--data", body])?;
    assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
    assert_eq!(denied.header("grpc-status"), None);
    Ok(())
}
