//! Whom a limit is for: conditions that are ANDed, and what requests are told apart by.
//!
//! Names of headers that begin with a colon are no headers: `:authority`, `:method` and `:path` as in HTTP/2, and what only a mesh
//! knows of a client.

use std::sync::Arc;

use http::HeaderName;
use mesh_core::l7::authorization::{Attribute, Condition, Operation, PathPattern, Rule};
use mesh_core::l7::ratelimit::Key;
use mesh_core::l7::text::TextMatch;
use serde::Deserialize;

use crate::object::scalar::IpBlock;
use crate::object::security::Mistake;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Selector {
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default)]
    methods: Vec<Method>,
    #[serde(default)]
    path: Option<Path>,
    #[serde(default, rename = "sourceCIDR")]
    source: Option<Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(default, rename = "type")]
    kind: HeaderType,
    name: String,
    #[serde(default)]
    value: Option<Arc<str>>,
    #[serde(default)]
    invert: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum HeaderType {
    #[default]
    Exact,
    RegularExpression,
    Distinct,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Method {
    value: Arc<str>,
    #[serde(default)]
    invert: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    #[serde(default, rename = "type")]
    kind: PathType,
    #[serde(default)]
    value: Option<Arc<str>>,
    #[serde(default)]
    invert: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum PathType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    #[serde(default, rename = "type")]
    kind: SourceType,
    value: IpBlock,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum SourceType {
    #[default]
    Exact,
    Distinct,
}

/// What selectors come to. No rule: every request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) rules: Vec<Rule>,
    pub(super) by: Vec<Key>,
}

/// # Errors
/// They cannot be meant, or not be said in a model.
pub(super) fn read(selectors: &[Selector], at: &str) -> Result<Selected, Mistake> {
    let (mut when, mut by) = (Vec::new(), Vec::new());
    let mut operation = Operation::default();
    for (i, selector) in selectors.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if selector.headers.is_empty()
            && selector.methods.is_empty()
            && selector.path.is_none()
            && selector.source.is_none()
        {
            return mistake(at, "one of headers, methods, path and sourceCIDR is needed");
        }
        for (i, header) in selector.headers.iter().enumerate() {
            when.extend(
                header.read(&mut by).map_err(|why| Mistake { field: format!("{at}.headers[{i}]"), message: why })?,
            );
        }
        when.extend(methods(&selector.methods));
        if let Some(path) = &selector.path {
            path.read(&mut operation).map_err(|why| Mistake { field: format!("{at}.path"), message: why })?;
        }
        if let Some(source) = &selector.source {
            when.push(condition(Attribute::SourceIp, TextMatch::Exact(source.value.0.to_string().into()), false));
            if matches!(source.kind, SourceType::Distinct) {
                add(&mut by, Key::SourceIp);
            }
        }
    }
    let to = if operation == Operation::default() { Vec::new() } else { vec![operation] };
    let says_nothing = to.is_empty() && when.is_empty();
    let rules = if says_nothing { Vec::new() } else { vec![Rule { from: Vec::new(), to, when }] };
    Ok(Selected { rules, by })
}

impl Header {
    fn read(&self, by: &mut Vec<Key>) -> Result<Option<Condition>, String> {
        let (key, attribute) = named(&self.name.to_lowercase())?;
        let value = self.value.as_ref().filter(|value| !value.is_empty());
        let is_address = matches!(attribute, Attribute::SourceIp | Attribute::RemoteIp);
        let text = match (self.kind, value) {
            (HeaderType::Distinct, None) if !self.invert => {
                // Requests without the header are not limited, as there.
                let is_needed = matches!(key, Key::Header(_) | Key::RequestPrincipal);
                add(by, key);
                return Ok(is_needed.then(|| condition(attribute, TextMatch::Present, false)));
            }
            (HeaderType::Distinct, _) => return Err("with Distinct there is neither value nor invert".to_owned()),
            (_, None) => return Err("a value is needed".to_owned()),
            (HeaderType::RegularExpression, Some(_)) if is_address => {
                return Err("an address has no regular expression".to_owned());
            }
            (HeaderType::RegularExpression, Some(value)) => {
                mesh_analysis::check_expression(value).map_err(|why| format!("{value:?} {why}"))?;
                TextMatch::Regex(value.clone())
            }
            (HeaderType::Exact, Some(value)) if is_address => {
                TextMatch::Exact(value.parse::<IpBlock>()?.0.to_string().into())
            }
            (HeaderType::Exact, Some(value)) if attribute == Attribute::SourcePrincipal => {
                TextMatch::Exact(value.strip_prefix("spiffe://").unwrap_or(value).into())
            }
            (HeaderType::Exact, Some(value)) => TextMatch::Exact(value.clone()),
        };
        Ok(Some(condition(attribute, text, self.invert)))
    }
}

