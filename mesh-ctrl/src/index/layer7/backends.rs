//! What rules lead to: names to services, ports and subsets.

use std::sync::Arc;

use mesh_core::l7::route::BackendRef;
use mesh_core::workload::ServiceKey;

use super::Compiler;
use crate::index::cluster::{Cluster, Name, Topic};
use crate::object::reference::BackendObject;
use crate::object::virtual_service::Destination;
use crate::object::{Kind, ObjectKey};
use crate::source::Code;

impl Cluster {
    /// The service that a host is, seen from a namespace: its own, then the strongest.
    pub(super) fn service_named(&self, host: &Arc<str>, namespace: &Arc<str>) -> Option<ServiceKey> {
        let hostname = self.full(host, namespace);
        let own = self.claims(&hostname).find(|claim| claim.name.namespace == *namespace);
        let claim = own.or_else(|| self.claims(&hostname).next())?;
        Some(ServiceKey { namespace: claim.name.namespace.clone(), hostname: hostname.clone() })
    }
}

impl Compiler<'_> {
    /// A VirtualService's destination; `asked` is the port that the client asked for.
    pub(super) fn led_to(
        &mut self,
        destination: &Destination,
        asked: u16,
        object: &ObjectKey,
        field: &str,
    ) -> BackendRef {
        let missing = |compiler: &mut Self, field: String, why: String| {
            compiler.unresolved(object, &field, format!("{why}; its share is answered with 503"));
            BackendRef::Missing { status: 503, why: why.into() }
        };
        let hostname = self.cluster.full(&destination.host, &object.namespace);
        self.read(Topic::Host(hostname.clone()));
        let Some(key) = self.cluster.service_named(&destination.host, &object.namespace) else {
            return missing(self, format!("{field}.host"), format!("there is no service {hostname}"));
        };
        let ports = self.cluster.ports_of(&key);
        let port = match (destination.port, &ports[..]) {
            (Some(port), _) => port.number,
            (None, [only]) => only.number,
            (None, _) => asked,
        };
        if !ports.iter().any(|known| known.number == port) {
            return missing(self, format!("{field}.port"), format!("{hostname} has no port {port}"));
        }
        let subset = Some(destination.subset.clone()).filter(|subset| !subset.is_empty());
        if let Some(subset) = &subset
            && !self.has_subset(&key, subset)
        {
            return missing(self, format!("{field}.subset"), format!("{hostname} has no subset {subset}"));
        }
        self.used.insert(key.clone());
        BackendRef::Service { service: key, port, subset }
    }

    /// A backend of the Gateway API.
    pub(super) fn backend(&mut self, backend: &BackendObject, object: &ObjectKey, field: &str) -> BackendRef {
        match self.resolved(backend, object) {
            Ok((service, port)) => {
                self.used.insert(service.clone());
                BackendRef::Service { service, port, subset: None }
            }
            Err((code, why)) => {
                self.report(code, object, field, format!("{why}; its share is answered with 500"));
                BackendRef::Missing { status: 500, why: why.into() }
            }
        }
    }

    fn resolved(&mut self, backend: &BackendObject, object: &ObjectKey) -> Result<(ServiceKey, u16), (Code, String)> {
        let unresolved = |why: String| (Code::Unresolved, why);
        let namespace = backend.namespace.clone().unwrap_or_else(|| object.namespace.clone());
        let key = match (backend.is_service(), &*backend.group, &*backend.kind) {
            (true, _, _) => {
                let name = Name { namespace: namespace.clone(), name: backend.name.clone() };
                if namespace != object.namespace {
                    self.read(Topic::Grants(namespace.clone()));
                    if !self.cluster.is_granted(object.kind, &object.namespace, &name) {
                        let why = format!("no ReferenceGrant in {namespace} lets Service {} be named", backend.name);
                        return Err((Code::NotGranted, why));
                    }
                }
                ServiceKey { hostname: self.cluster.hostname(&name), namespace }
            }
            // Istio's way of naming a host that is no Service of Kubernetes.
            (false, "networking.istio.io", "Hostname") => {
                let found = self.cluster.service_named(&backend.name, &object.namespace);
                self.read(Topic::Host(backend.name.clone()));
                found.ok_or_else(|| unresolved(format!("there is no service {}", backend.name)))?
            }
            (false, group, kind) => {
                return Err((Code::Skipped, format!("a backend of kind {group}/{kind} is not known")));
            }
        };
        self.read(Topic::Host(key.hostname.clone()));
        if self.cluster.claim(&key).is_none() {
            return Err(unresolved(format!("there is no Service {}/{}", key.namespace, backend.name)));
        }
        let ports = self.cluster.ports_of(&key);
        match (backend.port, &ports[..]) {
            (Some(port), ports) if ports.iter().any(|known| known.number == port) => Ok((key, port)),
            (Some(port), _) => Err(unresolved(format!("{} has no port {port}", key.hostname))),
            (None, [only]) => Ok((key, only.number)),
            (None, _) => Err(unresolved("a port is needed".to_owned())),
        }
    }

    /// Where requests go that nobody has said anything of.
    pub(super) fn itself(&self, port: u16) -> BackendRef {
        BackendRef::Service { service: self.service.clone(), port, subset: None }
    }
}

pub(super) fn object_key(kind: Kind, name: &Name) -> ObjectKey {
    ObjectKey { kind, namespace: name.namespace.clone(), name: name.name.clone() }
}
