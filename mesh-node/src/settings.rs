//! What an operator sets: flags, or the environment names that operators of such agents know.
//!
//! Everything is read and checked before anything starts, and every mistake is reported at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mesh_cni::plugin::{MOST_SECONDS, OnFailure};
use mesh_net::pool::Transport;
use mesh_net::settings::{Check, Mistakes, list};
use mesh_net::tls::KEY_LIMIT;

use crate::cni;
use crate::ebpf::cgroup_root;
use crate::outbound::route::UnknownDestinations;

/// Flags as written. They are read as text, so that all mistakes are found in one go.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// Name of this node, as the control plane knows it.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Controller for discovery, host:port.
    #[arg(long, env = "XDS_ADDRESS")]
    pub xds_address: Option<String>,
    /// PEM file with the roots of the controller's certificate.
    #[arg(long, env = "XDS_ROOT_CA")]
    pub xds_root_ca: Option<String>,
    /// Certificate authority, host:port; the controller if not set.
    #[arg(long, env = "CA_ADDRESS")]
    pub ca_address: Option<String>,
    /// PEM file with the roots of the authority's own certificate; XDS_ROOT_CA if not set.
    #[arg(long, env = "CA_ROOT_CA")]
    pub ca_root_ca: Option<String>,
    /// Name in the authority's certificate, where it is not the host of CA_ADDRESS.
    #[arg(long, env = "CA_SERVER_NAME")]
    pub ca_server_name: Option<String>,
    /// File with the token that the controller and the authority know this node by.
    #[arg(long, env = "AUTH_TOKEN_FILE")]
    pub token_file: Option<String>,
    /// Name in the controller's certificate, where it is not the host of its address.
    #[arg(long, env = "XDS_SERVER_NAME")]
    pub server_name: Option<String>,
    /// Socket of a pod manager (ZDS); none if not set.
    #[arg(long, env = "INPOD_UDS")]
    pub inpod_uds: Option<String>,
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Further trust domains whose workloads may connect, separated by commas.
    #[arg(long, env = "TRUST_DOMAIN_ALIASES", default_value = "")]
    pub trust_domain_aliases: String,
    /// Where pods are found besides those that are told of: none, or kubelet, by the cgroups that it makes for them.
    #[arg(long, env = "FIND_PODS", default_value = "none")]
    pub find_pods: String,
    /// What keeps a new pod from its first container until it is in the mesh: none, or install, a CNI plugin that is put
    /// into the node's network configuration and kept there. With --find-pods kubelet.
    #[arg(long, env = "CNI", default_value = "none")]
    pub cni: String,
    /// Folder of the node's CNI network configurations, at the same path here as for the container runtime.
    #[arg(long, env = "CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: String,
    /// Folder of the node's CNI plugins.
    #[arg(long, env = "CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: String,
    /// What becomes of a pod of the mesh that cannot be enrolled in time: closed, it does not start and is tried again; open,
    /// it starts, and is in the mesh later.
    #[arg(long, env = "CNI_ON_FAILURE", default_value = "closed")]
    pub cni_on_failure: String,
    /// How long a new pod may be kept waiting, in seconds.
    #[arg(long, env = "CNI_TIMEOUT_SECONDS", default_value = "20")]
    pub cni_timeout_seconds: String,
    /// Namespaces whose pods never wait, separated by commas.
    #[arg(long, env = "CNI_EXCLUDE_NAMESPACES", default_value = "kube-system,weft-system")]
    pub cni_exclude_namespaces: String,
    /// cgroup v2 folder below which the pods' processes run; auto for where cgroup v2 is mounted.
    #[arg(long, env = "CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: String,
    /// cgroup v2 folder of the agent itself; where it runs if not set.
    #[arg(long, env = "AGENT_CGROUP")]
    pub agent_cgroup: Option<String>,
    /// Folder on a bpffs for what outlives the agent.
    #[arg(long, env = "PIN_DIR", default_value = "/sys/fs/bpf/weft")]
    pub pin_dir: String,
    /// Folder for the agent's socket and its record of enrolled pods.
    #[arg(long, env = "RUN_DIR", default_value = "/run/weft")]
    pub run_dir: String,
    /// Threads that carry connections; by default as many as cores, four at most.
    #[arg(long, env = "WORKER_THREADS")]
    pub workers: Option<String>,
    /// How long a worker that was busy looks for what comes next before it sleeps, in microseconds; less where that tends to
    /// find nothing. 0: it sleeps at once.
    #[arg(long, env = "BUSY_POLL_MICROS", default_value = "100")]
    pub busy_poll_micros: String,
    /// Round trip from which a tunnel keeps the node's congestion control where that is BBR, in microseconds; one whose handshake was
    /// quicker gets CUBIC. 0: it always keeps it.
    #[arg(long, env = "PACE_FROM_MICROS", default_value = "1000")]
    pub pace_from_micros: String,
    /// Where readiness, metrics and views are served. Keep it on loopback: it shows who talks to whom.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: String,
    /// What becomes of connections to addresses outside the mesh: allow or refuse.
    #[arg(long, env = "UNKNOWN_DESTINATIONS", default_value = "allow")]
    pub unknown_destinations: String,
    /// How other agents are spoken to: auto (Weft's own transport where the peer knows it) or hbone.
    #[arg(long, env = "TRANSPORT", default_value = "auto")]
    pub transport: String,
    /// Records after which a TLS key is renewed: 64 to 16777216 (2^24, what RFC 8446 allows), 16 KiB each at most.
    #[arg(long, env = "KEY_RECORDS", default_value = "16777216")]
    pub key_records: String,
    /// How long connections may go on after SIGTERM, in seconds.
    #[arg(long, env = "DRAIN_SECONDS", default_value = "20")]
    pub drain_seconds: String,
    /// How long they may go on where another agent has this node's pods by then, in seconds.
    #[arg(long, env = "HANDOVER_SECONDS", default_value = "240")]
    pub handover_seconds: String,
    /// Which of several agents of the node, one after the other, this one is: `mesh-node started` asks for it.
    #[arg(long, env = "INSTANCE", default_value = "")]
    pub instance: String,
    /// How long connections of a pod that left the mesh may go on, in seconds.
    #[arg(long, env = "RELEASE_SECONDS", default_value = "3600")]
    pub release_seconds: String,
    /// How two pods of this node talk that policy lets: direct, within the kernel and unencrypted, or by relay.
    #[arg(long, env = "SAME_NODE", default_value = "direct")]
    pub same_node: String,
    /// How long such pods may begin connections after this agent was last alive, in seconds.
    #[arg(long, env = "SAME_NODE_SECONDS", default_value = "300")]
    pub same_node_seconds: String,
    /// How long a pod is in the mesh before its connections to services are direct as well, in seconds: what translated their
    /// addresses before remembers connections for a while (nf_conntrack_tcp_timeout_time_wait, 120).
    #[arg(long, env = "SAME_NODE_SERVICES_SECONDS", default_value = "130")]
    pub same_node_services_seconds: String,
    /// Lifetime asked for certificates, in seconds.
    #[arg(long, env = "SECRET_TTL", default_value = "86400")]
    pub certificate_ttl: String,
    /// Another eBPF object than the built-in one.
    #[arg(long)]
    pub ebpf_object: Option<String>,
    /// Log filter, such as info,mesh_node=debug; `ebpf=debug` makes the kernel's hooks report too.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: String,
}

