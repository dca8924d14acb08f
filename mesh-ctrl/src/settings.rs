//! What the controller is told at its start: flags, or the environment. Every mistake is reported, then it exits.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use crate::access::{Account, Tokens};
use crate::authority::{self, Elsewhere, PluggedIn, ServerName};
use crate::index;
use crate::instances;

/// Weft's controller: tells node agents what the mesh is, and issues their certificates.
#[derive(Debug, Parser)]
#[command(name = "mesh-ctrl", version, about)]
pub struct Flags {
    /// Where objects come from: kube, the Kubernetes API; or dir:PATH, a folder of Kubernetes YAML and JSON
    #[arg(long, env = "WEFT_SOURCE", default_value = "")]
    source: String,
    /// Credentials for the Kubernetes API; without, those of the pod, of $KUBECONFIG or ~/.kube/config
    #[arg(long, env = "WEFT_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Address of the control stream and the certificate service (gRPC over TLS); [::] takes IPv4 too
    #[arg(long, env = "WEFT_LISTEN", default_value = "[::]:15012")]
    listen: String,
    /// Port on localhost, or an address, for readiness, metrics and /debug
    #[arg(long, env = "WEFT_MONITORING", default_value = "15014")]
    monitoring: String,
    /// Address of the admission webhook (HTTPS), with --source kube
    #[arg(long, env = "WEFT_WEBHOOK_LISTEN", default_value = "[::]:15017")]
    webhook_listen: String,
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Network that the pods' addresses are of
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,
    /// Suffix of service names: <name>.<namespace>.svc.<cluster domain>
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Namespace whose policies are for the whole mesh
    #[arg(long, env = "ROOT_NAMESPACE", default_value = "istio-system")]
    root_namespace: String,
    /// What puts a namespace or pod into the mesh: values of istio.io/dataplane-mode, or labels as key=value
    #[arg(long, env = "WEFT_DATAPLANE_MODES", default_value = "weft", value_delimiter = ',')]
    dataplane_modes: Vec<String>,
    /// Folder for the authority's key and certificates, and root-cert.pem for agents to trust
    #[arg(long, env = "WEFT_STATE_DIR", default_value = "/var/lib/weft")]
    state_dir: PathBuf,
    /// Certificate of a plugged-in intermediate authority
    #[arg(long, env = "WEFT_CA_CERT")]
    ca_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "WEFT_CA_KEY")]
    ca_key: Option<PathBuf>,
    /// Certificates between it and the root
    #[arg(long, env = "WEFT_CA_CHAIN")]
    ca_chain: Option<PathBuf>,
    /// Its root; without a plugged-in intermediate, roots that agents are to trust besides the own one
    #[arg(long, env = "WEFT_ROOT_CERT")]
    root_cert: Option<PathBuf>,
    /// host:port of another certificate authority (istio.v1.auth.IstioCertificateService, such as istio-csr) that agents and
    /// waypoints have their certificates from; the own one then signs for the controller alone
    #[arg(long, env = "CA_ADDRESS")]
    ca_address: Option<String>,
    /// Name in its certificate, where it is not the host of --ca-address
    #[arg(long, env = "CA_SERVER_NAME")]
    ca_server_name: Option<String>,
    /// PEM file with the roots of its certificate, for waypoints
    #[arg(long, env = "CA_ROOT_CA")]
    ca_root_ca: Option<PathBuf>,
    /// File with a token for each node, as `node: token` or `node: sha256:...`; without, with --source kube, callers show
    /// a service account's token
    #[arg(long, env = "WEFT_TOKENS")]
    tokens: Option<PathBuf>,
    /// Service accounts whose tokens speak for the node of their pod, as namespace/name; default: weft-node beside the
    /// controller
    #[arg(long, env = "CA_TRUSTED_NODE_ACCOUNTS", value_delimiter = ',')]
    agent_accounts: Vec<String>,
    /// Namespace of the controller: where its Secret, ConfigMap and Lease are
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    namespace: String,
    /// DNS names and IP addresses of the controller, for its serving certificate; besides localhost
    #[arg(long, visible_alias = "san", env = "WEFT_SERVER_NAME", value_delimiter = ',')]
    server_name: Vec<String>,
    /// Image of the waypoints that are started for Gateways
    #[arg(long, env = "WEFT_WAYPOINT_IMAGE", default_value = "localhost/weft/mesh-waypoint:dev")]
    waypoint_image: String,
    /// host:port at which waypoints reach the controller; default: Service weft-controller beside it, port 15012
    #[arg(long, env = "WEFT_CONTROL_ADDRESS")]
    control_address: Option<String>,
    /// Lifetime of certificates whose request names none
    #[arg(long, env = "WEFT_LEAF_TTL", default_value = "24h")]
    leaf_ttl: String,
    /// Longest lifetime issued
    #[arg(long, env = "WEFT_MAX_LEAF_TTL", default_value = "90d")]
    max_leaf_ttl: String,
    /// Longest wait for streams to end when told to stop
    #[arg(long, env = "WEFT_DRAIN", default_value = "5s")]
    drain: String,
    /// Log level, or a filter such as info,mesh_ctrl::ads=debug
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub log: String,
    /// text or json
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "text")]
    pub log_format: String,
}

