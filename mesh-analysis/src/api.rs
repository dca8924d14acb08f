//! The tables: what Istio's and the Gateway API's resources are. Data, and nothing else.

mod istio;
mod gateway_api;

pub use crate::schema::Kind;

/// Release of the Gateway API that its tables are from.
pub const GATEWAY_API_VERSION: &str = gateway_api::BUNDLE_VERSION;

/// A set of CRDs that is installed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bundle {
    Istio,
    GatewayApi,
}

impl Bundle {
    pub const ALL: [Self; 2] = [Self::Istio, Self::GatewayApi];

    /// Its kinds, in the order of their CRDs' names.
    pub fn kinds(self) -> &'static [&'static Kind] {
        match self {
            Self::Istio => istio::KINDS,
            Self::GatewayApi => gateway_api::KINDS,
        }
    }
}

/// The kind, if there is a table for it. `group` without a version.
pub fn kind(group: &str, kind: &str) -> Option<&'static Kind> {
    kinds().find(|known| known.group == group && known.kind == kind)
}

/// All kinds of all bundles.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    Bundle::ALL.into_iter().flat_map(Bundle::kinds).copied()
}
