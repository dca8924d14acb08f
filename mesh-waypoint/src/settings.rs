//! What an operator sets: flags, or the environment names of the agent, and which Gateway this is.
//!
//! Everything is read and checked before anything starts, and every mistake is reported at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mesh_core::identity::SpiffeId;
use mesh_core::l7::WaypointKey;
use mesh_core::l7::telemetry::{Place, Provider, ProviderProtocol};
use mesh_net::pool::Transport;
use mesh_net::settings::{Check, Mistakes, list};

/// Flags as written. They are read as text, so that all mistakes are found in one go.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// Name of the Gateway that this instance carries out.
    #[arg(long, env = "GATEWAY_NAME")]
    pub gateway_name: Option<String>,
    /// Namespace of the Gateway, and of this instance.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// Service account of this instance; the Gateway's name if not set.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub service_account: Option<String>,
    /// Name of this instance's pod, for logs and to know its own place; the Gateway's name if not set.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Name of the node that this runs on, as the control plane knows it.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Where HBONE and lanes are accepted.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "[::]:15008")]
    pub listen: String,
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
    /// File with the token that the controller and the authority know this instance by.
    #[arg(long, env = "AUTH_TOKEN_FILE")]
    pub token_file: Option<String>,
    /// Name in the controller's certificate, where it is not the host of its address.
    #[arg(long, env = "XDS_SERVER_NAME")]
    pub server_name: Option<String>,
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Further trust domains whose workloads may connect, separated by commas.
    #[arg(long, env = "TRUST_DOMAIN_ALIASES", default_value = "")]
    pub trust_domain_aliases: String,
    /// Threads that carry requests; by default as many as cores.
    #[arg(long, env = "WORKER_THREADS")]
    pub workers: Option<String>,
    /// Requests that a thread carries at once before it refuses clients that have more than their share; by default what the memory of the
    /// process is enough for.
    #[arg(long, env = "WORKER_REQUESTS")]
    pub worker_requests: Option<String>,
    /// How long a client or an endpoint may stop in the middle of a body, or take nothing of what it is sent, in seconds.
    #[arg(long, env = "STREAM_IDLE_SECONDS", default_value = "300")]
    pub stream_idle_seconds: String,
    /// Where readiness, metrics and views are served.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: String,
    /// How agents are spoken to: auto (Weft's own transport where the peer knows it) or hbone.
    #[arg(long, env = "TRANSPORT", default_value = "auto")]
    pub transport: String,
    /// How long requests may go on after SIGTERM, in seconds.
    #[arg(long, env = "DRAIN_SECONDS", default_value = "20")]
    pub drain_seconds: String,
    /// Lifetime asked for certificates, in seconds.
    #[arg(long, env = "SECRET_TTL", default_value = "86400")]
    pub certificate_ttl: String,
    /// Collector of spans by OTLP over gRPC, host:port, for what no Telemetry says another.
    #[arg(long, env = "TRACING_OTLP")]
    pub tracing_otlp: Option<String>,
    /// Collector of spans by Zipkin's JSON, host:port or host:port/path, for what no Telemetry says another.
    #[arg(long, env = "TRACING_ZIPKIN")]
    pub tracing_zipkin: Option<String>,
    /// Log filter, such as info,mesh_waypoint=debug.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: String,
}

