//! What a waypoint does for one service, compiled from everything that says something of it.
//!
//! ```text
//! VirtualServices, routes ──> virtual_services, routes, streams ──> entries and rules by port ┐
//! DestinationRules ─────────> destinations (of each service that a rule leads to) ────────────┼─> Layer7
//! policies, telemetry ──────> authorization, authentication, telemetry ───────────────────────┘
//! ```
//! Rules of the service's or the waypoint's namespace are for every client; those of another namespace are for the clients
//! there, and stand in place of the others for them.

mod virtual_services;
mod routes;
mod streams;
mod filters;
mod assembly;
mod destinations;
mod credentials;
mod authorization;
mod authentication;
mod telemetry;
mod providers;
mod rate_limits;
mod backends;
mod attachment;
mod members;
mod protocol;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::l7::authorization::Action;
use mesh_core::l7::{Layer7, PortRules, Protocol, Target, WaypointKey};
use mesh_core::workload::ServiceKey;

use super::Built;
use super::cluster::{Cluster, Name, Topic};
use super::waypoints::serves;
use crate::object::ObjectKey;
use crate::source::{Code, Severity};
pub(super) use attachment::Whole;
pub(super) use authorization::is_unknown;

/// One model under way.
struct Compiler<'a> {
    cluster: &'a Cluster,
    built: &'a mut Built,
    waypoint: &'a Name,
    service: &'a ServiceKey,
    /// Services that something leads to.
    used: BTreeSet<ServiceKey>,
}

/// A port of a service.
#[derive(Clone, Debug)]
struct Port {
    number: u16,
    name: Arc<str>,
    protocol: Protocol,
}

impl Cluster {
    pub(super) fn build_layer7(&self, key: &ServiceKey, built: &mut Built) {
        let Some(waypoint) = self.waypoint_of_service(key, built).filter(|waypoint| !waypoint.is_refused) else {
            return;
        };
        let mut compiler = Compiler {
            cluster: self,
            built,
            waypoint: &waypoint.name,
            service: key,
            used: BTreeSet::from([key.clone()]),
        };
        let model = compiler.model();
        built.layer7(model);
    }

    /// Workloads that are asked for by their addresses: policies and telemetry, and no routes.
    pub(super) fn build_waypoint(&self, name: &Name, built: &mut Built) {
        let Some(gateway) = self.waypoint_gateway(name, built) else { return };
        if !serves(gateway, "workload") {
            return;
        }
        let whole = Whole { waypoint: name, service: None };
        let model = Layer7 {
            waypoint: waypoint_key(name),
            target: Target::Workloads,
            ports: BTreeMap::new(),
            destinations: BTreeMap::new(),
            policies: self.policies_at(&whole, built),
            jwt: self.jwt_at(&whole, built),
            rate_limits: self.rate_limits_at(&whole, built),
            path_normalization: self.path_normalization(built),
            telemetry: self.telemetry_at(&whole, built),
        };
        built.layer7(model);
    }
}

impl Compiler<'_> {
    fn model(&mut self) -> Layer7 {
        let mut ports = BTreeMap::new();
        for port in self.cluster.ports_of(self.service) {
            let rules = PortRules {
                protocol: port.protocol,
                http: self.http(&port),
                tcp: self.tcp(&port),
                tls: self.tls(&port),
            };
            ports.insert(port.number, rules);
        }
        let whole = Whole { waypoint: self.waypoint, service: Some(self.service) };
        let policies = self.cluster.policies_at(&whole, self.built);
        let jwt = self.cluster.jwt_at(&whole, self.built);
        let rate_limits = self.cluster.rate_limits_at(&whole, self.built);
        let telemetry = self.cluster.telemetry_at(&whole, self.built);
        let asked = policies.iter().filter_map(|policy| match &policy.action {
            Action::Custom(authorizer) => Some(authorizer.service.clone()),
            _ => None,
        });
        self.used.extend(asked);
        let used = std::mem::take(&mut self.used);
        let destinations = used.into_iter().map(|key| (key.clone(), self.destination(&key))).collect();
        Layer7 {
            waypoint: waypoint_key(self.waypoint),
            target: Target::Service(self.service.clone()),
            ports,
            destinations,
            policies,
            jwt,
            rate_limits,
            path_normalization: self.cluster.path_normalization(self.built),
            telemetry,
        }
    }

    fn read(&mut self, topic: Topic) {
        self.built.read(topic);
    }

    fn unresolved(&mut self, object: &ObjectKey, field: &str, message: String) {
        self.report(Code::Unresolved, object, field, message);
    }

    fn report(&mut self, code: Code, object: &ObjectKey, field: &str, message: String) {
        self.built.finding(Severity::Warning, code, object.clone(), Some(field.to_owned()), message);
    }

    /// Whether rules of a namespace are for every client.
    fn is_producer(&self, namespace: &Arc<str>) -> bool {
        *namespace == self.service.namespace || *namespace == self.waypoint.namespace
    }
}

fn waypoint_key(name: &Name) -> WaypointKey {
    WaypointKey { namespace: name.namespace.clone(), name: name.name.clone() }
}
