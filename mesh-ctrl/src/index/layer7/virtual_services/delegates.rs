//! Rules that another VirtualService has: those of a delegate, under the conditions of the rule that leads there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::l7::text::TextMatch;

use super::About;
use crate::index::cluster::{Name, Topic};
use crate::index::layer7::Compiler;
use crate::index::layer7::backends::object_key;
use crate::object::text::Text;
use crate::object::virtual_service::{ClientMatch, Headers, HttpMatch, HttpRule};
use crate::object::{Kind, ObjectKey};

/// A rule, and where it is written.
pub(super) struct Written<'a> {
    pub(super) rule: Cow<'a, HttpRule>,
    pub(super) object: ObjectKey,
    pub(super) field: String,
    /// As it is told in logs: its name, or its place.
    pub(super) label: String,
}

impl<'a> Compiler<'a> {
    pub(super) fn expanded(&mut self, about: &About<'a>) -> Vec<Written<'a>> {
        let mut found = Vec::new();
        for (i, rule) in about.rules.spec.http.iter().enumerate() {
            let Some(delegate) = &rule.delegate else {
                found.push(written(Cow::Borrowed(rule), about.object.clone(), i));
                continue;
            };
            let namespace = match delegate.namespace.is_empty() {
                true => about.object.namespace.clone(),
                false => delegate.namespace.clone(),
            };
            let name = Name { namespace, name: delegate.name.clone() };
            self.read(Topic::VirtualService(name.clone()));
            let there = self.cluster.layer7.virtual_services.get(&name).filter(|rules| rules.spec.hosts.is_empty());
            let Some(there) = there else {
                let why = format!("there is no VirtualService {}/{} without hosts", name.namespace, name.name);
                self.unresolved(&about.object, &format!("spec.http[{i}].delegate"), why);
                continue;
            };
            let object = object_key(Kind::VirtualService, &name);
            for (j, inner) in there.spec.http.iter().enumerate() {
                match merged(rule, inner) {
                    Some(rule) => found.push(written(Cow::Owned(rule), object.clone(), j)),
                    None => {
                        let why = "no request meets both its conditions and those of the rule that delegates to it";
                        self.unresolved(&object, &format!("spec.http[{j}].match"), why.to_owned());
                    }
                }
            }
        }
        found
    }
}

fn written(rule: Cow<'_, HttpRule>, object: ObjectKey, at: usize) -> Written<'_> {
    let label = if rule.name.is_empty() { at.to_string() } else { rule.name.to_string() };
    Written { rule, object, field: format!("spec.http[{at}]"), label }
}

/// The delegate's rule, with what it does not say itself; `None` if it can never hold.
fn merged(outer: &HttpRule, inner: &HttpRule) -> Option<HttpRule> {
    let matches = match (&outer.matches[..], &inner.matches[..]) {
        (_, []) => outer.matches.clone(),
        ([], _) => inner.matches.clone(),
        (outer, inner) => {
            let pairs = outer.iter().flat_map(|outer| inner.iter().filter_map(move |inner| both(outer, inner)));
            let both: Vec<HttpMatch> = pairs.collect();
            if both.is_empty() {
                return None;
            }
            both
        }
    };
    Some(HttpRule {
        matches,
        rewrite: inner.rewrite.clone().or_else(|| outer.rewrite.clone()),
        timeout: inner.timeout.or(outer.timeout),
        retries: inner.retries.clone().or_else(|| outer.retries.clone()),
        fault: inner.fault.clone().or_else(|| outer.fault.clone()),
        mirror: inner.mirror.clone().or_else(|| outer.mirror.clone()),
        mirrors: if inner.mirrors.is_empty() { outer.mirrors.clone() } else { inner.mirrors.clone() },
        mirror_percent: inner.mirror_percent.or(outer.mirror_percent),
        mirror_percentage: inner.mirror_percentage.or(outer.mirror_percentage),
        cors_policy: inner.cors_policy.clone().or_else(|| outer.cors_policy.clone()),
        headers: if inner.headers == Headers::default() { outer.headers.clone() } else { inner.headers.clone() },
        ..inner.clone()
    })
}

fn both(outer: &HttpMatch, inner: &HttpMatch) -> Option<HttpMatch> {
    let text = |a: &Option<Text>, b: &Option<Text>| match (a, b) {
        (None, other) | (other, None) => Some(other.clone()),
        (Some(a), Some(b)) if covers(&a.0, &b.0) => Some(Some(b.clone())),
        _ => None,
    };
    let texts = |a: &BTreeMap<Arc<str>, Text>, b: &BTreeMap<Arc<str>, Text>| {
        let mut all = a.clone();
        for (name, value) in b {
            if let Some(other) = all.insert(name.clone(), value.clone())
                && !covers(&other.0, &value.0)
            {
                return None;
            }
        }
        Some(all)
    };
    let namespace = one(&outer.client.source_namespace, &inner.client.source_namespace)?;
    let port = match (outer.client.port, inner.client.port) {
        (0, port) | (port, 0) => port,
        (a, b) if a == b => a,
        _ => return None,
    };
    let mut labels = outer.client.source_labels.clone();
    for (key, value) in &inner.client.source_labels {
        if labels.insert(key.clone(), value.clone()).is_some_and(|other| other != *value) {
            return None;
        }
    }
    let gateways = if inner.client.gateways.is_empty() { &outer.client.gateways } else { &inner.client.gateways };
    Some(HttpMatch {
        uri: text(&outer.uri, &inner.uri)?,
        scheme: text(&outer.scheme, &inner.scheme)?,
        method: text(&outer.method, &inner.method)?,
        authority: text(&outer.authority, &inner.authority)?,
        headers: texts(&outer.headers, &inner.headers)?,
        without_headers: texts(&outer.without_headers, &inner.without_headers)?,
        query_params: texts(&outer.query_params, &inner.query_params)?,
        ignore_uri_case: outer.ignore_uri_case || inner.ignore_uri_case,
        client: ClientMatch { port, source_labels: labels, source_namespace: namespace, gateways: gateways.clone() },
    })
}

fn one(a: &Arc<str>, b: &Arc<str>) -> Option<Arc<str>> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => Some(b.clone()),
        (_, true) => Some(a.clone()),
        _ => (a == b).then(|| a.clone()),
    }
}

/// Whether whatever holds for `narrow` holds for `wide`.
fn covers(wide: &TextMatch, narrow: &TextMatch) -> bool {
    match (wide, narrow) {
        (TextMatch::Present, _) => true,
        (TextMatch::Prefix(wide), TextMatch::Exact(narrow) | TextMatch::Prefix(narrow)) => narrow.starts_with(&**wide),
        (wide, narrow) => wide == narrow,
    }
}
