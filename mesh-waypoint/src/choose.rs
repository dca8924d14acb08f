//! Which endpoint of a service, or the workload itself.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Health, Uid};
use rand::RngExt;
use thiserror::Error;

use crate::asked::{Asked, Of, endpoints};
use crate::dial::Endpoint;

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoEndpoint {
    #[error("the service is not known")]
    NoService,
    #[error("the service has no such port")]
    NoPort,
    #[error("no endpoint is healthy")]
    NoneHealthy,
}

/// # Errors
/// See [`NoEndpoint`].
pub fn choose(
    snapshot: &Snapshot,
    service: &Arc<Service>,
    port: u16,
    asked: SocketAddr,
    tried: &[Uid],
) -> Result<Endpoint, NoEndpoint> {
    if service.port(port).is_none() {
        return Err(NoEndpoint::NoPort);
    }
    let all: Vec<Endpoint> = endpoints(snapshot, service, port)
        .filter(|(w, _)| w.capacity > 0 && (w.health == Health::Healthy || service.load_balancing.allow_unhealthy))
        .filter_map(|(workload, port)| Endpoint::new(workload, port, Some(service), asked.ip()))
        .collect();
    let fresh: Vec<&Endpoint> = all.iter().filter(|e| !tried.contains(e.uid())).collect();
    let from: Vec<&Endpoint> = if fresh.is_empty() { all.iter().collect() } else { fresh };
    match from.len() {
        0 => Err(NoEndpoint::NoneHealthy),
        n => Ok(from[rand::rng().random_range(0..n)].clone()),
    }
}

/// The workload that was asked for by its own address.
pub fn itself(snapshot: &Snapshot, asked: &Asked) -> Option<Endpoint> {
    match &asked.of {
        Of::Workload(uid) => {
            let mut endpoint = Endpoint::new(snapshot.workload(uid)?, asked.address.port(), None, asked.address.ip())?;
            endpoint.address = asked.address;
            Some(endpoint)
        }
        Of::Service(_) => None,
    }
}
