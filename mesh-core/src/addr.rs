//! Addresses that say what they are: two bare socket addresses never stand side by side.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

macro_rules! socket_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// Wraps `addr`, turning an IPv4-mapped IPv6 address into the IPv4 address that it is (RFC 4291 section 2.5.5.2).
            pub fn new(addr: SocketAddr) -> Self {
                Self(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
            }

            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

socket_newtype! {
    /// The address that an application asked for, before the agent took the connection.
    OrigDst
}
socket_newtype! {
    /// A pod's own address and the port that its application listens on.
    PodAddr
}
socket_newtype! {
    /// A service's virtual address and port.
    ServiceAddr
}
socket_newtype! {
    /// Where a tunnel (HBONE) is dialled: a pod's address and port 15008, or a waypoint's.
    TunnelAddr
}
socket_newtype! {
    /// The address of the end that opened a connection.
    ClientAddr
}

/// An IP address within a network: clusters on different networks may use the same addresses twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NetworkAddress {
    pub network: Arc<str>,
    pub ip: IpAddr,
}

impl NetworkAddress {
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self { network: network.into(), ip: ip.to_canonical() }
    }
}

/// `network/ip`, the form in which agents ask for an address on demand.
impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}
