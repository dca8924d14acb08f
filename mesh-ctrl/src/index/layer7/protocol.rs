//! What is spoken on the ports of a service.

use mesh_core::l7::Protocol;
use mesh_core::workload::ServiceKey;

use super::Port;
use crate::index::cluster::Cluster;

impl Cluster {
    /// TCP ports of whatever stands for a hostname in a namespace.
    pub(super) fn ports_of(&self, key: &ServiceKey) -> Vec<Port> {
        let Some(claim) = self.claim(key) else { return Vec::new() };
        match claim.is_entry {
            true => {
                let ports = self.service_entries.get(&claim.name).into_iter().flat_map(|entry| &entry.ports);
                let tcp = ports.filter(|port| !port.protocol.eq_ignore_ascii_case("UDP"));
                tcp.map(|port| Port {
                    number: port.number,
                    name: port.name.clone(),
                    protocol: protocol(Some(&*port.protocol).filter(|p| !p.is_empty()), &port.name),
                })
                .collect()
            }
            false => {
                let ports = self.services.get(&claim.name).into_iter().flat_map(|service| &service.ports);
                ports
                    .map(|port| Port {
                        number: port.number,
                        name: port.name.clone(),
                        protocol: protocol(port.app_protocol.as_deref(), &port.name),
                    })
                    .collect()
            }
        }
    }
}

/// What is declared, else what the name begins with.
fn protocol(declared: Option<&str>, name: &str) -> Protocol {
    let word = match declared {
        Some(declared) => declared.to_ascii_lowercase(),
        // `http-admin` is HTTP; the word ends at the dash. `grpc-web` is a word of its own.
        None if name.to_ascii_lowercase().starts_with("grpc-web") => "grpc-web".to_owned(),
        None => name.split('-').next().unwrap_or_default().to_ascii_lowercase(),
    };
    match word.as_str() {
        "http" | "kubernetes.io/ws" | "grpc-web" => Protocol::Http,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => Protocol::Tcp,
        _ => Protocol::Detect,
    }
}
