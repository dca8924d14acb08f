//! VirtualServices: which of them are about the service, and what their rules for HTTP come to.

mod delegates;
mod actions;
mod conditions;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::assembly::{Clients, Rules};
use super::backends::object_key;
use super::destinations::hosts_for;
use super::{Compiler, Port};
use crate::index::Built;
use crate::index::cluster::{Age, Cluster, Name, Topic};
use crate::object::{Kind, ObjectKey, VirtualService};
use crate::source::{Code, Severity};

/// A VirtualService that is about the service.
pub(super) struct About<'a> {
    pub(super) rules: &'a VirtualService,
    pub(super) object: ObjectKey,
    pub(super) clients: Clients,
    age: Age,
    name: Name,
}

impl About<'_> {
    /// In the order in which rules for connections are looked at.
    pub(super) fn place(&self) -> (Clients, Age, Name) {
        (self.clients.clone(), self.age.clone(), self.name.clone())
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn virtual_services(&mut self, port: &Port) -> Vec<Rules> {
        let about = self.about_service();
        about.into_iter().map(|about| self.http_of(about, port)).collect()
    }

    /// Those that name the service, or a wildcard that covers it; oldest first.
    pub(super) fn about_service(&mut self) -> Vec<About<'a>> {
        let cluster = self.cluster;
        let mut names = BTreeSet::new();
        for host in hosts_for(&self.service.hostname) {
            names.extend(cluster.layer7.rules_for.get(&host).into_iter().flatten().cloned());
            self.read(Topic::Host(host));
        }
        let about = names.into_iter().filter_map(|(age, name)| {
            let rules = cluster.layer7.virtual_services.get(&name)?;
            let clients = self.clients(rules).filter(|_| rules.spec.is_for_mesh())?;
            Some(About { rules, object: object_key(Kind::VirtualService, &name), clients, age, name })
        });
        about.collect()
    }

    /// `None`: for nobody.
    fn clients(&self, rules: &VirtualService) -> Option<Clients> {
        let own = &rules.metadata.namespace;
        let to = &rules.spec.export_to;
        let exports = |namespace: &Arc<str>| {
            let named = |to: &Arc<str>| &**to == "*" || to == namespace || (&**to == "." && own == namespace);
            to.is_empty() || to.iter().any(named)
        };
        if !self.is_producer(own) {
            return exports(own).then(|| Clients::Of(BTreeSet::from([own.clone()])));
        }
        if exports(&self.waypoint.namespace) {
            return Some(Clients::All);
        }
        let named = to.iter().map(|to| if &**to == "." { own.clone() } else { to.clone() });
        let named: BTreeSet<_> = named.filter(|to| &**to != "~").collect();
        (!named.is_empty()).then_some(Clients::Of(named))
    }

    fn http_of(&mut self, about: About<'a>, port: &Port) -> Rules {
        let mut found = Rules {
            age: about.age.clone(),
            name: about.name.clone(),
            clients: about.clients.clone(),
            entries: Vec::new(),
            rules: Vec::new(),
        };
        for written in self.expanded(&about) {
            let matches = self.conditions(&written.rule.matches, &about.clients, port.number);
            if matches.is_empty() {
                continue;
            }
            let rule = self.http_rule(&written, port.number);
            found.entries.extend(matches.into_iter().map(|matches| (matches, found.rules.len())));
            found.rules.push(rule);
        }
        found
    }
}

impl Cluster {
    /// Says what of a VirtualService is in force nowhere.
    pub(in crate::index) fn check_virtual_service(&self, name: &Name, built: &mut Built) {
        let Some(rules) = self.layer7.virtual_services.get(name) else { return };
        let object = object_key(Kind::VirtualService, name);
        if !rules.spec.is_for_mesh() {
            let message = "for gateways alone, and this is a mesh without them".to_owned();
            built.finding(Severity::Info, Code::NoEffect, object, Some("spec.gateways".into()), message);
            return;
        }
        for (i, host) in rules.spec.hosts.iter().enumerate() {
            let full = self.full(host, &name.namespace);
            if !self.is_at_waypoint(&full, built) {
                let message = format!("no waypoint serves {full}; the rules are not in force for it");
                let field = Some(format!("spec.hosts[{i}]"));
                built.finding(Severity::Warning, Code::NoEffect, object.clone(), field, message);
            }
        }
        for (field, why) in &rules.unused {
            built.finding(Severity::Info, Code::NoEffect, object.clone(), Some(field.clone()), (*why).to_owned());
        }
        for (i, rule) in rules.spec.http.iter().enumerate() {
            let field = |field: &str| Some(format!("spec.http[{i}].{field}"));
            for word in rule.retries.iter().flat_map(|retries| retries.retry_on.split(',')) {
                if let "envoy-ratelimited" | "http3-post-connect-failure" | "retriable-headers" = word.trim() {
                    let message = format!("{word} is no condition here");
                    built.finding(Severity::Info, Code::NoEffect, object.clone(), field("retries.retryOn"), message);
                }
            }
            let faults = rule.fault.iter();
            let without = faults.flat_map(|fault| {
                let delay = fault.delay.as_ref().filter(|delay| delay.percentage.is_none() && delay.percent == 0);
                let abort = fault.abort.as_ref().filter(|abort| abort.percentage.is_none());
                delay.map(|_| "fault.delay").into_iter().chain(abort.map(|_| "fault.abort"))
            });
            for fault in without {
                let message = "without a percentage no request meets it".to_owned();
                built.finding(Severity::Warning, Code::NoEffect, object.clone(), field(fault), message);
            }
        }
    }
}