/// Settings that hold.
#[derive(Clone, Debug)]
pub struct Settings {
    pub gateway: WaypointKey,
    pub identity: SpiffeId,
    pub pod_name: String,
    pub node_name: String,
    pub listen: SocketAddr,
    pub xds_address: String,
    pub xds_root_ca: PathBuf,
    pub ca_address: String,
    pub ca_root_ca: PathBuf,
    pub ca_server_name: Option<String>,
    pub token_file: Option<PathBuf>,
    pub server_name: Option<String>,
    pub cluster_id: String,
    pub network: String,
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    pub workers: usize,
    /// `None`: what the memory is enough for.
    pub worker_requests: Option<usize>,
    pub stream_idle: Duration,
    pub admin_address: SocketAddr,
    pub transport: Transport,
    pub drain: Duration,
    pub certificate_ttl: Duration,
    /// Who is told of spans, as far as no model says another.
    pub tracing: Option<Provider>,
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
        let name = require(&self.gateway_name, "gateway-name", "GATEWAY_NAME", "the name of the Gateway");
        let namespace = require(&self.namespace, "namespace", "POD_NAMESPACE", "the namespace of the Gateway");
        let node_name = require(&self.node_name, "node-name", "NODE_NAME", "the name of the node that this runs on");
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
        let account = self.service_account.filter(|a| !a.is_empty()).unwrap_or_else(|| name.clone());
        let placeholder = |text: &str| if text.is_empty() { "x".to_owned() } else { text.to_owned() };
        let identity = SpiffeId::new(&self.trust_domain, &placeholder(&namespace), &placeholder(&account))
            .map_err(|error| check.mistake(format!("--trust-domain, --namespace or --service-account: {error}")));
        let workers = check.workers(self.workers.as_deref(), usize::MAX);
        let worker_requests = self.worker_requests.as_deref().map(|text| match text.parse::<usize>() {
            Ok(count) if count >= 1 => count,
            _ => {
                check.mistake(format!("--worker-requests {text:?} is not a number from 1 on"));
                1
            }
        });
        let listen = check.ip_and_port("listen", &self.listen);
        let admin_address = check.ip_and_port("admin-address", &self.admin_address);
        let transport = check.transport(&self.transport);
        let stream_idle = check.seconds("stream-idle-seconds", &self.stream_idle_seconds, 1);
        let drain = check.seconds("drain-seconds", &self.drain_seconds, 0);
        let certificate_ttl = check.seconds("certificate-ttl", &self.certificate_ttl, 10);
        let [otlp, zipkin] =
            [&self.tracing_otlp, &self.tracing_zipkin].map(|text| text.as_deref().filter(|t| !t.is_empty()));
        let tracing = match (otlp, zipkin) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                check.mistake("--tracing-otlp (TRACING_OTLP) and --tracing-zipkin (TRACING_ZIPKIN) are both set");
                None
            }
            (Some(text), None) => provider(text, ProviderProtocol::OtlpGrpc).or_else(|| {
                check.mistake(format!("--tracing-otlp {text:?} is not host:port"));
                None
            }),
            (None, Some(text)) => provider(text, ProviderProtocol::Zipkin).or_else(|| {
                check.mistake(format!("--tracing-zipkin {text:?} is not host:port or host:port/path"));
                None
            }),
        };
        let log_json = check.log_format(&self.log_format);
        check.log_level(&self.log_level);
        let (Ok(identity), true) = (identity, check.is_passed()) else { return Err(check.mistakes()) };
        Ok(Settings {
            pod_name: self.pod_name.filter(|n| !n.is_empty()).unwrap_or_else(|| name.clone()),
            gateway: WaypointKey { namespace: namespace.into(), name: name.into() },
            identity,
            node_name,
            listen,
            xds_address,
            xds_root_ca: xds_root_ca.into(),
            ca_address,
            ca_root_ca: ca_root_ca.into(),
            ca_server_name,
            token_file: self.token_file.map(Into::into),
            server_name: self.server_name,
            cluster_id: self.cluster_id,
            network: self.network,
            trust_domain: self.trust_domain,
            trust_domain_aliases: list(&self.trust_domain_aliases).map(str::to_owned).collect(),
            workers,
            worker_requests,
            stream_idle,
            admin_address,
            transport,
            drain,
            certificate_ttl,
            tracing,
            log_level: self.log_level,
            log_json,
        })
    }
}

/// `host:port`, for HTTP with a path behind it; IPv6 addresses in brackets.
fn provider(text: &str, protocol: ProviderProtocol) -> Option<Provider> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let (at, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (host, port) = at.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_grpc = protocol == ProviderProtocol::OtlpGrpc;
    if host.is_empty() || is_grpc && !matches!(path, "" | "/") {
        return None;
    }
    let path = if path == "/" { "" } else { path };
    Some(Provider {
        protocol,
        place: Place::Host(host.into()),
        port: port.parse().ok()?,
        path: path.into(),
        headers: Vec::new(),
        timeout: None,
        longest_path: None,
        short_ids: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_named_by_host_and_port() {
        let told = |text: &str, protocol| {
            let Provider { place: Place::Host(host), port, path, .. } = provider(text, protocol)? else { return None };
            Some(format!("{host} {port} {path}"))
        };
        for (text, otlp, zipkin) in [
            ("otel.obs:4317", Some("otel.obs 4317 "), Some("otel.obs 4317 ")),
            ("http://zipkin:9411/api/v2/spans", None, Some("zipkin 9411 /api/v2/spans")),
            ("[::1]:9411/", Some("::1 9411 "), Some("::1 9411 ")),
            ("zipkin", None, None),
            (":9411", None, None),
            ("zipkin:x/api", None, None),
        ] {
            assert_eq!(told(text, ProviderProtocol::OtlpGrpc).as_deref(), otlp, "{text}");
            assert_eq!(told(text, ProviderProtocol::Zipkin).as_deref(), zipkin, "{text}");
        }
    }
}
