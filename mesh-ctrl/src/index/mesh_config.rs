//! The mesh's configuration: what of it has no effect, and what it adds to policies.

use std::borrow::Cow;
use std::sync::Arc;

use mesh_core::l7::PathNormalization;

use super::Built;
use super::cluster::{Cluster, Topic};
use crate::object::mesh_config::{KEY, NAME};
use crate::object::{AuthorizationPolicy, Kind, ObjectKey, WhenKey};
use crate::source::{Code, Severity};

impl Cluster {
    /// Says what of the configuration is in force nowhere, or contradicts the controller's own settings.
    pub(super) fn check_mesh_config(&self, built: &mut Built) {
        let Some(config) = &self.mesh_config else { return };
        let namespace = self.config.root_namespace.clone();
        let object = ObjectKey { kind: Kind::ConfigMap, namespace, name: NAME.into() };
        let field = |field: &str| Some(format!("data.{KEY}.{field}"));
        if let Some(Err(why)) = config.default_tracers.first().map(|name| self.tracer(name, built)) {
            let message = format!("{why}; nothing is traced where no Telemetry names another");
            let field = field("defaultProviders.tracing[0]");
            built.finding(Severity::Warning, Code::Unresolved, object.clone(), field, message);
        }
        let mut say = |severity, name: &str, message: String| {
            built.finding(severity, Code::NoEffect, object.clone(), field(name), message);
        };
        for (field, why) in &config.unused {
            say(Severity::Info, field, why.clone());
        }
        for (i, _) in config.default_tracers.iter().enumerate().skip(1) {
            say(Severity::Info, &format!("defaultProviders.tracing[{i}]"), "only the first of them is told".to_owned());
        }
        let own = &self.config.trust_domain;
        if let Some(domain) = config.trust_domain.as_ref().filter(|domain| *domain != own) {
            say(Severity::Warning, "trustDomain", format!("{domain} is not the controller's, which is {own}"));
        }
    }

    pub(super) fn path_normalization(&self, built: &mut Built) -> PathNormalization {
        built.read(Topic::MeshConfig);
        self.mesh_config.as_ref().map(|config| config.path_normalization).unwrap_or_default()
    }

    /// A policy whose principals of one of the mesh's trust domains are those of each of them.
    pub(super) fn with_aliases<'a>(
        &self,
        policy: &'a AuthorizationPolicy,
        built: &mut Built,
    ) -> Cow<'a, AuthorizationPolicy> {
        built.read(Topic::MeshConfig);
        let aliases = self.mesh_config.as_ref().map(|config| &config.trust_domain_aliases[..]).unwrap_or_default();
        if aliases.is_empty() {
            return Cow::Borrowed(policy);
        }
        let domains: Vec<&Arc<str>> = std::iter::once(&self.config.trust_domain).chain(aliases).collect();
        let mut policy = policy.clone();
        for rule in &mut policy.rules {
            for source in &mut rule.from {
                extend(&mut source.principals, &domains);
                extend(&mut source.not_principals, &domains);
            }
            for when in rule.when.iter_mut().filter(|when| when.key == WhenKey::SourcePrincipal) {
                extend(&mut when.values, &domains);
                extend(&mut when.not_values, &domains);
            }
        }
        Cow::Owned(policy)
    }
}

fn extend(principals: &mut Vec<Arc<str>>, domains: &[&Arc<str>]) {
    let mut all: Vec<Arc<str>> = Vec::new();
    for principal in principals.iter() {
        let of_domain =
            principal.split_once('/').filter(|(domain, _)| domains.iter().any(|known| ***known == **domain));
        match of_domain {
            Some((_, rest)) => all.extend(domains.iter().map(|domain| format!("{domain}/{rest}").into())),
            None => all.push(principal.clone()),
        }
    }
    // In the order in which they are named, each once.
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|principal| seen.insert(principal.clone()));
    *principals = all;
}