#[derive(Debug)]
pub struct Settings {
    pub source: Source,
    pub listen: SocketAddr,
    pub monitoring: SocketAddr,
    pub webhook: SocketAddr,
    pub index: index::Config,
    pub authority: authority::Config,
    /// Who signs for workloads, if it is not the controller.
    pub elsewhere: Option<Elsewhere>,
    pub server_names: Vec<ServerName>,
    pub access: Callers,
    /// Namespace of the controller.
    pub namespace: String,
    /// What waypoints are started with.
    pub waypoints: instances::Config,
    pub drain: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Folder(PathBuf),
    Kubernetes { kubeconfig: Option<PathBuf> },
}

/// How callers show which node they are.
#[derive(Debug)]
pub enum Callers {
    Tokens(Tokens),
    /// By the token of one of these service accounts.
    Accounts(BTreeSet<Account>),
}

/// A century: beyond it, sums of times may leave what a certificate can say.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Settings {
    /// # Errors
    /// Everything that is wrong, one text each.
    pub fn read(flags: Flags) -> Result<Self, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let source = mistakes.take(source(&flags));
        let listen = mistakes.take(address("--listen", &flags.listen, Ipv6Addr::UNSPECIFIED.into()));
        let monitoring = mistakes.take(address("--monitoring", &flags.monitoring, Ipv4Addr::LOCALHOST.into()));
        let webhook = address("--webhook-listen", &flags.webhook_listen, Ipv6Addr::UNSPECIFIED.into());
        let webhook = mistakes.take(webhook);
        let leaf_ttl = mistakes.take(duration("--leaf-ttl", &flags.leaf_ttl));
        let max_leaf_ttl = mistakes.take(duration("--max-leaf-ttl", &flags.max_leaf_ttl));
        let drain = mistakes.take(duration("--drain", &flags.drain));
        if let (Some(leaf), Some(max)) = (leaf_ttl, max_leaf_ttl)
            && leaf > max
        {
            mistakes.add(format!("--leaf-ttl {} is longer than --max-leaf-ttl {}", flags.leaf_ttl, flags.max_leaf_ttl));
        }
        if let Err(error) = mesh_core::identity::SpiffeId::new(&flags.trust_domain, "a", "a") {
            mistakes.add(format!("--trust-domain: {error}"));
        }
        for (flag, value) in [
            ("--cluster-domain", &flags.cluster_domain),
            ("--root-namespace", &flags.root_namespace),
            ("--namespace", &flags.namespace),
        ] {
            if !is_dns(value) {
                mistakes.add(format!("{flag}: {value:?} is no DNS name"));
            }
        }
        if flags.cluster_id.is_empty() || flags.cluster_id.contains(['/', ' ']) {
            mistakes.add(format!("--cluster-id: {:?} is empty or has '/' or ' ' in it", flags.cluster_id));
        }
        let modes: BTreeSet<std::sync::Arc<str>> =
            flags.dataplane_modes.iter().map(|m| m.trim()).filter(|m| !m.is_empty()).map(Into::into).collect();
        if modes.is_empty() {
            mistakes.add("--dataplane-modes: at least one is needed, or no pod can join".to_owned());
        }
        if modes.contains("none") {
            mistakes.add("--dataplane-modes: `none` is what opts a pod out".to_owned());
        }
        let (plugged_in, extra_roots) = plugged_in(&flags, &mut mistakes);
        let elsewhere = elsewhere(&flags, &mut mistakes);
        let server_names = server_names(&flags.server_name, &mut mistakes);
        let access = callers(&flags, &mut mistakes);
        let waypoints = waypoints(&flags, &mut mistakes);
        if let Err(error) = flags.log.parse::<tracing_subscriber::EnvFilter>() {
            mistakes.add(format!("--log: {error}"));
        }
        if !["text", "json"].contains(&&*flags.log_format) {
            mistakes.add(format!("--log-format: {:?} is neither text nor json", flags.log_format));
        }
        match (source, listen, monitoring, webhook, leaf_ttl, max_leaf_ttl, drain, access) {
            (
                Some(source),
                Some(listen),
                Some(monitoring),
                Some(webhook),
                Some(leaf_ttl),
                Some(max_leaf_ttl),
                Some(drain),
                Some(access),
            ) if mistakes.0.is_empty() => Ok(Self {
                source,
                listen,
                monitoring,
                webhook,
                index: index::Config {
                    cluster_id: flags.cluster_id.as_str().into(),
                    network: flags.network.as_str().into(),
                    trust_domain: flags.trust_domain.as_str().into(),
                    cluster_domain: flags.cluster_domain.as_str().into(),
                    root_namespace: flags.root_namespace.as_str().into(),
                    dataplane_modes: modes,
                },
                authority: authority::Config {
                    state_dir: flags.state_dir,
                    trust_domain: flags.trust_domain,
                    plugged_in,
                    extra_roots,
                    leaf_ttl,
                    max_leaf_ttl,
                },
                elsewhere,
                server_names,
                access,
                namespace: flags.namespace,
                waypoints,
                drain,
            }),
            _ => Err(mistakes.0),
        }
    }
}