/// What the name of a header in lower case stands for.
fn named(name: &str) -> Result<(Key, Attribute), String> {
    let header = |name: &str| Attribute::RequestHeader(name.into());
    Ok(match name {
        ":identity" => (Key::Identity, Attribute::SourcePrincipal),
        ":namespace" => (Key::Namespace, Attribute::SourceNamespace),
        ":source-ip" => (Key::SourceIp, Attribute::SourceIp),
        ":remote-ip" => (Key::RemoteIp, Attribute::RemoteIp),
        ":request-principal" => (Key::RequestPrincipal, Attribute::RequestPrincipal),
        ":authority" | "host" => (Key::Host, header(":authority")),
        ":path" => (Key::Path, header(":path")),
        ":method" => (Key::Method, header(":method")),
        _ if HeaderName::from_bytes(name.as_bytes()).is_ok() => (Key::Header(name.into()), header(name)),
        _ => return Err(format!("{name:?} is no header")),
    })
}

/// These are ORed, also those that are inverted: of two different ones every request meets one.
fn methods(methods: &[Method]) -> Option<Condition> {
    let values = |invert: bool| {
        let meant = methods.iter().filter(move |method| method.invert == invert);
        let mut values: Vec<_> = meant.map(|method| method.value.clone()).collect();
        values.sort();
        values.dedup();
        values
    };
    let (meant, not) = (values(false), values(true));
    let texts = |values: Vec<Arc<str>>| values.into_iter().map(TextMatch::Exact).collect();
    let key = Attribute::RequestHeader(":method".into());
    match &not[..] {
        [] if meant.is_empty() => None,
        [] => Some(Condition { key, values: texts(meant), not_values: Vec::new() }),
        [one] if !meant.contains(one) => Some(Condition { key, values: Vec::new(), not_values: texts(not) }),
        _ => None,
    }
}

impl Path {
    fn read(&self, operation: &mut Operation) -> Result<(), String> {
        let value: Arc<str> = self.value.clone().unwrap_or_else(|| "/".into());
        if !value.starts_with('/') && !matches!(self.kind, PathType::RegularExpression) {
            return Err(format!("{value:?} does not begin with '/'"));
        }
        let patterns = match self.kind {
            PathType::Exact => vec![TextMatch::Exact(value)],
            PathType::RegularExpression => {
                mesh_analysis::check_expression(&value).map_err(|why| format!("{value:?} {why}"))?;
                vec![TextMatch::Regex(value)]
            }
            // Whole elements, as in the Gateway API.
            PathType::PathPrefix => match value.trim_end_matches('/') {
                "" if self.invert => return Err("every path begins with '/': this is for no request".to_owned()),
                "" => return Ok(()),
                prefix => vec![TextMatch::Exact(prefix.into()), TextMatch::Prefix(format!("{prefix}/").into())],
            },
        };
        let patterns = patterns.into_iter().map(PathPattern::Text);
        match self.invert {
            true => operation.not_paths.extend(patterns),
            false if operation.paths.is_empty() => operation.paths.extend(patterns),
            false => return Err("only one selector of a rule can have a path that is not inverted".to_owned()),
        }
        Ok(())
    }
}

fn condition(key: Attribute, text: TextMatch, invert: bool) -> Condition {
    let (values, not_values) = if invert { (Vec::new(), vec![text]) } else { (vec![text], Vec::new()) };
    Condition { key, values, not_values }
}

fn add(by: &mut Vec<Key>, key: Key) {
    if !by.contains(&key) {
        by.push(key);
    }
}

fn mistake<T>(field: String, message: &str) -> Result<T, Mistake> {
    Err(Mistake { field, message: message.to_owned() })
}

#[cfg(test)]
mod tests;
