//! Who is where on the namespace's loopback, and under which names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_core::identity::SpiffeId;

use super::talk::Kind;

/// One way of asking: what is spoken, and whether both hops are mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Door {
    pub kind: Kind,
    pub tls: bool,
}

impl Door {
    /// All that proxies listen for; [`Kind::Large`] comes by HTTP/1.1's.
    pub const ALL: [Door; 5] = [
        Door { kind: Kind::Http1, tls: false },
        Door { kind: Kind::Http2, tls: false },
        Door { kind: Kind::Grpc, tls: false },
        Door { kind: Kind::Http1, tls: true },
        Door { kind: Kind::Grpc, tls: true },
    ];

    fn number(self) -> u16 {
        let kind = match self.kind {
            Kind::Http1 | Kind::Large => 1,
            Kind::Http2 => 2,
            Kind::Grpc => 3,
        };
        kind + if self.tls { 100 } else { 0 }
    }

    pub(super) fn name(self) -> String {
        format!("{:?}{}", self.kind, if self.tls { "_mtls" } else { "" }).to_lowercase()
    }

    /// The proxy's port.
    #[must_use]
    pub fn proxy(self) -> u16 {
        8000 + self.number()
    }

    /// The backend's port.
    #[must_use]
    pub fn backend(self) -> u16 {
        9000 + self.number()
    }

    /// The port of the service that Weft's waypoint is asked for.
    #[must_use]
    pub fn service(self) -> u16 {
        80 + self.number() % 100
    }
}

/// Whatever connects from this machine comes from here.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// All backends but the one behind tunnels.
pub const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// The backend that is in the mesh.
pub const MESHED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Virtual addresses of the services in front of the two.
pub const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
pub const MESHED_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2));
/// Tunnels.
pub const TUNNEL: u16 = 15008;

#[must_use]
pub fn backend(door: Door) -> SocketAddr {
    SocketAddr::new(BACKEND, door.backend())
}

pub const TRUST_DOMAIN: &str = "mesh.test";
/// Name in the certificates of proxies and backends.
pub const SERVER_NAME: &str = "server.shop.test";

/// Who asks, who stands between, and who answers.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    Client,
    Proxy,
    Backend,
}

impl Role {
    /// # Panics
    /// Never: the names are such as identities have.
    #[must_use]
    pub fn identity(self) -> SpiffeId {
        let account = match self {
            Role::Client => "client",
            Role::Proxy => "gate",
            Role::Backend => "web",
        };
        SpiffeId::new(TRUST_DOMAIN, "shop", account).expect("names of an identity")
    }
}