#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn add(&mut self, mistake: String) {
        self.0.push(mistake);
    }

    fn take<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|mistake| self.add(mistake)).ok()
    }
}

fn source(flags: &Flags) -> Result<Source, String> {
    if let Some(path) = flags.kubeconfig.as_ref().filter(|path| !path.is_file()) {
        return Err(format!("--kubeconfig: {} is no file", path.display()));
    }
    match flags.source.split_once(':') {
        None if flags.source == "kube" => Ok(Source::Kubernetes { kubeconfig: flags.kubeconfig.clone() }),
        _ if flags.kubeconfig.is_some() => Err("--kubeconfig belongs to --source kube".to_owned()),
        Some(("dir", path)) if Path::new(path).is_dir() => Ok(Source::Folder(path.into())),
        Some(("dir", path)) => Err(format!("--source: {path:?} is no folder")),
        _ if flags.source.is_empty() => Err("--source is missing: kube, or dir:PATH".to_owned()),
        _ => Err(format!("--source: {:?} is neither kube nor dir:PATH", flags.source)),
    }
}

fn callers(flags: &Flags, mistakes: &mut Mistakes) -> Option<Callers> {
    if let Some(path) = &flags.tokens {
        return mistakes.take(Tokens::open(path).map(Callers::Tokens).map_err(|e| format!("--tokens: {}", causes(&e))));
    }
    if flags.source != "kube" {
        mistakes.add("--tokens is missing: a file with a token for each node".to_owned());
        return None;
    }
    let own = [format!("{}/weft-node", flags.namespace)];
    let texts = if flags.agent_accounts.is_empty() { &own[..] } else { &flags.agent_accounts[..] };
    let accounts = texts.iter().filter_map(|text| {
        mistakes.take(text.parse::<Account>().map_err(|error| format!("--agent-accounts: {error}")))
    });
    Some(Callers::Accounts(accounts.collect()))
}

