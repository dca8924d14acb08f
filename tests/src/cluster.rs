//! A real Kubernetes on this machine, without an image registry: etcd and the API server as processes on loopback, and
//! nodes in namespaces of their own.
//!
//! ```text
//! cargo xtask cluster up ──> binaries (ready, or built once) ──> state folder ──> etcd ──> kube-apiserver ──> KUBECONFIG
//! ```
//! What it consists of can be found by its state folder alone ([`xtask::clusters`]), so that `down` and a test's end are
//! the same few lines, also after a crash.

pub mod agent;
pub mod controller;
mod dns;
pub mod helm;
pub mod node;
mod network;
pub mod image;
mod control_plane;
mod daemon;
mod http;
mod credentials;
pub mod binaries;
pub mod api;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use serde_json::{Value, json};
use xtask::clusters;

use crate::wait::{PATIENCE, until};
use api::Api;
use binaries::Binaries;
use control_plane::{AUDIT_LOG, ControlPlane};
use network::Network;
use node::{Node, Nodes};

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    dir: PathBuf,
    plane: ControlPlane,
    nodes: Vec<Node>,
    /// Ends with this value; a cluster of `cluster up` stays.
    owned: bool,
}

impl Cluster {
    /// Starts a cluster that stays until it is taken down by its name.
    ///
    /// # Errors
    /// The name is taken, or a part does not come up, with the end of its log.
    pub fn up(name: &str, binaries: &Binaries, nodes: Nodes) -> Result<Cluster> {
        Cluster::start(name, binaries, nodes, false)
    }

    /// Starts a cluster for one test, which ends with the value, or is swept when this process dies.
    ///
    /// # Errors
    /// A part does not come up, with the end of its log.
    pub fn of_test(binaries: &Binaries) -> Result<Cluster> {
        Cluster::of_test_with_nodes(binaries, 0)
    }

    /// As [`of_test`](Cluster::of_test), with as many nodes.
    ///
    /// # Errors
    /// A part does not come up, with the end of its log.
    pub fn of_test_with_nodes(binaries: &Binaries, count: u8) -> Result<Cluster> {
        Cluster::of_test_with(binaries, Nodes { count, ..Nodes::default() })
    }

