//! etcd and the API server: a whole Kubernetes as far as objects are concerned, in which nothing runs. With nodes, also the
//! controller manager and the scheduler.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::api::Api;
use super::binaries::Binaries;
use super::credentials::Credentials;
use super::daemon::Daemon;
use super::http;
use crate::wait::until;

/// A running control plane.
#[derive(Debug)]
pub(super) struct ControlPlane {
    pub(super) kubeconfig: PathBuf,
    pub(super) api: Api,
    pub(super) credentials: Credentials,
    pub(super) url: String,
    dir: PathBuf,
    etcd: Daemon,
    etcd_port: u16,
    apiserver: Daemon,
    launch: Launch,
}

/// How the API server is started, once and again.
#[derive(Debug)]
struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready: about four seconds.
    ///
    /// Nodes reach the API server at `wire`; without nodes it is on loopback.
    pub(super) fn start(dir: &Path, binaries: &Binaries, wire: Option<Ipv4Addr>) -> Result<ControlPlane> {
        let [client, peer, secure] = free_ports()?;
        let address = wire.unwrap_or(Ipv4Addr::LOCALHOST);
        let url = format!("https://{address}:{secure}");
        let names = [&address.to_string(), "localhost", "10.96.0.1", "kubernetes.default.svc"];
        let credentials = Credentials::make(dir.join("pki"), &names)?;
        let kubeconfig = credentials.kubeconfig("admin", "system:masters", &url)?;
        let file = |name: &str| credentials.path(name).display().to_string();

        let etcd = [
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
            // What is lost in a power cut is a test.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let etcd = Daemon::start(dir, "etcd", &binaries.program("etcd"), &etcd)?;
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{client}"),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={secure}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            // It would write into /var/run/kubernetes.
            format!("--cert-dir={}", dir.join("cert-dir").display()),
            format!("--service-account-issuer={ISSUER}"),
            format!("--api-audiences={ISSUER}"),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
        ];
        // Who called for what: tests compare it with what roles allow.
        let policy = dir.join("audit.yaml");
        fs::write(&policy, AUDIT_POLICY)?;
        arguments.extend([
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", dir.join(AUDIT_LOG).display()),
            "--audit-log-mode=blocking".to_owned(),
        ]);
        if wire.is_some() {
            credentials.kubeconfig("kubelet-client", "system:masters", &url)?;
            arguments.extend([
                format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
                format!("--kubelet-client-key={}", file("kubelet-client.key")),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                // Webhooks are dialled at their pods: there is no kube-proxy where the API server runs.
                "--enable-aggregator-routing=true".to_owned(),
            ]);
        } else {
            arguments.extend([
                // Without a controller manager nothing makes a namespace's `default` account, and no pod would be admitted.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                // Loopback is no valid endpoint of the Service `kubernetes`.
                "--endpoint-reconciler-type=none".to_owned(),
            ]);
        }
        let launch = Launch { program: binaries.program("kube-apiserver"), arguments };
        let apiserver = Daemon::start(dir, "kube-apiserver", &launch.program, &launch.arguments)?;
        let api = Api::connect(&kubeconfig)?;
        let mut plane = ControlPlane {
            kubeconfig,
            api,
            credentials,
            url,
            dir: dir.to_owned(),
            etcd,
            etcd_port: client,
            apiserver,
            launch,
        };
        plane.wait_ready()?;
        Ok(plane)
    }

    /// Starts what turns Deployments into pods, pods' accounts into tokens, and finds nodes for pods.
    pub(super) fn start_controllers(&self, binaries: &Binaries) -> Result<()> {
        let kubeconfig = |user: &str| self.credentials.kubeconfig(user, "system:authenticated", &self.url);
        let file = |name: &str| self.credentials.path(name).display().to_string();
        let manager = [
            format!("--kubeconfig={}", kubeconfig("system:kube-controller-manager")?.display()),
            format!("--service-account-private-key-file={}", file("accounts.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            "--use-service-account-credentials=true".to_owned(),
            "--node-monitor-grace-period=20s".to_owned(),
            // One of each, serving nothing: no election and no port.
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        let scheduler = [
            format!("--kubeconfig={}", kubeconfig("system:kube-scheduler")?.display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        for (name, arguments) in [("kube-controller-manager", &manager[..]), ("kube-scheduler", &scheduler[..])] {
            Daemon::start(&self.dir, name, &binaries.nodes()?.join(name), arguments)?;
        }
        Ok(())
    }

    /// Ends the API server as `kill -9` does. etcd keeps what it held.
    pub(super) fn kill_apiserver(&mut self) -> Result<()> {
        self.apiserver.kill()
    }

    /// Starts the API server again, on its old port, and waits until it is ready.
    pub(super) fn start_apiserver(&mut self) -> Result<()> {
        self.apiserver = Daemon::start(&self.dir, "kube-apiserver", &self.launch.program, &self.launch.arguments)?;
        self.wait_ready()
    }

    /// Has etcd forget everything but the present: whoever asks for the changes since some moment is told 410 Gone.
    pub(super) fn compact(&self) -> Result<()> {
        let url = |call: &str| (format!("127.0.0.1:{}", self.etcd_port), format!("/v3/kv/{call}"));
        let ask = |call: &str, body: serde_json::Value| {
            let (address, path) = url(call);
            let answer = http::post(&address, &path, &body.to_string())?;
            serde_json::from_str::<serde_json::Value>(&answer).with_context(|| format!("{call}: {answer}"))
        };
        let present = ask("range", serde_json::json!({"key": "AA=="}))?;
        let revision = present["header"]["revision"].clone();
        ask("compaction", serde_json::json!({"revision": revision, "physical": true})).map(drop)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ended = until("the API server to be ready", READY, || {
            for daemon in [&mut self.etcd, &mut self.apiserver] {
                if let Some(status) = daemon.ended() {
                    return Some(Some(format!("it ended ({status}); its log ends:\n{}", daemon.log_end())));
                }
            }
            self.api.is_ready().then_some(None)
        });
        match ended.with_context(|| format!("its log ends:\n{}", self.apiserver.log_end()))? {
            Some(words) => bail!("{words}"),
            None => Ok(()),
        }
    }
}

/// Ports of loopback that nobody listens on, from below the range that the kernel takes source ports from: none of them
/// is somebody's connection while the API server is away.
fn free_ports() -> Result<[u16; 3]> {
    // Somewhere else each time: two clusters that start at once do not meet.
    let random = RandomState::new().hash_one(std::process::id());
    let start = FIRST_PORT + u16::try_from(random % u64::from(PORTS)).expect("less than the number of ports");
    let mut held = Vec::new();
    for port in (start..FIRST_PORT + PORTS).chain(FIRST_PORT..start) {
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|listener| (port, listener)));
        if let [(a, _), (b, _), (c, _)] = &held[..] {
            return Ok([*a, *b, *c]);
        }
    }
    bail!("no three free ports from {FIRST_PORT} on 127.0.0.1")
}

const FIRST_PORT: u16 = 20000;
const PORTS: u16 = 12000;

/// Calls of service accounts outside of kube-system, one line of JSON for each.
pub(super) const AUDIT_LOG: &str = "audit.log";
const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
    {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
    {"level": "None"}
  ]
}"#;

/// Who issues service-account tokens, and their audience if none is asked for.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Cold, on a machine that builds something else.
const READY: Duration = Duration::from_secs(90);
