//! Weft on two nodes, installed by its manifest.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use weft_tests::node_binaries;
use weft_tests::wait::until;

use crate::nodes::{START, address, get, pod};
use crate::source::definition;
use crate::{admission, installed};

/// What the client says in every request.
const MARKER: &str = "MARKER-5a7e1d";

#[test]
fn a_label_on_a_namespace_encrypts_what_its_running_pods_say_and_no_request_fails() -> Result<()> {
    let mut cluster = installed::begin(&node_binaries!())?;
    let (port, dir) = (cluster.nodes()[0].port.clone(), cluster.dir().to_owned());
    let api = cluster.api();
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.7.7", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))?;
    api.apply(&pod("web", "node-1", "echo hello >/index.html; exec httpd -f -p 8080 -h /"))?;
    let web = address(api, "web")?;
    until("the server", START, || get(&web, 8080).ok())?;
    let ask = format!("[ \"$(timeout 5 wget -qO- 'http://10.96.7.7/?{MARKER}')\" = hello ]");
    // kube-proxy needs a moment for the Service; from then on every answer counts.
    let script = format!(
        "mkdir /www; until {ask}; do sleep 0.1; done; httpd -p 8081 -h /www; good=0; bad=0; \
         while :; do if {ask}; then good=$((good + 1)); else bad=$((bad + 1)); fi; \
         echo \"$good $bad\" >/www/index.html; sleep 0.02; done"
    );
    api.apply(&pod("client", "node-2", &script))?;
    let client = address(api, "client")?;
    until("the client's first answers", START, || answers(&client).ok().filter(|(good, _)| *good > 0))?;
    installed::ready(api)?;

    let plain = captured(&port, &dir.join("plain.pcap"), "tcp")?;
    ensure!(plain.contains(MARKER), "the capture does not even see what is not encrypted");

    // The one packet that it waits for: something between agents.
    let mut first = tcpdump(&port, &dir.join("first.pcap"), &["-c", "1", "tcp port 15008"]).spawn()?;
    thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "default", "labels": {"istio.io/dataplane-mode": "weft"}},
    }))?;
    let said = until("something to be said between agents", START, || first.try_wait().ok().flatten());
    if said.is_err() {
        first.kill()?;
    }
    said.with_context(|| format!("{:?}", answers(&client)))?;
    let after = begun.elapsed();
    println!("figure: the first packet between agents {:.2} s after the label", after.as_secs_f64());
    // Two seconds are promised; this machine may be building something else.
    ensure!(after < Duration::from_secs(10));

    let before = answers(&client)?;
    let mesh = captured(&port, &dir.join("mesh.pcap"), "tcp and not port 8081")?;
    let now = answers(&client)?;
    ensure!(now.0 > before.0, "no answers any more: {before:?} {now:?}");
    ensure!(!mesh.contains(MARKER), "a request crossed the link as it was");
    ensure!(now.1 == 0, "{} of {} requests failed", now.1, now.0 + now.1);
    println!("figure: {} requests, none failed", now.0);

    // The API server finds the webhook by its Service, and trusts it by the roots that the leader wrote.
    api.apply(&definition("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"))?;
    admission::wait_refused(api, &admission::broken("default"))
}

/// How many requests of the client were answered, and how many were not.
fn answers(client: &str) -> Result<(u32, u32)> {
    // The client writes its page anew all the time, and it may be read while it is empty.
    let numbers = || {
        let page = get(client, 8081).ok()?;
        let (good, bad) = page.lines().last()?.split_once(' ')?;
        Some((good.parse().ok()?, bad.trim().parse().ok()?))
    };
    until("two numbers", Duration::from_secs(2), numbers)
}

/// What crosses `port` in three seconds, every byte that is no text left out.
pub(crate) fn captured(port: &str, file: &Path, filter: &str) -> Result<String> {
    let mut tcpdump = tcpdump(port, file, &[filter]).spawn()?;
    thread::sleep(Duration::from_secs(3));
    tcpdump.kill()?;
    tcpdump.wait()?;
    let bytes = fs::read(file)?;
    if bytes.len() < 1000 {
        bail!("nothing was captured on {port}");
    }
    Ok(bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' }).collect())
}

pub(crate) fn tcpdump(port: &str, file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("tcpdump");
    command.args(["--immediate-mode", "-U", "-Z", "root", "-ni", port, "-w"]).arg(file);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
