//! Rate limits at a waypoint. As with Envoy Gateway the nearest BackendTrafficPolicy holds alone: that of the service, then the
//! Gateway's, then the class's; of two for the same the older.

use mesh_core::l7::ratelimit::RateLimit;

use super::Whole;
use super::backends::object_key;
use crate::index::Built;
use crate::index::cluster::{Cluster, Name, Topic};
use crate::object::reference::Referent;
use crate::object::{BackendTrafficPolicy, Kind};
use crate::source::{Code, Severity};

impl Cluster {
    pub(super) fn rate_limits_at(&self, whole: &Whole<'_>, built: &mut Built) -> Vec<RateLimit> {
        let mut nearest: Option<(u8, &BackendTrafficPolicy)> = None;
        for namespace in whole.namespaces(&self.config.root_namespace) {
            let policies = self.layer7.backend_traffic_policies_in.get(&namespace).into_iter().flatten();
            for (_, name) in policies {
                let Some(policy) = self.layer7.backend_traffic_policies.get(name) else { continue };
                let targets = policy.targets.iter().filter(|target| target.section_name.is_none());
                let here = targets.filter(|target| self.is_target(whole, &target.whole, &namespace));
                let nearness = here.map(|target| match target.whole.referent() {
                    Some(Referent::Service | Referent::ServiceEntry) => 2,
                    Some(Referent::Gateway) => 1,
                    _ => 0,
                });
                let Some(nearness) = nearness.max().filter(|_| !policy.limits.is_empty()) else { continue };
                match nearest {
                    Some((other, holds)) if other == nearness => {
                        let by = &holds.metadata;
                        let message =
                            format!("BackendTrafficPolicy {}/{} is for the same, and holds", by.namespace, by.name);
                        let object = object_key(Kind::BackendTrafficPolicy, name);
                        built.finding(Severity::Warning, Code::Conflict, object, None, message);
                    }
                    Some((other, _)) if other > nearness => {}
                    _ => nearest = Some((nearness, policy)),
                }
            }
            built.read(Topic::Policies(namespace));
        }
        nearest.map(|(_, policy)| policy.limits.clone()).unwrap_or_default()
    }

    /// Says what of a BackendTrafficPolicy is in force nowhere.
    pub(in crate::index) fn check_rate_limits(&self, name: &Name, built: &mut Built) {
        let Some(policy) = self.layer7.backend_traffic_policies.get(name) else { return };
        let object = object_key(Kind::BackendTrafficPolicy, name);
        let mut say = |field: String, message: &str| {
            built.finding(Severity::Warning, Code::NoEffect, object.clone(), Some(field), message.to_owned());
        };
        for (field, why) in &policy.unused {
            say(field.clone(), why);
        }
        for (i, _) in policy.targets.iter().enumerate().filter(|(_, target)| target.section_name.is_some()) {
            say(
                format!("spec.targetRefs[{i}].sectionName"),
                "a limit is for a whole service; it is not in force for a part",
            );
        }
        if policy.limits.is_empty() {
            return;
        }
        let targets: Vec<_> = policy.targets.iter().map(|target| target.whole.clone()).collect();
        self.check_targets(&targets, &object, built);
    }
}
