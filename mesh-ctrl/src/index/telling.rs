//! What of the index is told in objects' status: who uses which waypoint, what routes are attached to, how a Gateway does.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::workload::ServiceKey;

use super::cluster::{Member, Name, RouteRef, Topic, attached_to};
use super::waypoints::GATEWAY_NAME;
use super::{Built, Index, WAYPOINT_CLASS};
use crate::object::reference::{ParentRef, Referent};
use crate::object::{Gateway, Kind, Labels, Object, ObjectKey, Pod, Standing};
use crate::source::Event;

/// What became of a service's label that names a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub namespace: Arc<str>,
    pub gateway: Arc<str>,
    pub is_there: bool,
    /// The Gateway does not take routes of the service's namespace.
    pub is_refused: bool,
}

/// One of a route's parents, as it is written.
#[derive(Clone, Debug)]
pub struct Parent<'a> {
    /// Place in `spec.parentRefs`.
    pub at: usize,
    pub reference: &'a ParentRef,
}

/// A Gateway whose instances the controller runs.
#[derive(Clone, Debug)]
pub struct Gate<'a> {
    pub gateway: &'a Gateway,
    /// Of its Service.
    pub addresses: &'a [IpAddr],
    /// Instances that are ready: with a certificate, and told what there is.
    pub ready: usize,
    /// Routes of each listener.
    pub attached: Vec<usize>,
}

impl Index {
    pub fn standings(&self) -> impl Iterator<Item = (&ObjectKey, &Standing)> {
        self.standings.iter()
    }

    pub fn standing(&self, key: &ObjectKey) -> Option<&Standing> {
        self.standings.get(key)
    }

    pub fn gateway(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Gateway> {
        self.cluster.layer7.gateways.get(&Name { namespace: namespace.clone(), name: name.clone() })
    }

    /// Those of class [`WAYPOINT_CLASS`].
    pub fn deployed_gateways(&self) -> impl Iterator<Item = &Gateway> {
        let gateways = self.cluster.layer7.gateways.values();
        gateways.filter(|gateway| is_deployed(gateway) && gateway.metadata.deletion_timestamp.is_none())
    }

    /// How a Gateway of class [`WAYPOINT_CLASS`] does.
    pub fn gate(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<Gate<'_>> {
        let gateway = self.gateway(namespace, name).filter(|gateway| is_deployed(gateway))?;
        let name = Name::of(&gateway.metadata);
        let addresses = self.cluster.services.get(&name).map(|service| &*service.addresses).unwrap_or_default();
        let label = Labels::from([(Arc::from(GATEWAY_NAME), name.name.clone())]);
        let pods = self.cluster.selected(&name.namespace, &label).filter_map(|member| match member {
            Member::Pod(name) => self.cluster.pods.get(name),
            Member::Entry(_) => None,
        });
        let is_ready = |pod: &&Pod| pod.ready && !pod.has_ended() && pod.metadata.deletion_timestamp.is_none();
        Some(Gate { gateway, addresses, ready: pods.filter(is_ready).count(), attached: self.attached(gateway, &name) })
    }

    fn attached(&self, gateway: &Gateway, name: &Name) -> Vec<usize> {
        let key = (Referent::Gateway, name.clone());
        let routes: Vec<_> = self.cluster.layer7.routes_for.get(&key).into_iter().flatten().collect();
        let listeners = gateway.spec.listeners.iter().map(|listener| {
            let names = |parent: &ParentRef, namespace: &Arc<str>| {
                attached_to(parent, namespace).as_ref() == Some(&key)
                    && parent.section_name.as_ref().is_none_or(|section| *section == listener.name)
                    && parent.port.is_none_or(|port| port == listener.port)
            };
            let is_attached = |route: &&&RouteRef| {
                let (parents, _) = self.cluster.parents_of(route.kind, &route.name);
                parents.iter().any(|parent| names(parent, &route.name.namespace))
            };
            routes.iter().filter(is_attached).count()
        });
        listeners.collect()
    }

    /// The waypoint that a Service or ServiceEntry asks for, by its own label or its namespace's; `None`: none, or one that is
    /// not for services.
    pub fn binding(&self, object: &ObjectKey) -> Option<Binding> {
        let name = Name { namespace: object.namespace.clone(), name: object.name.clone() };
        let hostname = match object.kind {
            Kind::Service => self.cluster.hostname(&name),
            Kind::ServiceEntry => self.cluster.service_entries.get(&name)?.hosts.first()?.clone(),
            _ => return None,
        };
        let key = ServiceKey { namespace: object.namespace.clone(), hostname };
        let mut aside = Built::default();
        let waypoint = self.cluster.waypoint_of_service(&key, &mut aside)?;
        let is_there = self.cluster.waypoint_gateway(&waypoint.name, &mut aside).is_some();
        let Name { namespace, name: gateway } = waypoint.name;
        Some(Binding { namespace, gateway, is_there, is_refused: waypoint.is_refused })
    }

    /// The parents of a route for which it is ours to say whether it is in force.
    pub fn parents(&self, route: &ObjectKey) -> Vec<Parent<'_>> {
        let name = Name { namespace: route.namespace.clone(), name: route.name.clone() };
        let (parents, _) = self.cluster.parents_of(route.kind, &name);
        let parents = parents.iter().enumerate().filter(|(_, parent)| match attached_to(parent, &name.namespace) {
            Some((Referent::Gateway, gateway)) => {
                self.cluster.waypoint_gateway(&gateway, &mut Built::default()).is_some()
            }
            Some((Referent::Service | Referent::ServiceEntry, _)) => true,
            Some((Referent::GatewayClass, _)) | None => false,
        });
        parents.map(|(at, reference)| Parent { at, reference }).collect()
    }

    /// Whether a policy is attached to something by `targetRefs`. Others hold where their selector says.
    pub fn is_targeted(&self, policy: &ObjectKey) -> bool {
        let name = Name { namespace: policy.namespace.clone(), name: policy.name.clone() };
        let objects = &self.cluster.layer7;
        match policy.kind {
            Kind::AuthorizationPolicy => {
                self.cluster.authorizations.get(&name).is_some_and(|policy| !policy.targets.is_empty())
            }
            Kind::RequestAuthentication => objects
                .request_authentications
                .get(&name)
                .is_some_and(|policy| policy.spec.target_ref.is_some() || !policy.spec.target_refs.is_empty()),
            Kind::Telemetry => objects
                .telemetries
                .get(&name)
                .is_some_and(|telemetry| telemetry.spec.target_ref.is_some() || !telemetry.spec.target_refs.is_empty()),
            _ => false,
        }
    }
}

/// Whether an event can change what is told, but for findings.
pub(super) fn stirs(event: &Event) -> bool {
    match event {
        Event::Apply(Object::Pod(pod)) => pod.metadata.label(GATEWAY_NAME).is_some(),
        Event::Apply(object) => !is_aside(object.kind()),
        Event::Delete(key) => !is_aside(key.kind),
        Event::Standing(..) | Event::InitialSynced | Event::Findings(_) => true,
    }
}

/// Pods that come to carry a Gateway out, or no longer do.
pub(super) fn is_of_instances(topic: &Topic) -> bool {
    matches!(topic, Topic::Label(_, key, _) if **key == *GATEWAY_NAME)
}

fn is_aside(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::EndpointSlice)
}

fn is_deployed(gateway: &Gateway) -> bool {
    *gateway.spec.gateway_class_name == *WAYPOINT_CLASS
}