    /// As [`of_test`](Cluster::of_test), with such nodes.
    ///
    /// # Errors
    /// A part does not come up, with the end of its log.
    pub fn of_test_with(binaries: &Binaries, nodes: Nodes) -> Result<Cluster> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Cluster::start(&name, binaries, nodes, true)
    }

    fn start(name: &str, binaries: &Binaries, nodes: Nodes, owned: bool) -> Result<Cluster> {
        let dir = clusters::claim(name, owned)?;
        let started = match nodes.count {
            0 => ControlPlane::start(&dir, binaries, None).map(|plane| (plane, Vec::new())),
            _ => start_with_nodes(&dir, binaries, nodes),
        };
        match started {
            Ok((plane, nodes)) => Ok(Cluster { name: name.to_owned(), dir, plane, nodes, owned }),
            Err(error) => {
                clusters::remove(name)?;
                Err(error)
            }
        }
    }

    /// Its nodes.
    pub fn nodes(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Gives all nodes the image of a program that was built beside the one that runs, as `name`.
    ///
    /// # Errors
    /// The program has not been built, or a node does not take it.
    pub fn import(&mut self, name: &str, program: &'static str) -> Result<()> {
        let archive = image::program(name, program)?;
        self.nodes.iter_mut().try_for_each(|node| node.import(&archive))
    }

    /// Gives all nodes the images of Weft's own `programs`, as the manifest calls them.
    ///
    /// # Errors
    /// A program has not been built, or a node does not take it.
    pub fn import_weft(&mut self, programs: &[&'static str]) -> Result<()> {
        programs.iter().try_for_each(|program| self.import(&format!("localhost/weft/{program}:dev"), program))
    }

    /// Starts a name server for the pods of its nodes, and waits until it answers.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start_dns(&mut self, binaries: &Binaries) -> Result<()> {
        dns::start(&self.plane.api, &mut self.nodes, &binaries.coredns()?)
    }

    /// Credentials of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.plane.kubeconfig
    }

    /// Credentials of another user.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn kubeconfig_of(&self, user: &str, group: &str) -> Result<PathBuf> {
        self.plane.credentials.kubeconfig(user, group, &self.plane.url)
    }

    /// What service accounts have called for so far: verb and resource (`tokenreviews.authentication.k8s.io`,
    /// `gateways/status.gateway.networking.k8s.io`), and the status of the answer. Watches are among it once they have begun.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn calls_of(&self, user: &str) -> Result<BTreeSet<(String, String, u64)>> {
        let log = fs::read_to_string(self.dir.join(AUDIT_LOG))?;
        // The last line may be half of one.
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let calls = lines.filter(|line| line["user"]["username"] == user).map(|line| {
            let object = &line["objectRef"];
            let group = object["apiGroup"].as_str().map(|group| format!(".{group}")).unwrap_or_default();
            let status = line["responseStatus"]["code"].as_u64().unwrap_or_default();
            let part = object["subresource"].as_str().map(|part| format!("/{part}")).unwrap_or_default();
            (text(&line["verb"]), format!("{}{part}{group}", text(&object["resource"])), status)
        });
        Ok(calls.filter(|(_, resource, _)| !resource.is_empty()).collect())
    }

    /// What service accounts have written, in the order in which it arrived, whatever came of it. Reviews are none.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn writes(&self) -> Result<Vec<Write>> {
        let log = fs::read_to_string(self.dir.join(AUDIT_LOG))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut writes: Vec<Write> = lines
            .map(|line| Write {
                at: text(&line["requestReceivedTimestamp"]),
                user: text(&line["user"]["username"]),
                verb: text(&line["verb"]),
                resource: text(&line["objectRef"]["resource"]),
                name: text(&line["objectRef"]["name"]),
                status: line["responseStatus"]["code"].as_u64().unwrap_or_default(),
            })
            .filter(|write| !matches!(&*write.verb, "get" | "list" | "watch") && !write.resource.ends_with("reviews"))
            .collect();
        writes.sort();
        Ok(writes)
    }

    /// A service-account token with claims of the caller's choice, signed as the API server signs.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn token_of(&self, claims: &Value) -> Result<String> {
        self.plane.credentials.token(claims)
    }

    /// The API, as an administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.plane.api
    }

    /// The state folder: data, credentials, logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends the API server as `kill -9` does; what it held stays.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        self.plane.kill_apiserver()
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub fn start_apiserver(&mut self) -> Result<()> {
        self.plane.start_apiserver()
    }

    /// Has the store forget its history, so that a watch from before has to begin anew (410 Gone). For while the API
    /// server is down: it would notice.
    ///
    /// # Errors
    /// What etcd said.
    pub fn forget_history(&self) -> Result<()> {
        self.plane.compact()
    }
}

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// RFC 3339, in UTC, to the microsecond: later ones are greater.
    pub at: String,
    pub user: String,
    pub verb: String,
    pub resource: String,
    /// Empty of what is made.
    pub name: String,
    /// Of HTTP.
    pub status: u64,
}

fn start_with_nodes(dir: &Path, binaries: &Binaries, wanted: Nodes) -> Result<(ControlPlane, Vec<Node>)> {
    let network = Network::make(dir)?;
    let plane = ControlPlane::start(dir, binaries, Some(network.gateway()))?;
    plane.start_controllers(binaries)?;
    let mut nodes = Vec::new();
    for number in 1..=wanted.count {
        // Before kubelet makes it: the pods' addresses are ours to choose.
        plane.api.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
            "spec": {"podCIDR": network.pods(number), "podCIDRs": [network.pods(number)]},
        }))?;
        nodes.push(Node::start(dir, number, wanted, &network, &plane.credentials, &plane.url, binaries)?);
    }
    for image in image::basic()? {
        for node in &mut nodes {
            node.import(&image)?;
        }
    }
    for node in &mut nodes {
        node.wait_ready(&plane.api)?;
    }
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}});
    until("the account that pods run as", PATIENCE, || plane.api.get(&account).ok().flatten().map(drop))?;
    Ok((plane, nodes))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = clusters::remove(&self.name)
        {
            eprintln!("error: {error:#}; cargo xtask clean-up removes the rest once this process has ended");
        }
    }
}