/// Settings that hold.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_name: String,
    pub xds_address: String,
    pub xds_root_ca: PathBuf,
    pub ca_address: String,
    pub ca_root_ca: PathBuf,
    pub ca_server_name: Option<String>,
    pub token_file: Option<PathBuf>,
    pub server_name: Option<String>,
    pub inpod_uds: Option<PathBuf>,
    pub cluster_id: String,
    pub network: String,
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    /// Whether the pods of a kubelet are looked for.
    pub find_pods: bool,
    /// How the CNI plugin is installed, if it is.
    pub cni: Option<cni::Config>,
    pub cgroup_root: PathBuf,
    pub agent_cgroup: Option<PathBuf>,
    pub pin_dir: PathBuf,
    pub run_dir: PathBuf,
    pub workers: usize,
    pub busy_poll: Duration,
    pub pace_from: Duration,
    pub admin_address: SocketAddr,
    pub unknown_destinations: UnknownDestinations,
    pub transport: Transport,
    pub key_records: u64,
    pub drain: Duration,
    pub handover: Duration,
    pub instance: String,
    pub release: Duration,
    pub same_node: bool,
    pub same_node_age: Duration,
    pub same_node_services: Duration,
    pub certificate_ttl: Duration,
    pub ebpf_object: Option<PathBuf>,
    pub log_level: String,
    pub log_json: bool,
}

