//! Weft's controller as a program beside a cluster, with the cluster as its source.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mesh_net::grpc::Target;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Cluster;
use super::daemon::Daemon;
use super::http;
use crate::program::built;
use crate::wait::{PATIENCE, until};

/// A running controller. It ends with the cluster at the latest.
#[derive(Debug)]
pub struct Controller {
    daemon: Daemon,
    state: PathBuf,
    control: SocketAddr,
    monitoring: SocketAddr,
}

impl Controller {
    /// Starts one, which need not be ready. `name` is for its log and its state folder.
    ///
    /// # Errors
    /// It ends before it listens, with the end of its log.
    pub fn start(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<Controller> {
        let state = cluster.dir().join(name);
        fs::create_dir_all(&state)?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        cluster.api().apply(&namespace)?;
        let mut all = vec![
            "--source=kube".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--monitoring=127.0.0.1:0".to_owned(),
            "--webhook-listen=127.0.0.1:0".to_owned(),
            format!("--state-dir={}", state.display()),
            format!("--namespace={NAMESPACE}"),
            "--log-format=json".to_owned(),
        ];
        if !arguments.iter().any(|argument| argument.starts_with("--kubeconfig")) {
            all.push(format!("--kubeconfig={}", cluster.kubeconfig().display()));
        }
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut daemon = Daemon::start(cluster.dir(), name, Path::new(&built("mesh-ctrl")?), &all)?;
        let started = until("the controller to listen", PATIENCE, || match addresses(&daemon.log()) {
            Some(addresses) => Some(Ok(addresses)),
            None => daemon.ended().map(Err),
        })?;
        match started {
            Ok([control, monitoring]) => Ok(Controller { daemon, state, control, monitoring }),
            Err(status) => bail!("the controller ended ({status}); its log:\n{}", daemon.log()),
        }
    }

    /// Waits until it has read the cluster.
    ///
    /// # Errors
    /// It does not become ready, with the end of its log.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = until("the controller to be ready", PATIENCE, || self.is_ready().then_some(()));
        ready.with_context(|| format!("its log ends:\n{}", self.daemon.log_end()))
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.page("/healthz/ready").is_ok()
    }

    /// Where agents reach it.
    #[must_use]
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Where the API server reaches its admission webhook.
    ///
    /// # Errors
    /// It does not say so.
    pub fn webhook(&self) -> Result<SocketAddr> {
        let address = || Some(started(&self.daemon.log(), "admission webhook started")?["webhook"].as_str()?.parse());
        Ok(until("the webhook to listen", PATIENCE, address)??)
    }

    /// How a client with `token` reaches it. The token is kept in `file` of the state folder, one for each client that stays.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn target(&self, file: &str, token: &str) -> Result<Target> {
        let file = self.state.join(file);
        fs::write(&file, token).with_context(|| format!("write {}", file.display()))?;
        Ok(Target {
            address: self.control.to_string(),
            server_name: None,
            roots: self.state.join("root-cert.pem"),
            token: Some(file),
        })
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Names of all that agents are told.
    ///
    /// # Errors
    /// It does not answer.
    pub fn resources(&self) -> Result<BTreeSet<String>> {
        let page: Value = serde_json::from_str(&self.page("/debug/resources")?)?;
        let types = page["types"].as_object().context("the page lists types")?;
        Ok(types.values().filter_map(|t| t["resources"].as_object()).flat_map(|r| r.keys().cloned()).collect())
    }

    /// Waits until agents are told of `name`, or no longer are.
    ///
    /// # Errors
    /// That does not come about.
    pub fn wait_resource(&self, name: &str, there: bool) -> Result<()> {
        let what = format!("{name} to be {}", if there { "there" } else { "gone" });
        until(&what, PATIENCE, || self.resources().is_ok_and(|names| names.contains(name) == there).then_some(()))
            .with_context(|| {
                format!("agents are told of {:?}; its log ends:\n{}", self.resources(), self.daemon.log_end())
            })
    }

    /// What it finds wrong.
    ///
    /// # Errors
    /// It does not answer.
    pub fn findings(&self) -> Result<String> {
        self.page("/debug/findings")
    }

    /// The sum of a metric over its labels that hold all of `labels`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let page = self.page("/metrics")?;
        let values = page
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Stops or continues it, or ends it.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.signal(signal)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// What it says at `path` of its pages.
    ///
    /// # Errors
    /// It does not answer.
    pub fn page(&self, path: &str) -> Result<String> {
        http::get(&self.monitoring.to_string(), path)
    }
}

/// Where the controller is at home.
pub const NAMESPACE: &str = "weft-system";

/// Control and monitoring address, once it has logged them.
fn addresses(log: &str) -> Option<[SocketAddr; 2]> {
    let started = started(log, "controller started")?;
    let address = |name: &str| started[name].as_str()?.parse().ok();
    Some([address("control")?, address("monitoring")?])
}

/// Fields of the line that says `message`.
fn started(log: &str, message: &str) -> Option<Value> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Some(lines.find(|line| line["fields"]["message"] == message)?["fields"].clone())
}