fn waypoints(flags: &Flags, mistakes: &mut Mistakes) -> instances::Config {
    let service = format!("weft-controller.{}.svc", flags.namespace);
    let controller = flags.control_address.clone().unwrap_or_else(|| format!("{service}:15012"));
    if !is_host_and_port(&controller) {
        mistakes.add(format!("--control-address: {controller:?} is not host:port"));
    }
    if flags.waypoint_image.is_empty() {
        mistakes.add("--waypoint-image is empty".to_owned());
    }
    instances::Config {
        image: flags.waypoint_image.clone(),
        controller,
        // The first of them is the one that is meant for others.
        server_name: flags.server_name.first().map(|name| name.trim().to_owned()).unwrap_or(service),
        cluster_id: flags.cluster_id.clone(),
        network: flags.network.clone(),
        trust_domain: flags.trust_domain.clone(),
    }
}

fn elsewhere(flags: &Flags, mistakes: &mut Mistakes) -> Option<Elsewhere> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let Some(address) = given(&flags.ca_address) else {
        if given(&flags.ca_server_name).is_some() || flags.ca_root_ca.is_some() {
            mistakes.add("--ca-server-name and --ca-root-ca belong to --ca-address, which is missing".to_owned());
        }
        return None;
    };
    if !is_host_and_port(address.strip_prefix("https://").unwrap_or(&address)) {
        mistakes.add(format!("--ca-address: {address:?} is not host:port"));
    }
    match &flags.ca_root_ca {
        Some(path) if path.is_file() => {}
        Some(path) => mistakes.add(format!("--ca-root-ca: {} is no file", path.display())),
        None => mistakes.add("--ca-root-ca is missing: a PEM file with the roots of --ca-address".to_owned()),
    }
    Some(Elsewhere { address, server_name: given(&flags.ca_server_name), roots: flags.ca_root_ca.clone()? })
}

fn is_host_and_port(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    matches!(port, Some(Ok(1..)))
}

/// An address, or a port on `host`.
fn address(flag: &str, text: &str, host: IpAddr) -> Result<SocketAddr, String> {
    if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
        return Ok(SocketAddr::new(host, port));
    }
    text.parse().map_err(|_| format!("{flag}: {text:?} is neither a port nor an IP address and port"))
}

/// A number and one of ms, s, m, h, d.
fn duration(flag: &str, text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let seconds = |n: u64, each: u64| n.checked_mul(each).map(Duration::from_secs);
    let parsed = text[..text.len() - unit.len()].parse().ok().and_then(|n: u64| match unit {
        "ms" => Some(Duration::from_millis(n)),
        "s" => seconds(n, 1),
        "m" => seconds(n, 60),
        "h" => seconds(n, 3600),
        "d" => seconds(n, 24 * 3600),
        _ => None,
    });
    match parsed {
        Some(parsed) if !parsed.is_zero() && parsed <= MAX_DURATION => Ok(parsed),
        _ => Err(format!("{flag}: {text:?} is no time such as 30s, 10m, 24h or 90d")),
    }
}

fn plugged_in(flags: &Flags, mistakes: &mut Mistakes) -> (Option<PluggedIn>, Option<PathBuf>) {
    for (flag, path) in [
        ("--ca-cert", &flags.ca_cert),
        ("--ca-key", &flags.ca_key),
        ("--ca-chain", &flags.ca_chain),
        ("--root-cert", &flags.root_cert),
    ] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            mistakes.add(format!("{flag}: {} is no file", path.display()));
        }
    }
    match (&flags.ca_cert, &flags.ca_key, &flags.root_cert) {
        (Some(cert), Some(key), Some(root)) => {
            let (cert, key, chain, root) = (cert.clone(), key.clone(), flags.ca_chain.clone(), root.clone());
            (Some(PluggedIn { cert, key, chain, root }), None)
        }
        (None, None, root) => {
            if flags.ca_chain.is_some() {
                mistakes.add("--ca-chain needs --ca-cert, --ca-key and --root-cert".to_owned());
            }
            (None, root.clone())
        }
        _ => {
            mistakes.add("--ca-cert, --ca-key and --root-cert belong together; one is missing".to_owned());
            (None, None)
        }
    }
}

