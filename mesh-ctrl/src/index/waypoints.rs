//! Which waypoint, if any, a service or a workload is reached through.
//!
//! A label names it, on the thing itself or on its namespace; what the thing says wins, and `none` is none. A label that names
//! a waypoint which is not there, or which does not take the namespace, still counts: connections go to it and fail, where
//! without it they would go around the policies that it was to carry out.

use std::sync::Arc;

use mesh_core::workload::{GatewayAddress, GatewayDestination, ServiceKey};

use super::Built;
use super::cluster::{Cluster, Name, Topic};
use crate::object::gateway::From_;
use crate::object::{Gateway, Kind, Labels, ObjectKey};
use crate::source::{Code, Severity};

const USE: &str = "istio.io/use-waypoint";
const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// On a Gateway: `service`, `workload`, `all` or `none`.
const FOR: &str = "istio.io/waypoint-for";
/// On a pod: the Gateway that it carries out.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The class whose Gateways' instances the controller runs.
pub const WAYPOINT_CLASS: &str = "weft-waypoint";
/// Classes whose Gateways are waypoints; both stand for the same.
const CLASSES: [&str; 2] = [WAYPOINT_CLASS, "istio-waypoint"];
const HBONE_PORT: u16 = 15008;

/// A waypoint as somebody asks for it.
#[derive(Debug)]
pub(super) struct Waypoint {
    pub(super) name: Name,
    /// It carries nothing out: it may not be used from here.
    pub(super) is_refused: bool,
}

/// What a label names, and where the label stands.
struct Asked {
    name: Name,
    object: ObjectKey,
    is_own: bool,
}

impl Cluster {
    pub(super) fn is_waypoint_class(class: &str) -> bool {
        CLASSES.contains(&class)
    }

    /// The Gateway, if it is a waypoint.
    pub(super) fn waypoint_gateway(&self, name: &Name, built: &mut Built) -> Option<&Gateway> {
        built.read(Topic::Gateway(name.clone()));
        self.layer7.gateways.get(name).filter(|gateway| Self::is_waypoint_class(&gateway.spec.gateway_class_name))
    }

    /// The waypoint that a pod with these labels carries out.
    pub(super) fn carried_out(&self, labels: &Labels, namespace: &Arc<str>, built: &mut Built) -> Option<Name> {
        let name = Name { namespace: namespace.clone(), name: labels.get(GATEWAY_NAME)?.clone() };
        self.waypoint_gateway(&name, built).is_some().then_some(name)
    }

    pub(super) fn waypoint_of_service(&self, key: &ServiceKey, built: &mut Built) -> Option<Waypoint> {
        built.read(Topic::Host(key.hostname.clone()));
        let claim = self.claim(key)?;
        let (kind, labels) = match claim.is_entry {
            true => (Kind::ServiceEntry, &self.service_entries.get(&claim.name)?.metadata.labels),
            false => (Kind::Service, &self.services.get(&claim.name)?.metadata.labels),
        };
        let asked = self.asked(kind, &claim.name, labels, built)?;
        // The waypoint's own service is how it is reached.
        let own = |name: &Name| !claim.is_entry && claim.name == *name;
        if own(&asked.name) || (!claim.is_entry && self.waypoint_gateway(&claim.name, built).is_some()) {
            return None;
        }
        let Some(gateway) = self.waypoint_gateway(&asked.name, built) else {
            self.report_missing(&asked, built);
            return Some(Waypoint { name: asked.name, is_refused: false });
        };
        if !serves(gateway, "service") {
            report_unserved(&asked, gateway, "services", built);
            return None;
        }
        let is_refused = !self.takes(gateway, &key.namespace, built);
        if is_refused {
            self.report_refusal(&asked, built);
        }
        Some(Waypoint { name: asked.name, is_refused })
    }

    /// The waypoint through which a workload is reached when it is asked for by its own address.
    pub(super) fn waypoint_of_workload(
        &self,
        kind: Kind,
        name: &Name,
        labels: &Labels,
        built: &mut Built,
    ) -> Option<Waypoint> {
        if self.carried_out(labels, &name.namespace, built).is_some() {
            return None;
        }
        let asked = self.asked(kind, name, labels, built)?;
        let Some(gateway) = self.waypoint_gateway(&asked.name, built) else {
            // A namespace's label is about services first, and its services report it.
            if !asked.is_own {
                return None;
            }
            self.report_missing(&asked, built);
            return Some(Waypoint { name: asked.name, is_refused: false });
        };
        if !serves(gateway, "workload") {
            report_unserved(&asked, gateway, "workloads", built);
            return None;
        }
        let is_refused = !self.takes(gateway, &name.namespace, built);
        if is_refused {
            self.report_refusal(&asked, built);
        }
        Some(Waypoint { name: asked.name, is_refused })
    }