impl Flags {
    /// Checks every flag.
    ///
    /// # Errors
    /// All mistakes, not the first.
    pub fn check(self) -> Result<Settings, Mistakes> {
        let mut check = Check::default();
        let mut require = |value: &Option<String>, flag: &str, env: &str, what: &str| {
            check.required(value.as_deref(), flag, env, what)
        };
        let node_name = require(&self.node_name, "node-name", "NODE_NAME", "the name of this node");
        let xds_address = require(&self.xds_address, "xds-address", "XDS_ADDRESS", "host:port of the controller");
        let xds_root_ca =
            require(&self.xds_root_ca, "xds-root-ca", "XDS_ROOT_CA", "a PEM file with the controller's root");
        let ca_address = self.ca_address.clone().filter(|a| !a.is_empty()).unwrap_or_else(|| xds_address.clone());
        let ca_root_ca = self.ca_root_ca.clone().unwrap_or_else(|| xds_root_ca.clone());
        // The controller is known by one name, whatever it is asked for.
        let ca_server_name = if ca_address == xds_address { &self.server_name } else { &None };
        let ca_server_name =
            self.ca_server_name.as_ref().filter(|name| !name.is_empty()).or(ca_server_name.as_ref()).cloned();

        for (flag, address) in [("xds-address", &xds_address), ("ca-address", &ca_address)] {
            check.host_and_port(flag, address);
        }
        for (flag, file) in [("xds-root-ca", &xds_root_ca), ("ca-root-ca", &ca_root_ca)] {
            if !file.is_empty() {
                check.file(flag, file);
            }
        }
        if let Some(file) = &self.token_file {
            check.file("token-file", file);
        }
        for domain in std::iter::once(&*self.trust_domain).chain(list(&self.trust_domain_aliases)) {
            if let Err(error) = mesh_core::identity::SpiffeId::new(domain, "ns", "sa") {
                check.mistake(format!("--trust-domain {domain:?}: {error}"));
            }
        }
        let workers = check.workers(self.workers.as_deref(), 4);
        let busy_poll = check.number("busy-poll-micros", &self.busy_poll_micros, 0, MOST_MICROS);
        let pace_from = check.number("pace-from-micros", &self.pace_from_micros, 0, MOST_MICROS);
        let admin_address = check.ip_and_port("admin-address", &self.admin_address);
        let unknown_destinations = check.either(
            "unknown-destinations",
            &self.unknown_destinations,
            [("allow", UnknownDestinations::Allow), ("refuse", UnknownDestinations::Refuse)],
        );
        let find_pods = check.either("find-pods", &self.find_pods, [("none", false), ("kubelet", true)]);
        let on_failure = [("closed", OnFailure::Closed), ("open", OnFailure::Open)];
        let on_failure = check.either("cni-on-failure", &self.cni_on_failure, on_failure);
        let timeout_seconds = check.number("cni-timeout-seconds", &self.cni_timeout_seconds, 1, MOST_SECONDS);
        let is_installed = check.either("cni", &self.cni, [("none", false), ("install", true)]);
        if &*self.cni == "install" && !find_pods {
            check.mistake("--cni install needs --find-pods kubelet: the plugin tells of the kubelet's pods");
        }
        let cni = is_installed.then(|| cni::Config {
            conf_dir: self.cni_conf_dir.into(),
            bin_dir: self.cni_bin_dir.into(),
            on_failure,
            timeout_seconds,
            exclude_namespaces: list(&self.cni_exclude_namespaces).map(str::to_owned).collect(),
        });
        let cgroup_root = cgroup_root(Path::new(&self.cgroup_root)).unwrap_or_else(|| {
            check.mistake("--cgroup-root auto: cgroup v2 is not mounted");
            PathBuf::new()
        });
        let transport = check.transport(&self.transport);
        let key_records = check.number("key-records", &self.key_records, 64, KEY_LIMIT);
        let same_node = check.either("same-node", &self.same_node, [("direct", true), ("relay", false)]);
        let drain = check.seconds("drain-seconds", &self.drain_seconds, 0);
        let handover = check.seconds("handover-seconds", &self.handover_seconds, 0);
        let release = check.seconds("release-seconds", &self.release_seconds, 0);
        let same_node_age = check.seconds("same-node-seconds", &self.same_node_seconds, 0);
        let same_node_services = check.seconds("same-node-services-seconds", &self.same_node_services_seconds, 0);
        let certificate_ttl = check.seconds("certificate-ttl", &self.certificate_ttl, 10);
        let log_json = check.log_format(&self.log_format);
        check.log_level(&self.log_level);
        if !check.is_passed() {
            return Err(check.mistakes());
        }
        Ok(Settings {
            node_name,
            xds_address,
            xds_root_ca: xds_root_ca.into(),
            ca_address,
            ca_root_ca: ca_root_ca.into(),
            ca_server_name,
            token_file: self.token_file.map(Into::into),
            server_name: self.server_name,
            inpod_uds: self.inpod_uds.map(Into::into),
            cluster_id: self.cluster_id,
            network: self.network,
            trust_domain_aliases: list(&self.trust_domain_aliases).map(str::to_owned).collect(),
            trust_domain: self.trust_domain,
            find_pods,
            cni,
            cgroup_root,
            agent_cgroup: self.agent_cgroup.map(Into::into),
            pin_dir: self.pin_dir.into(),
            run_dir: self.run_dir.into(),
            workers,
            busy_poll: Duration::from_micros(busy_poll),
            pace_from: Duration::from_micros(pace_from),
            admin_address,
            unknown_destinations,
            transport,
            key_records,
            drain,
            handover,
            instance: self.instance,
            release,
            same_node,
            same_node_age,
            same_node_services,
            certificate_ttl,
            ebpf_object: self.ebpf_object.map(Into::into),
            log_level: self.log_level,
            log_json,
        })
    }
}

