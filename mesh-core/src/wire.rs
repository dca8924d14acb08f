//! Messages as they travel, and the only way from them into the model: `TryFrom`, with a reason when it fails.

mod address;
mod authorization;
mod layer7;
mod traffic;
mod scope;

pub use address::InvalidAddress;
pub use authorization::{InvalidAuthorization, read_authorization};
pub use layer7::InvalidLayer7;
pub use traffic::InvalidTraffic;

/// `istio.workload`
#[allow(clippy::doc_markdown, clippy::large_enum_variant, unreachable_pub, missing_docs)]
pub mod workload {
    include!(concat!(env!("OUT_DIR"), "/istio.workload.rs"));
}

/// `istio.workload.zds`
#[allow(unreachable_pub)]
pub mod zds {
    include!(concat!(env!("OUT_DIR"), "/istio.workload.zds.rs"));
}

/// `istio.security`
#[allow(unreachable_pub)]
pub mod security {
    include!(concat!(env!("OUT_DIR"), "/istio.security.rs"));
}

/// `weft.v1`, extensions of our own.
#[allow(unreachable_pub)]
pub mod extensions {
    include!(concat!(env!("OUT_DIR"), "/weft.v1.rs"));
}

/// `envoy.service.discovery.v3`, the incremental part.
#[allow(unreachable_pub)]
pub mod discovery {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
}

/// `istio.v1.auth`
#[allow(unreachable_pub)]
pub mod ca {
    include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
}

/// Type URL of workloads and services on the control stream.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of L4 policies on the control stream.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";
/// Type URL of what a waypoint does for its services. It is asked for by the waypoint's name, `namespace/name`.
pub const LAYER7_TYPE: &str = "type.googleapis.com/weft.v1.Layer7";
/// Name and type URL of the workload extension that lists plaintext ports.
pub const PLAINTEXT_PORTS_EXTENSION: &str = "weft.io/plaintext-ports";
pub const ENCRYPT_ALWAYS_EXTENSION: &str = "weft.io/encrypt-always";
pub const ENCRYPT_ALWAYS_TYPE: &str = "type.googleapis.com/weft.v1.EncryptAlways";
/// Of a service: what clients' agents do with connections to it.
pub const TRAFFIC_EXTENSION: &str = "weft.io/traffic";
pub const TRAFFIC_TYPE: &str = "type.googleapis.com/weft.v1.Traffic";
/// Which pod of its node a workload is.
pub const POD_UID_EXTENSION: &str = "weft.io/pod-uid";
pub const POD_UID_TYPE: &str = "type.googleapis.com/weft.v1.PodUid";
pub const PLAINTEXT_PORTS_TYPE: &str = "type.googleapis.com/weft.v1.PlaintextPorts";

/// A resource of [`ADDRESS_TYPE`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum Address {
    Workload(crate::workload::Workload),
    Service(crate::service::Service),
}
