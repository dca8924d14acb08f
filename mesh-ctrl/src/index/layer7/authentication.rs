//! RequestAuthentications at a waypoint: those that are attached to it or to the service, and those of its workloads.

use std::sync::Arc;

use mesh_core::l7::authentication::{JwtRule, Keys, TokenHeader};

use super::Whole;
use super::backends::object_key;
use crate::index::Built;
use crate::index::cluster::{Cluster, Name, Topic};
use crate::object::reference::TargetRef;
use crate::object::request_authentication::{JwtRule as Written, RequestAuthenticationSpec};
use crate::object::{Kind, ObjectKey};
use crate::source::{Code, Severity};

impl Cluster {
    pub(super) fn jwt_at(&self, whole: &Whole<'_>, built: &mut Built) -> Vec<JwtRule> {
        let mut found = Vec::new();
        for namespace in whole.namespaces(&self.config.root_namespace) {
            for name in self.layer7.authentications_in.get(&namespace).into_iter().flatten() {
                let Some(authentication) = self.layer7.request_authentications.get(name) else { continue };
                let spec = &authentication.spec;
                let targets: Vec<_> = targets(spec).collect();
                let is_in_force = match targets.is_empty() {
                    true => self.is_about(whole, &spec.selector.match_labels, &namespace, built),
                    false => targets.iter().any(|target| self.is_target(whole, target, &namespace)),
                };
                if is_in_force {
                    let origin: Arc<str> = format!("{namespace}/{}", name.name).into();
                    found.extend(spec.jwt_rules.iter().map(|rule| convert(rule, origin.clone())));
                }
            }
            built.read(Topic::Policies(namespace));
        }
        found.sort_by(|a, b| a.origin.cmp(&b.origin));
        found
    }

    /// Says where a RequestAuthentication is in force nowhere: without a waypoint nobody looks at tokens.
    pub(in crate::index) fn check_request_authentication(&self, name: &Name, built: &mut Built) {
        let Some(authentication) = self.layer7.request_authentications.get(name) else { return };
        let object = object_key(Kind::RequestAuthentication, name);
        let targets: Vec<_> = targets(&authentication.spec).cloned().collect();
        if !targets.is_empty() {
            return self.check_targets(&targets, &object, built);
        }
        let selector = &authentication.spec.selector.match_labels;
        if !self.is_carried_out(selector, &name.namespace, built) {
            let message = "no waypoint serves what it is for; tokens are not looked at".to_owned();
            built.finding(Severity::Warning, Code::NoEffect, object, None, message);
        }
    }

    /// Says which targets of a policy are not there, or have no waypoint.
    pub(in crate::index) fn check_targets(&self, targets: &[TargetRef], object: &ObjectKey, built: &mut Built) {
        for (i, target) in targets.iter().enumerate() {
            let field = Some(format!("spec.targetRefs[{i}]"));
            let name = Name { namespace: object.namespace.clone(), name: target.name.clone() };
            let shown = format!("{} {}", target.kind, target.name);
            let found = target.referent().map(|referent| self.is_in_force_at(referent, &name, built));
            let (code, message) = match found {
                None => (Code::NoEffect, format!("policies are not attached to a {}", target.kind)),
                Some(None) => (Code::Unresolved, format!("there is no {shown}; the policy is not in force for it")),
                Some(Some(false)) => {
                    (Code::NoEffect, format!("no waypoint serves {shown}; the policy is not in force for it"))
                }
                Some(Some(true)) => continue,
            };
            built.finding(Severity::Warning, code, object.clone(), field, message);
        }
    }
}

fn targets(spec: &RequestAuthenticationSpec) -> impl Iterator<Item = &TargetRef> {
    spec.target_ref.iter().chain(&spec.target_refs)
}

fn convert(rule: &Written, origin: Arc<str>) -> JwtRule {
    let some = |text: &Arc<str>| Some(text.clone()).filter(|text| !text.is_empty());
    let inline = some(&rule.jwks).map(Keys::Inline);
    let by_uri = || rule.jwks_uri.as_ref().and_then(some).map(Keys::Uri);
    let header = |from: &crate::object::request_authentication::FromHeader| TokenHeader {
        name: from.name.to_lowercase().into(),
        prefix: from.prefix.clone(),
    };
    let mut claims: Vec<(Arc<str>, Vec<Arc<str>>)> = Vec::new();
    for claim in &rule.output_claim_to_headers {
        claims.push((claim.header.to_lowercase().into(), claim.claim.split('.').map(Arc::from).collect()));
    }
    let timeout = rule.timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.as_secs().max(1));
    JwtRule {
        origin,
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        keys: inline.or_else(by_uri).unwrap_or(Keys::Discover),
        headers: rule.from_headers.iter().map(header).collect(),
        params: rule.from_params.clone(),
        cookies: rule.from_cookies.clone(),
        payload_header: some(&rule.output_payload_to_header).map(|name| name.to_lowercase().into()),
        claim_headers: claims,
        forward: rule.forward_original_token,
        timeout_seconds: u32::try_from(timeout).unwrap_or(u32::MAX),
        space_delimited: rule.space_delimited_claims.clone(),
    }
}

/// Seconds; as in the reference.
const DEFAULT_TIMEOUT: u64 = 5;
