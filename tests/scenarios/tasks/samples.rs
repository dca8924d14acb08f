//! Pages with httpbin and tcp-echo about traffic: shares of connections, circuit breaking, ejection, mirroring.

use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::needs;

use super::page::{Page, Say, get, turn};
use super::stage::{App, OUTSIDE, Serves, Stage};

const fn app(
    app: &'static str,
    version: &'static str,
    namespace: &'static str,
    node: &'static str,
    serves: Serves,
) -> App {
    App { app, version, namespace, account: app, node, serves }
}

/// Those of the security pages, too. Clients of the name `curl` differ by their version.
pub(super) const APPS: [App; 8] = [
    app("curl", "", "foo", "a", Serves::Nothing),
    app("curl", "bar", "bar", "a", Serves::Nothing),
    app("curl", "legacy", OUTSIDE, "a", Serves::Nothing),
    app("httpbin", "v1", "foo", "b", Serves::Http(8080)),
    app("httpbin", "v2", "foo", "b", Serves::Http(8080)),
    app("tcp-echo", "one", "foo", "b", Serves::Greets(&[9000, 9001])),
    app("tcp-echo", "two", "foo", "b", Serves::Greets(&[9000, 9001])),
    app("ext-authz", "", "foo", "b", Serves::Authorizes),
];

const ECHO: Say = Say { client: "curl", name: "tcp-echo", port: 9000 };

fn connections() -> Vec<Page> {
    let fifth = [("one", 80), ("two", 20)];
    vec![
        Page::of(&["traffic/tcp-v1"]).greetings(ECHO, 20, &[("one", 100)]),
        Page::of(&["traffic/tcp-20-v2"]).greetings(ECHO, 200, &fifth),
        Page::of(&["traffic/tcp-20-v2-gateway-api"]).greetings(ECHO, 200, &fifth),
    ]
}

/// Statuses of so many requests at once, as h2load counts them: 2xx, 3xx, 4xx, 5xx.
fn rush(stage: &Stage, clients: usize) -> Result<[usize; 4]> {
    let url = format!("http://{}:8000/?delay=400", stage.ip("httpbin")?);
    let count = clients.to_string();
    let said = stage
        .pod("curl")
        .command("h2load")
        .args(["--h1", "--clients", &count, "--requests", &count])
        .arg(url)
        .stdout()?;
    let line = said.lines().find_map(|line| line.strip_prefix("status codes:")).unwrap_or_default();
    let mut counts = line.split(',').filter_map(|part| part.split_whitespace().next()?.parse().ok());
    Ok(std::array::from_fn(|_| counts.next().unwrap_or_default()))
}

fn breaking() -> Vec<Page> {
    let url = |query: &str| format!("http://httpbin:8000/{query}");
    vec![
        Page::of(&["traffic/circuit-breaking"])
            .ask(get("curl", &url("get")).by(&["httpbin-v1"]).times(3))
            .then(|stage| {
                // One at each worker, and one that waits; who comes while a connection is being made waits, too.
                let cores = available_parallelism()?.get();
                let clients = 2 * cores + 4;
                let counts = rush(stage, clients)?;
                let [answered, _, _, refused] = counts;
                ensure!((1..=cores + 1).contains(&answered) && answered + refused == clients, "2xx .. 5xx: {counts:?}");
                let lines = stage.waypoint.accesses();
                let over = lines.iter().filter(|line| line["response_flags"] == "UO").count();
                ensure!(over == refused, "{over} of {refused}: {lines:?}");
                Ok(())
            })
            .ask(get("curl", &url("get")).by(&["httpbin-v1"])),
        Page::of(&["traffic/outlier-detection"])
            .ask(get("curl", &url("get?status=500")).status(500).times(2))
            .ask(get("curl", &url("get")).status(503).body("no healthy upstream").times(3)),
    ]
}

fn mirroring() -> Vec<Page> {
    // A backend says 418 to the first six that ask for the same.
    let copied = |page: Page, path: &'static str| {
        let target = format!("/{path}?status=418&first=6");
        let ask = get("curl", &format!("http://httpbin:8000{target}"));
        let mirror = get("curl", &format!("http://httpbin-v2{target}"));
        page.ask(ask.status(418).answers("served-by", Some("httpbin-v1")).times(5))
            .then(|_| {
                sleep(UNDER_WAY);
                Ok(())
            })
            // There have been five copies: this is the sixth, and the next one the seventh.
            .ask(mirror.clone().status(418))
            .ask(mirror.by(&["httpbin-v2"]))
    };
    vec![
        copied(Page::of(&["traffic/mirroring"]), "mirrored"),
        copied(Page::of(&["traffic/mirroring-gateway-api"]), "mirrored-too"),
    ]
}

#[test]
fn httpbin_and_tcp_echo_do_as_the_pages_say() -> Result<()> {
    needs!("curl", "h2load");
    let mut stage = Stage::open("tasks-samples", &["a", "b"], "samples", "foo", &APPS)?;
    let pages = [connections(), mirroring(), breaking()];
    turn(pages.into_iter().flatten(), &mut stage)
}

/// Within which a copy has come, and then some.
const UNDER_WAY: Duration = Duration::from_millis(300);