/// Longest time that a worker may look for news before it sleeps, and longest round trip of a tunnel that is not paced.
const MOST_MICROS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use expect_test::expect;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let cli = Cli::parse_from([
            "mesh-node",
            "--xds-address=nowhere",
            "--workers=0",
            "--unknown-destinations=maybe",
            "--transport=quic",
            "--key-records=7",
            "--trust-domain=UPPER",
            "--drain-seconds=soon",
            "--same-node=far",
            "--log-format=xml",
            "--cni=install",
            "--cni-on-failure=ajar",
            "--cni-timeout-seconds=0",
        ]);
        let mistakes = cli.flags.check().expect_err("many mistakes");
        expect![[r#"
            15 settings are wrong:
              --node-name (NODE_NAME) is missing: the name of this node
              --xds-root-ca (XDS_ROOT_CA) is missing: a PEM file with the controller's root
              --xds-address "nowhere" is not host:port
              --ca-address "nowhere" is not host:port
              --trust-domain "UPPER": trust domain "UPPER" is empty or has characters outside a-z, 0-9, '.', '-', '_'
              --workers "0" is not a number from 1 to 256
              --unknown-destinations "maybe" is neither allow nor refuse
              --cni-on-failure "ajar" is neither closed nor open
              --cni-timeout-seconds "0" is not a number from 1 to 100
              --cni install needs --find-pods kubelet: the plugin tells of the kubelet's pods
              --transport "quic" is neither auto nor hbone
              --key-records "7" is not a number from 64 to 16777216
              --same-node "far" is neither direct nor relay
              --drain-seconds "soon" is not a number of seconds from 0 on
              --log-format "xml" is neither text nor json"#]]
        .assert_eq(&mistakes.to_string());
    }
}
