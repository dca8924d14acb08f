//! What operators see: readiness, metrics, views, logs, and mistakes in settings.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::pod::Pod;
use weft_tests::program::{Program, built};
use weft_tests::topology::Topology;
use weft_tests::wait::{PATIENCE, until};

#[test]
fn metrics_have_istios_names_and_labels_and_count_every_byte() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("admin_metrics", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    let client = shop.dial()?;
    for (node, reporter) in [("a", "source"), ("b", "destination")] {
        // Live, and at the first question.
        let metrics = Metrics::of(&mesh, node)?;
        let labels = metrics.only("istio_tcp_connections_opened_total", reporter)?;
        assert_eq!(labels.keys().map(String::as_str).collect::<BTreeSet<_>>(), LABELS.into_iter().collect());
        let expected = [
            ("source_workload", "web"),
            ("source_workload_namespace", "shop"),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
            ("source_app", "web"),
            ("source_canonical_service", "web"),
            ("source_cluster", "Kubernetes"),
            ("destination_workload", "db"),
            ("destination_workload_namespace", "shop"),
            ("destination_principal", "spiffe://cluster.local/ns/shop/sa/db"),
            ("destination_app", "db"),
            ("destination_canonical_service", "db"),
            ("destination_cluster", "Kubernetes"),
            ("request_protocol", "tcp"),
            ("response_flags", "-"),
            ("connection_security_policy", "mutual_tls"),
            ("destination_service", "db.shop.svc.cluster.local"),
            ("destination_service_name", "db"),
            ("destination_service_namespace", "shop"),
        ];
        for (label, value) in expected {
            assert_eq!(labels[label], value, "{label} at node {node}");
        }
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", reporter), 1);
        assert_eq!(metrics.sum("istio_tcp_connections_closed_total", reporter), 0);
        // The client may have the last bytes a moment before they are counted.
        until("every byte to be counted, live", PATIENCE, || {
            let metrics = Metrics::of(&mesh, node).ok()?;
            let sum = |name| metrics.sum(name, reporter);
            (sum("istio_tcp_received_bytes_total") == SENT && sum("istio_tcp_sent_bytes_total") == SENT).then_some(())
        })
        .with_context(|| format!("at node {node}"))?;
    }
    drop(client);
    for (node, reporter) in [("a", "source"), ("b", "destination")] {
        let metrics = until("the connection to be closed", PATIENCE, || {
            let metrics = Metrics::of(&mesh, node).ok()?;
            (metrics.sum("istio_tcp_connections_closed_total", reporter) == 1).then_some(metrics)
        })?;
        assert_eq!(metrics.sum("istio_tcp_received_bytes_total", reporter), SENT);
        assert_eq!(metrics.sum("istio_tcp_sent_bytes_total", reporter), SENT);
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", reporter), 1);
        // What the pod has cost.
        let (text, pod) = (mesh.admin(node, "/metrics")?, if node == "a" { "web" } else { "db" });
        let figure = |name: &str| {
            let series = format!("{name}{{namespace=\"shop\",pod=\"{pod}\"}} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&series)).with_context(|| series.clone())?;
            found.parse::<f64>().context(series)
        };
        assert_eq!(figure("weft_pod_transmit_bytes_total")? as u64, SENT);
        assert_eq!(figure("weft_pod_receive_bytes_total")? as u64, SENT);
        let seconds = figure("weft_pod_worker_seconds_total")?;
        assert!((1e-6..10.0).contains(&seconds), "{seconds} s of a worker");
    }
    // Who has nothing to carry looks for nothing.
    let looked = |node| -> Result<String> {
        let metrics = mesh.admin(node, "/metrics")?;
        let found = metrics.lines().find_map(|line| line.strip_prefix("weft_worker_busy_poll_seconds_total "));
        Ok(found.context("no weft_worker_busy_poll_seconds_total")?.to_owned())
    };
    for node in ["a", "b"] {
        let before = until("the worker to sleep", PATIENCE, || {
            let (before, after) = (looked(node).ok()?, looked(node).ok()?);
            (before == after).then_some(after)
        })?;
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(looked(node)?, before);
    }
    Ok(())
}

#[test]
fn the_views_show_what_is_believed_and_what_is_live() -> Result<()> {
    needs!("curl");
    let mesh = Mesh::with_nodes("admin_views", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    assert_eq!(mesh.admin("a", "/healthz/ready")?, "ready\n");
    let config: Value = serde_json::from_str(&mesh.admin("a", "/config")?)?;
    assert_eq!(config["node"], "a");
    assert_eq!(config["control"]["connected"], true);
    let certificates = config["certificates"].as_array().context("certificates")?;
    assert_eq!(certificates.len(), 1, "of pods on this node alone: {certificates:?}");
    assert_eq!(certificates[0]["identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(certificates[0]["state"], "available");
    let names = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|entry| entry["name"].to_string()).collect()
    };
    assert_eq!(names(&config["workloads"]), ["\"db\"", "\"web\""]);
    assert_eq!(names(&config["services"]), ["\"db\""]);

    let client = shop.dial()?;
    for (node, direction) in [("a", "outbound"), ("b", "inbound")] {
        let all = mesh.connections(node, "carried")?;
        let [one] = all.as_slice() else { panic!("one connection lives: {all:#?}") };
        assert_eq!(one["direction"], direction);
        assert_eq!(one["security"], "mutual_tls");
        assert_eq!(one["source_identity"], "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(one["destination_identity"], "spiffe://cluster.local/ns/shop/sa/db");
        assert_eq!(one["bytes_recv"], SENT);
        assert_eq!(one["bytes_sent"], SENT);
    }
    drop(client);

    // The level, at run time.
    let curl = |arguments: &[&str]| apps::curl(mesh.world.node("a")).args(arguments).stdout();
    let logging = "http://127.0.0.1:15000/logging";
    assert!(!mesh.agent("a").program.log().contains("\"level\":\"TRACE\""));
    assert!(curl(&["-X", "PUT", &format!("{logging}?level=trace")])?.contains("trace"));
    shop.dial()?;
    until("a line of that level", PATIENCE, || {
        mesh.agent("a").program.log().contains("\"level\":\"TRACE\"").then_some(())
    })?;
    assert!(curl(&["-X", "PUT", &format!("{logging}?level=info")])?.contains("info"));
    assert!(curl(&[logging])?.contains("info"));
    assert!(curl(&["-X", "PUT", &format!("{logging}?level=not%20a%3Dlevel%3D")]).is_err(), "a level that is none");
    assert!(curl(&[logging])?.contains("info"), "and stays as it was");
    Ok(())
}

#[test]
fn a_connection_is_one_line_of_json_with_every_field() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("admin_json", &["a", "b"])?;
    let shop = Shop::open(&mesh)?;
    let client = shop.dial()?;
    let from = client.local_addr()?.to_string();
    drop(client);
    let (web, db) = (&shop.web, &shop.db);
    for (node, direction) in [("a", "outbound"), ("b", "inbound")] {
        let line = mesh.agent(node).until_access(&[&from])?;
        let expected = [
            ("direction", direction.to_owned()),
            ("src.addr", from.clone()),
            ("src.workload", "web".to_owned()),
            ("src.namespace", "shop".to_owned()),
            ("src.identity", web.identity("cluster.local")),
            ("dst.addr", db.at(7000).to_string()),
            ("dst.hbone_addr", db.at(15008).to_string()),
            ("dst.workload", "db".to_owned()),
            ("dst.namespace", "shop".to_owned()),
            ("dst.service", "db.shop.svc.cluster.local".to_owned()),
            ("dst.identity", db.identity("cluster.local")),
        ];
        for (field, value) in expected {
            assert_eq!(line[field], value, "{field} at node {node}: {line:#}");
        }
        assert_eq!((&line["bytes_sent"], &line["bytes_recv"]), (&SENT.into(), &SENT.into()), "{line:#}");
        assert!(line["duration_ms"].is_u64() && line["error"].is_null(), "{line:#}");
        let lines = mesh.agent(node).accesses().iter().filter(|line| line.to_string().contains(&from)).count();
        assert_eq!(lines, 1, "one line a connection");
    }
    Ok(())
}

#[test]
fn a_connection_is_one_line_of_text_too() -> Result<()> {
    needs!();
    let mesh = Mesh::with_setup("admin_text", &["a", "b"], Setup::default().agent("LOG_FORMAT", "text"))?;
    let shop = Shop::open(&mesh)?;
    let client = shop.dial()?;
    let from = client.local_addr()?.to_string();
    drop(client);
    let line = until("the line", PATIENCE, || {
        let log = mesh.agent("a").program.log();
        log.lines().find(|line| line.contains("connection complete") && line.contains(&from)).map(str::to_owned)
    })?;
    for field in [
        format!("src.addr={from}"),
        "src.workload=\"web\"".to_owned(),
        format!("src.identity=\"{}\"", shop.web.identity("cluster.local")),
        format!("dst.addr={}", shop.db.at(7000)),
        format!("dst.hbone_addr=\"{}\"", shop.db.at(15008)),
        "dst.service=\"db.shop.svc.cluster.local\"".to_owned(),
        format!("dst.identity=\"{}\"", shop.db.identity("cluster.local")),
        "direction=\"outbound\"".to_owned(),
        format!("bytes_sent={SENT}"),
        format!("bytes_recv={SENT}"),
        "duration_ms=".to_owned(),
    ] {
        assert!(line.contains(&field), "{field} is not in {line}");
    }
    assert!(!line.contains('\u{1b}'), "no colours in a file: {line}");
    Ok(())
}

#[test]
fn all_wrong_settings_are_told_at_once() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("admin_settings", &["a"])?;
    let node = world.node("a");
    let agent = node
        .command(&built("mesh-node")?)
        .env("NODE_NAME", "a")
        .env("XDS_ADDRESS", "nowhere")
        .env("CA_ADDRESS", "127.0.0.1:15012")
        .env("XDS_ROOT_CA", std::env::current_exe()?)
        .env("TRUST_DOMAIN", "Not A Domain")
        .env("DRAIN_SECONDS", "soon")
        .env("LOG_FORMAT", "xml")
        .env("UNKNOWN_DESTINATIONS", "maybe")
        .output()?;
    let said = String::from_utf8_lossy(&agent.stderr).into_owned();
    assert_eq!(agent.status.code(), Some(2), "{said}");
    assert!(said.starts_with("mesh-node: 5 settings are wrong:"), "{said}");
    for mistake in ["XDS_ADDRESS", "Not A Domain", "soon", "xml", "maybe"].map(|m| m.replace("XDS_ADDRESS", "nowhere"))
    {
        assert!(said.contains(&mistake), "{mistake} is not in {said}");
    }
    let controller = node
        .command(&built("mesh-ctrl")?)
        .args(["--source", "nothing", "--listen", "here", "--monitoring", "there", "--leaf-ttl", "long"])
        .args(["--trust-domain", "Not A Domain", "--state-dir"])
        .arg(node.dir())
        .output()?;
    let said = String::from_utf8_lossy(&controller.stderr).into_owned();
    assert_eq!(controller.status.code(), Some(2), "{said}");
    for mistake in ["nothing", "here", "there", "long", "Not A Domain"] {
        let line = said.lines().find(|line| line.contains(mistake));
        assert!(line.is_some_and(|line| line.starts_with("mesh-ctrl: ")), "{mistake} is not in {said}");
    }
    Ok(())
}

/// web on node a asks the Service of db on node b.
struct Shop {
    web: Pod,
    db: Pod,
    _echo: Program,
}

impl Shop {
    fn open(mesh: &Mesh) -> Result<Shop> {
        mesh.namespace("shop", true)?;
        mesh.apply("service", &objects::service("shop", "db", &[SERVICE.into()], "db", &[(80, 7000)]))?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
        mesh.until_captured(&web)?;
        mesh.until_captured(&db)?;
        mesh.until_config("a", "the service with an endpoint", |config| {
            config["services"].as_array().is_some_and(|services| !services.is_empty())
        })?;
        let echo = apps::probe(&db, "echo", 7000, &[])?;
        Ok(Shop { web, db, _echo: echo })
    }

    /// A connection that has carried [`SENT`] bytes each way and is idle.
    fn dial(&self) -> Result<TcpStream> {
        let mut client = self.web.dial(SocketAddr::from((SERVICE, 80)))?;
        client.set_read_timeout(Some(PATIENCE))?;
        let sent = vec![b'x'; usize::try_from(SENT)?];
        let mut heard = vec![0; sent.len()];
        client.write_all(&sent)?;
        client.read_exact(&mut heard)?;
        assert_eq!(sent, heard);
        Ok(client)
    }
}

/// A page of metrics: the name, the labels and the value of each.
struct Metrics(Vec<(String, BTreeMap<String, String>, u64)>);

impl Metrics {
    fn of(mesh: &Mesh, node: &str) -> Result<Metrics> {
        let page = mesh.admin(node, "/metrics")?;
        let lines = page.lines().filter(|line| line.starts_with("istio_"));
        lines.map(|line| Self::read(line).with_context(|| line.to_owned())).collect::<Result<_>>().map(Metrics)
    }

    fn read(line: &str) -> Result<(String, BTreeMap<String, String>, u64)> {
        let (name, rest) = line.split_once('{').context("labels")?;
        let (labels, value) = rest.rsplit_once("} ").context("a value")?;
        let labels = labels.trim_end_matches('"').split("\",").map(|label| {
            let (name, value) = label.split_once("=\"").context("a label")?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Ok((name.to_owned(), labels.collect::<Result<_>>()?, value.parse()?))
    }

    fn sum(&self, name: &str, reporter: &str) -> u64 {
        self.0.iter().filter(|(n, labels, _)| n == name && labels["reporter"] == reporter).map(|(_, _, v)| v).sum()
    }

    /// Labels of the only one of that name.
    fn only(&self, name: &str, reporter: &str) -> Result<&BTreeMap<String, String>> {
        let mut all = self.0.iter().filter(|(n, labels, _)| n == name && labels["reporter"] == reporter);
        let first = all.next().with_context(|| format!("no {name} of reporter {reporter}"))?;
        anyhow::ensure!(all.next().is_none(), "more than one {name} of reporter {reporter}");
        Ok(&first.1)
    }
}

/// Istio's standard labels of TCP metrics.
const LABELS: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];
const SENT: u64 = 12_345;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
