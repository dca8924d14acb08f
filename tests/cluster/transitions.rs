//! Into the mesh and out of it, while pods talk and while they are replaced.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::node_binaries;
use weft_tests::wait::{PATIENCE, until};

use crate::installed::{self, Watched, client, label, pods_of, roll, server, service};
use crate::mesh::{captured, tcpdump};
use crate::nodes::{START, get};
use crate::source::definition;

/// What requests of `fresh` have in them.
const MARKER: &str = "MARKER-93ab44";
const ALL: [&str; 4] = ["fresh", "kept", "held", "stream"];
const WITHOUT_STREAM: [&str; 3] = ["fresh", "kept", "held"];

#[test]
fn a_namespace_comes_and_goes_and_pods_are_replaced_without_a_lost_byte() -> Result<()> {
    let mut cluster = installed::with_traffic(&node_binaries!())?;
    let (port, dir) = (cluster.nodes()[0].port.clone(), cluster.dir().to_owned());
    let api = cluster.api();
    for (kind, plural) in
        [("PeerAuthentication", "peerauthentications"), ("AuthorizationPolicy", "authorizationpolicies")]
    {
        api.apply(&definition("security.istio.io", kind, plural))?;
    }
    api.apply(&service("web", "10.96.7.7"))?;
    api.apply(&server("web", "node-1", 2))?;
    let all = [
        "--fresh",
        "10.96.7.7:80",
        "--kept",
        "10.96.7.7:80",
        "--held",
        "10.96.7.7:7000",
        "--stream",
        "10.96.7.7:7000",
        "--marker",
        MARKER,
    ];
    api.apply(&client("client", "node-2", &all))?;
    let client = Watched::begin(api, "client", &ALL)?;
    let begun = Instant::now();

    // In, out and in again, with one transfer across all of it.
    let plain = captured(&port, &dir.join("plain.pcap"), "tcp")?;
    ensure!(plain.contains(MARKER), "the capture does not even see what is not encrypted");
    let mut second = None;
    for (number, mode) in [Some("weft"), None, Some("weft")].into_iter().enumerate() {
        let took = changed(&port, &dir.join(format!("change-{number}.pcap")), mode.is_none(), || label(api, mode))?;
        let what =
            if mode.is_some() { "label: last request in the clear" } else { "no label: first request in the clear" };
        println!("figure: {what} {:.2} s after it", took.as_secs_f64());
        // Two seconds are promised; this machine may be building something else.
        ensure!(took < Duration::from_secs(10));
        client.goes_on(20)?;
        // What began in the clear goes on so; this begins within the mesh.
        if second.is_none() {
            let within = ["--held", "10.96.7.7:7000", "--stream", "10.96.7.7:7000"];
            api.apply(&installed::client("second", "node-2", &within))?;
            second = Some(Watched::begin(api, "second", &["held", "stream"])?);
        }
        thread::sleep(Duration::from_secs(3));
    }
    client.none_failed("labelled, not labelled, labelled")?;
    second.context("a second client")?.none_failed("labelled, not labelled, labelled")?;
    let stream = installed::fared(&client.address, "stream")?;
    println!("figure: a transfer of {} bytes went on for {:.0} s", stream.bytes, begun.elapsed().as_secs_f64());

    // Only who may, and only by the mesh. It ends what was begun in the clear.
    let web = pods_of(api, "web")?[0]["status"]["podIP"].as_str().context("an address")?.to_owned();
    ensure!(get(&web, 8080)?.contains("web"), "who is outside is not even answered without STRICT");
    api.apply(&peer_authentication())?;
    api.apply(&policy("default"))?;
    until("STRICT to hold", START, || get(&web, 8080).map_or(true, |page| page.is_empty()).then_some(()))?;
    let mut client = Watched::begin(api, "client", &WITHOUT_STREAM)?;
    client.goes_on(50)?;
    client.none_failed("STRICT, and a policy that allows the client's account")?;
    api.apply(&policy("somebody"))?;
    until("the client to be refused", PATIENCE, || {
        let before = installed::fared(&client.address, "fresh").ok()?;
        thread::sleep(Duration::from_millis(300));
        let now = installed::fared(&client.address, "fresh").ok()?;
        (now.good == before.good && now.failed > before.failed).then_some(())
    })?;
    api.apply(&policy("default"))?;
    until("the client to be answered", PATIENCE, || {
        let before = installed::fared(&client.address, "fresh").ok()?;
        thread::sleep(Duration::from_millis(300));
        let now = installed::fared(&client.address, "fresh").ok()?;
        (now.good > before.good && now.failed == before.failed).then_some(())
    })?;

    // Its servers are replaced, some in the middle of an answer.
    api.apply(&installed::client("patient", "node-2", &["--slow", "10.96.7.7:80"]))?;
    let mut patient = Watched::begin(api, "patient", &["slow"])?;
    client.goes_on(20)?;
    client.forget()?;
    patient.forget()?;
    let took = roll(api, server("web", "node-1", 2), "1")?;
    until("the pods of before to be gone", 2 * START, || (pods_of(api, "web").ok()?.len() == 2).then_some(()))?;
    client.goes_on(50)?;
    patient.goes_on(4)?;
    println!("figure: rollout of two pods took {:.1} s", took.as_secs_f64());
    for manner in ["fresh", "kept"] {
        let failed = client.failed(manner, "rollout restart")?;
        ensure!(failed == 0, "{manner}: {:?}", installed::fared(&client.address, manner)?);
    }
    // Connections without end break with their pod, as they do without a mesh.
    client.failed("held", "rollout restart")?;
    patient.none_failed("rollout restart: the last bytes of answers")
}

/// Does `change` and waits until requests are seen on the link, or are no longer; yields how long that took.
fn changed(port: &str, file: &Path, plain: bool, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let mut capture = tcpdump(port, file, &["tcp and not port 8081"]).spawn()?;
    // Until it sees what there is.
    thread::sleep(Duration::from_millis(300));
    change()?;
    let begun = Instant::now();
    let mut last = begun.elapsed();
    let mut seen = 0;
    let done = until("the link to change", START, || {
        let bytes = fs::read(file).unwrap_or_default();
        let found = bytes.windows(MARKER.len()).filter(|window| *window == MARKER.as_bytes()).count();
        if found > seen {
            seen = found;
            last = begun.elapsed();
        }
        // Requests come every ten milliseconds: two seconds without one are the end of it.
        let done = if plain { found > 0 } else { begun.elapsed() > last + Duration::from_secs(2) };
        done.then_some(())
    });
    capture.kill()?;
    capture.wait()?;
    done?;
    Ok(last)
}

pub(crate) fn peer_authentication() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}},
    })
}

/// Lets in one service account of `default`.
pub(crate) fn policy(account: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/default/sa/{account}")]}}]}],
        },
    })
}
