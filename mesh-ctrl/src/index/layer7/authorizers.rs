//! Who is asked for a CUSTOM policy: the provider of its name in the mesh's configuration, and the service that it is.

use std::sync::Arc;

use mesh_core::l7::authorization::ExternalAuthorizer;
use mesh_core::workload::ServiceKey;

use crate::index::Built;
use crate::index::cluster::{Cluster, Topic};
use crate::object::mesh_config::provider::Provider;

impl Cluster {
    /// # Errors
    /// Why nobody can be asked.
    pub(in crate::index) fn authorizer(
        &self,
        provider: &Arc<str>,
        built: &mut Built,
    ) -> Result<ExternalAuthorizer, String> {
        built.read(Topic::MeshConfig);
        let known = self.mesh_config.as_ref().and_then(|config| config.providers.get(provider));
        let authorizer = match known {
            Some(Provider::Authorizer(authorizer)) => authorizer,
            Some(_) => return Err(format!("provider {provider:?} is no authorizer")),
            None => return Err(format!("the mesh's configuration has no provider {provider:?}")),
        };
        let service = &authorizer.service;
        let key = self.provider_service(service, built).ok_or_else(|| format!("there is no service {service}"))?;
        if !self.ports_of(&key).iter().any(|port| port.number == authorizer.port) {
            return Err(format!("{service} has no port {}", authorizer.port));
        }
        Ok(authorizer.at(provider, key))
    }

    /// The service that a provider names as `hostname` or `namespace/hostname`.
    pub(in crate::index) fn provider_service(&self, named: &str, built: &mut Built) -> Option<ServiceKey> {
        let (namespace, host) = match named.split_once('/') {
            Some((namespace, host)) => (Some(Arc::from(namespace)), Arc::from(host)),
            None => (None, Arc::from(named)),
        };
        let hostname = self.full(&host, namespace.as_ref().unwrap_or(&self.config.root_namespace));
        built.read(Topic::Host(hostname.clone()));
        match namespace {
            Some(namespace) => Some(ServiceKey { namespace, hostname }).filter(|key| self.claim(key).is_some()),
            None => self.service_named(&hostname, &self.config.root_namespace),
        }
    }
}
