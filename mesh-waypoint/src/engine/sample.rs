//! Routes and requests as text, for tests.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use mesh_core::l7::route::{
    Action, Backend, BackendRef, Entry, Fault, Forward, HeaderMatch, HeaderOps, Match, PathKind, PathMatch, QueryMatch,
    Retries, Rewrite, Rule, SourceMatch,
};
use mesh_core::l7::text::TextMatch;
use mesh_core::workload::{ServiceKey, Uid};
use mesh_net::header_list::HeaderList;

use super::head::{Client, Head, Request};

/// `prefix:/api method=GET header.x~v[0-9] !header.y query.q=1 ns:team uid:pod`; a value is `=exact`, `^prefix`, `$suffix`,
/// `~regex` or, when there is none, anything at all. `iprefix:` and `iexact:` ignore case.
pub(crate) fn entry(text: &str, rule: usize) -> Entry {
    let mut matches = Match::default();
    for word in text.split_whitespace() {
        let (inverted, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
        if let Some((kind, value)) = word.split_once(':')
            && !kind.contains('.')
        {
            let source = || SourceMatch::default();
            match kind {
                "ns" => drop(matches.source.get_or_insert_with(source).namespaces.insert(value.into())),
                "uid" => {
                    let workloads = &mut matches.source.get_or_insert_with(source).workloads;
                    workloads.get_or_insert_default().insert(Uid(value.into()));
                }
                _ => matches.path = Some(path(kind, value)),
            }
            continue;
        }
        let (name, value) = match word.find(['=', '^', '$', '~']) {
            Some(at) => (&word[..at], text_match(&word[at..])),
            None => (word, TextMatch::Present),
        };
        match name.split_once('.').unwrap_or((name, "")) {
            ("method", _) => matches.method = Some(value),
            ("scheme", _) => matches.scheme = Some(value),
            ("authority", _) => matches.authority = Some(value),
            ("header", name) => matches.headers.push(HeaderMatch { name: name.into(), value, inverted }),
            ("query", name) => matches.query.push(QueryMatch { name: name.into(), value }),
            _ => panic!("{word}"),
        }
    }
    Entry { matches, rule }
}

fn path(kind: &str, value: &str) -> PathMatch {
    let (kind, ignore_case) = match kind.strip_prefix('i') {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    let kind = match kind {
        "exact" => PathKind::Exact,
        "prefix" => PathKind::Prefix,
        "elements" => PathKind::Elements,
        "regex" => PathKind::Regex,
        other => panic!("{other}"),
    };
    PathMatch { kind, value: value.into(), ignore_case }
}

fn text_match(text: &str) -> TextMatch {
    let value: Arc<str> = text[1..].into();
    match &text[..1] {
        "=" => TextMatch::Exact(value),
        "^" => TextMatch::Prefix(value),
        "$" => TextMatch::Suffix(value),
        _ => TextMatch::Regex(value),
    }
}

pub(crate) fn rule(origin: &str, action: Action) -> Rule {
    Rule {
        origin: origin.into(),
        action,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        timeout: None,
        retries: Retries::default(),
        fault: Fault::default(),
        cors: None,
        mirrors: Vec::new(),
        session: None,
    }
}

pub(crate) fn forward(backends: &[(u32, &str)]) -> Forward {
    let backends = backends.iter().map(|(weight, name)| backend(*weight, name)).collect();
    Forward { backends, rewrite: Rewrite::default(), otherwise: 503 }
}

pub(crate) fn backend(weight: u32, name: &str) -> Backend {
    let to = service(name);
    Backend { weight, to, request_headers: HeaderOps::default(), response_headers: HeaderOps::default(), rewrite: None }
}

pub(crate) fn service(name: &str) -> BackendRef {
    let service = ServiceKey { namespace: "default".into(), hostname: name.into() };
    BackendRef::Service { service, port: 80, subset: None }
}

/// `GET reviews/api?x=1 header=value header=value @namespace/uid`; the path is not normalised.
pub(crate) struct Asked {
    method: String,
    authority: String,
    path: String,
    query: Option<String>,
    namespace: String,
    uid: Option<Uid>,
    pub(crate) headers: HeaderList,
}

impl Asked {
    pub(crate) fn new(text: &str) -> Self {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let mut word = || words.next().unwrap_or_default();
        let (method, target) = (word(), word());
        let (authority, target) = target.split_at(target.find('/').unwrap_or(target.len()));
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
        let mut asked = Self {
            method: method.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            query,
            namespace: String::new(),
            uid: None,
            headers: HeaderList::new(),
        };
        for word in words {
            if let Some(client) = word.strip_prefix('@') {
                let (namespace, uid) = client.split_once('/').unwrap_or((client, ""));
                asked.namespace = namespace.to_owned();
                asked.uid = (!uid.is_empty()).then(|| Uid(uid.into()));
            } else {
                let (name, value) = word.split_once('=').unwrap();
                let name: HeaderName = name.parse().unwrap();
                asked.headers.append(name, HeaderValue::from_str(value).unwrap());
            }
        }
        asked
    }

    pub(crate) fn with_path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    pub(crate) fn request(&self) -> Request<'_> {
        let head = Head {
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            protocol: "HTTP/1.1",
            headers: &self.headers,
        };
        let address = Some("10.0.0.7:4711".parse().unwrap());
        let client = Client {
            namespace: &self.namespace,
            uid: self.uid.as_ref(),
            identity: Some("spiffe://td/ns/x/sa/y"),
            address,
        };
        Request { head, client, received: SystemTime::UNIX_EPOCH }
    }
}

/// `name: value` lines, in order.
pub(crate) fn lines(headers: &HeaderList) -> String {
    let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}\n", value.to_str().unwrap());
    headers.iter().map(line).collect()
}