    fn asked(&self, kind: Kind, name: &Name, own: &Labels, built: &mut Built) -> Option<Asked> {
        let says = |labels: &Labels, object: ObjectKey, is_own| {
            let waypoint = labels.get(USE).filter(|name| !name.is_empty())?;
            let namespace = labels.get(USE_NAMESPACE).filter(|name| !name.is_empty()).unwrap_or(&name.namespace);
            let named = Name { namespace: namespace.clone(), name: waypoint.clone() };
            Some((**waypoint != *"none").then_some(Asked { name: named, object, is_own }))
        };
        let object = ObjectKey { kind, namespace: name.namespace.clone(), name: name.name.clone() };
        if let Some(own) = says(own, object, true) {
            return own;
        }
        built.read(Topic::Namespace(name.namespace.clone()));
        let object = ObjectKey { kind: Kind::Namespace, namespace: "".into(), name: name.namespace.clone() };
        says(&self.namespaces.get(&name.namespace)?.metadata.labels, object, false)?
    }

    /// Whether a Gateway may be used from a namespace.
    fn takes(&self, gateway: &Gateway, namespace: &Arc<str>, built: &mut Built) -> bool {
        if gateway.metadata.namespace == *namespace {
            return true;
        }
        built.read(Topic::Namespace(namespace.clone()));
        let mut labels = self.namespaces.get(namespace).map(|n| n.metadata.labels.clone()).unwrap_or_default();
        labels.entry("kubernetes.io/metadata.name".into()).or_insert_with(|| namespace.clone());
        gateway.spec.listeners.iter().map(|listener| &listener.allowed_routes.namespaces).any(|allowed| {
            match allowed.from {
                From_::All => true,
                From_::Same => false,
                From_::Selector => allowed.selector.holds(&labels),
            }
        })
    }

    fn report_missing(&self, asked: &Asked, built: &mut Built) {
        let why = match self.layer7.gateways.contains_key(&asked.name) {
            true => "is no waypoint",
            false => "does not exist",
        };
        let (namespace, name) = (&asked.name.namespace, &asked.name.name);
        let message = format!("Gateway {namespace}/{name} {why}; what goes through it fails");
        built.finding(Severity::Warning, Code::Unresolved, asked.object.clone(), Some(LABEL.to_owned()), message);
    }

    fn report_refusal(&self, asked: &Asked, built: &mut Built) {
        let (namespace, name) = (&asked.name.namespace, &asked.name.name);
        let message =
            format!("Gateway {namespace}/{name} does not take routes of this namespace; what goes through it fails");
        built.finding(Severity::Warning, Code::Unresolved, asked.object.clone(), Some(LABEL.to_owned()), message);
    }

    pub(super) fn gateway_address(&self, waypoint: &Name) -> GatewayAddress {
        let key = ServiceKey { namespace: waypoint.namespace.clone(), hostname: self.hostname(waypoint) };
        GatewayAddress { destination: GatewayDestination::Hostname(key), hbone_port: HBONE_PORT }
    }
}

const LABEL: &str = "metadata.labels[istio.io/use-waypoint]";

/// A namespace's label is for whatever the waypoint serves; one of its own was meant to do something.
fn report_unserved(asked: &Asked, gateway: &Gateway, what: &str, built: &mut Built) {
    if asked.is_own {
        let (namespace, name) = (&gateway.metadata.namespace, &gateway.metadata.name);
        let message = format!("Gateway {namespace}/{name} is not for {what} ({FOR}); it is not used");
        built.finding(Severity::Warning, Code::NoEffect, asked.object.clone(), Some(LABEL.to_owned()), message);
    }
}

/// Whether a waypoint is for `what`: services, if it does not say.
pub(super) fn serves(gateway: &Gateway, what: &str) -> bool {
    let says = gateway.metadata.label(FOR).unwrap_or("service");
    says == what || says == "all"
}
