//! Providers of the mesh's configuration, by their names: who is asked for a CUSTOM policy and who is told spans, and the services
//! that they are.

use std::sync::Arc;

use mesh_core::l7::authorization::ExternalAuthorizer;
use mesh_core::l7::telemetry;
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
        let Provider::Authorizer(authorizer) = self.provider(provider, built)? else {
            return Err(format!("provider {provider:?} is no authorizer"));
        };
        let service = self.provider_service(&authorizer.service, authorizer.port, built)?;
        Ok(authorizer.at(provider, service))
    }

    /// # Errors
    /// Why nobody can be told.
    pub(in crate::index) fn tracer(
        &self,
        provider: &Arc<str>,
        built: &mut Built,
    ) -> Result<telemetry::Provider, String> {
        let Provider::Tracer(tracer) = self.provider(provider, built)? else {
            return Err(format!("provider {provider:?} takes no spans"));
        };
        Ok(tracer.at(self.provider_service(&tracer.service, tracer.port, built)?))
    }

    fn provider(&self, name: &Arc<str>, built: &mut Built) -> Result<&Provider, String> {
        built.read(Topic::MeshConfig);
        let known = self.mesh_config.as_ref().and_then(|config| config.providers.get(name));
        known.ok_or_else(|| format!("the mesh's configuration has no provider {name:?}"))
    }

    /// The service that a provider names as `hostname` or `namespace/hostname`.
    fn provider_service(&self, named: &Arc<str>, port: u16, built: &mut Built) -> Result<ServiceKey, String> {
        let (namespace, host) = match named.split_once('/') {
            Some((namespace, host)) => (Some(Arc::from(namespace)), Arc::from(host)),
            None => (None, named.clone()),
        };
        let hostname = self.full(&host, namespace.as_ref().unwrap_or(&self.config.root_namespace));
        built.read(Topic::Host(hostname.clone()));
        let key = match namespace {
            Some(namespace) => Some(ServiceKey { namespace, hostname }).filter(|key| self.claim(key).is_some()),
            None => self.service_named(&hostname, &self.config.root_namespace),
        };
        let key = key.ok_or_else(|| format!("there is no service {named}"))?;
        match self.ports_of(&key).iter().any(|has| has.number == port) {
            true => Ok(key),
            false => Err(format!("{named} has no port {port}")),
        }
    }
}
