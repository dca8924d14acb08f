//! What a unit reads beside the objects that it is named after.
//!
//! A reverse index says what a changed object can touch before anything is built. What a waypoint's model depends on is known
//! only while it is built (a route names a service, its rule a subset, that its pods), so such a unit notes what it read.

use std::sync::Arc;

use super::Name;
use crate::object::reference::Referent;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::index) enum Topic {
    /// What claims a hostname, and what DestinationRules and VirtualServices say of it. It may begin with a wildcard.
    Host(Arc<str>),
    /// A namespace's own labels.
    Namespace(Arc<str>),
    Gateway(Name),
    /// That there are Gateways, and for what.
    Gateways,
    VirtualService(Name),
    /// Routes that are attached to something.
    Routes(Referent, Name),
    /// What in a namespace, or everywhere, has a label: its being there, its labels and its account.
    Label(Arc<str>, Arc<str>, Arc<str>),
    /// Policies and telemetry of a namespace that waypoints carry out.
    Policies(Arc<str>),
    /// ReferenceGrants of a namespace.
    Grants(Arc<str>),
    Secret(Name),
    /// The mesh's configuration.
    MeshConfig,
    /// Services of a namespace, or everywhere.
    Services(Arc<str>),
}
