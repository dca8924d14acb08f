//! The last step: a connection that was permitted, handed to the application.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_core::policy::Permit;
use thiserror::Error;

use crate::connection::End;
use crate::pod::Pod;
use crate::socket::{self, Dialled};
use mesh_net::pool::connect_reason;

#[derive(Debug, Error)]
#[error("dial the application at {to}: {source}")]
pub struct Undeliverable {
    to: SocketAddr,
    source: io::Error,
}

impl Undeliverable {
    pub fn end(&self) -> End {
        End::because(connect_reason(&self.source), self)
    }
}

/// Dials the application as `client`, spending the permit.
///
/// # Errors
/// Nothing listens at `to`, or it does not answer in time.
pub async fn dial(
    permit: Permit,
    pod: &Pod,
    client: IpAddr,
    to: SocketAddr,
    timeout: Duration,
) -> Result<Dialled, Undeliverable> {
    drop(permit);
    let delivered = socket::deliver(&pod.netns, client, to, timeout).await;
    Ok(delivered.map_err(|source| Undeliverable { to, source })?.dialled)
}