fn server_names(texts: &[String], mistakes: &mut Mistakes) -> Vec<ServerName> {
    let mut names = vec![
        ServerName::Dns("localhost".to_owned()),
        ServerName::Ip(Ipv4Addr::LOCALHOST.into()),
        ServerName::Ip(Ipv6Addr::LOCALHOST.into()),
    ];
    for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let name = match text.parse() {
            Ok(ip) => ServerName::Ip(ip),
            Err(_) if is_dns(text.strip_prefix("*.").unwrap_or(text)) => ServerName::Dns(text.to_ascii_lowercase()),
            Err(_) => {
                mistakes.add(format!("--server-name: {text:?} is neither a DNS name nor an IP address"));
                continue;
            }
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn is_dns(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", causes(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(args: &[&str], expect: Expect) {
        let flags = Flags::try_parse_from(["mesh-ctrl"].iter().chain(args)).unwrap();
        let seen = match Settings::read(flags) {
            Ok(s) => format!("{:?} {} {} {:?}", s.source, s.listen, s.monitoring, s.server_names),
            Err(mistakes) => mistakes.join("\n"),
        };
        expect.assert_eq(&seen);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        check(
            &[
                "--source",
                "git:x",
                "--listen",
                "here",
                "--webhook-listen",
                "there",
                "--trust-domain",
                "A B",
                "--leaf-ttl",
                "soon",
                "--ca-cert",
                "/no",
                "--control-address",
                "somewhere",
                "--ca-address",
                "nowhere",
            ],
            expect![[r#"
                --source: "git:x" is neither kube nor dir:PATH
                --listen: "here" is neither a port nor an IP address and port
                --webhook-listen: "there" is neither a port nor an IP address and port
                --leaf-ttl: "soon" is no time such as 30s, 10m, 24h or 90d
                --trust-domain: trust domain "A B" is empty or has characters outside a-z, 0-9, '.', '-', '_'
                --ca-cert: /no is no file
                --ca-cert, --ca-key and --root-cert belong together; one is missing
                --ca-address: "nowhere" is not host:port
                --ca-root-ca is missing: a PEM file with the roots of --ca-address
                --tokens is missing: a file with a token for each node
                --control-address: "somewhere" is not host:port"#]],
        );
        check(
            &[
                "--leaf-ttl",
                "2d",
                "--max-leaf-ttl",
                "1d",
                "--dataplane-modes",
                "none",
                "--san",
                "a b",
                "--tokens",
                "/no",
                "--ca-server-name",
                "ca.example",
            ],
            expect![[r#"
                --source is missing: kube, or dir:PATH
                --leaf-ttl 2d is longer than --max-leaf-ttl 1d
                --dataplane-modes: `none` is what opts a pod out
                --ca-server-name and --ca-root-ca belong to --ca-address, which is missing
                --server-name: "a b" is neither a DNS name nor an IP address
                --tokens: read the tokens in /no: No such file or directory (os error 2)"#]],
        );
    }

    #[test]
    fn a_bare_port_listens_everywhere_for_agents_and_on_localhost_for_people() {
        let tokens = tempfile::NamedTempFile::new().unwrap();
        let tokens = tokens.path().to_str().unwrap();
        check(
            &[
                "--source",
                "dir:/",
                "--listen",
                "1",
                "--monitoring",
                "2",
                "--tokens",
                tokens,
                "--san",
                "c.example,10.0.0.1",
            ],
            expect![[
                r#"Folder("/") [::]:1 127.0.0.1:2 [Dns("localhost"), Ip(127.0.0.1), Ip(::1), Dns("c.example"), Ip(10.0.0.1)]"#
            ]],
        );
    }
}
