//! kube-proxy leads Services' addresses to pods by nftables in every other test; here it is iptables that does.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::node::{Nodes, Proxy};
use weft_tests::node_binaries;
use weft_tests::wait::{PATIENCE, until};

use crate::installed::{self, Watched, client, fared, label, pods_of, server, service};
use crate::mesh::captured;
use crate::nodes::{START, get};
use crate::source::definition;
use crate::transitions::{peer_authentication, policy};

/// What requests of `fresh` have in them.
const MARKER: &str = "MARKER-c40b17";
const MANNERS: [&str; 4] = ["fresh", "kept", "held", "stream"];

#[test]
fn where_kube_proxy_uses_iptables_a_label_encrypts_and_policy_holds_without_a_lost_byte() -> Result<()> {
    let cluster = Cluster::of_test_with(&node_binaries!(), Nodes { count: 2, proxy: Proxy::Iptables })?;
    let mut cluster = installed::with_traffic_on(cluster)?;
    let (port, dir) = (cluster.nodes()[0].port.clone(), cluster.dir().to_owned());
    let version = cluster.nodes()[1].read("iptables --version")?;
    let api = cluster.api();
    for (kind, plural) in
        [("PeerAuthentication", "peerauthentications"), ("AuthorizationPolicy", "authorizationpolicies")]
    {
        api.apply(&definition("security.istio.io", kind, plural))?;
    }
    api.apply(&service("web", "10.96.7.7"))?;
    api.apply(&server("web", "node-1", 2))?;
    let (http, echo) = ("10.96.7.7:80", "10.96.7.7:7000");
    let all = ["--fresh", http, "--kept", http, "--held", echo, "--stream", echo, "--marker", MARKER];
    api.apply(&client("client", "node-2", &all))?;
    // A pod of the node that the servers are on: the Service may lead it to its own node.
    api.apply(&client("near", "node-1", &all))?;
    let clients = [Watched::begin(api, "client", &MANNERS)?, Watched::begin(api, "near", &MANNERS)?];

    // It is iptables that the address is led by.
    for node in cluster.nodes() {
        let rules = node.read("iptables-save -t nat")?;
        ensure!(rules.contains("-d 10.96.7.7/32") && rules.contains("KUBE-SEP-"), "{}: {rules}", node.name);
        let tables = node.read("nft list tables")?;
        ensure!(!tables.contains("kube-proxy"), "{}: {tables}", node.name);
    }
    println!("figure: kube-proxy uses {}", version.trim());

    let plain = captured(&port, &dir.join("plain.pcap"), "tcp")?;
    ensure!(plain.contains(MARKER), "the capture does not even see what is not encrypted");
    let api = cluster.api();
    label(api, Some("weft"))?;
    until("nothing in the clear any more", START, || {
        let seen = captured(&port, &dir.join("mesh.pcap"), "tcp and not port 8081").ok()?;
        (!seen.contains(MARKER)).then_some(())
    })?;
    for client in &clients {
        client.goes_on(50)?;
        client.none_failed("labelled, with kube-proxy's iptables")?;
    }

    // Only who may, and only by the mesh.
    let web = pods_of(api, "web")?[0]["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    ensure!(get(&web, 8080)?.contains("web"), "who is outside is not even answered without STRICT");
    api.apply(&peer_authentication())?;
    api.apply(&policy("default"))?;
    until("STRICT to hold", START, || get(&web, 8080).map_or(true, |page| page.is_empty()).then_some(()))?;
    let client = Watched::begin(api, "client", &["fresh", "kept"])?;
    client.goes_on(50)?;
    client.none_failed("STRICT, and a policy that allows the client's account")?;
    api.apply(&policy("somebody"))?;
    until("the client to be refused", PATIENCE, || {
        let before = fared(&client.address, "fresh").ok()?;
        thread::sleep(Duration::from_millis(300));
        let now = fared(&client.address, "fresh").ok()?;
        (now.good == before.good && now.failed > before.failed).then_some(())
    })
}
