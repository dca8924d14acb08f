//! What the Gateway API's filters come to.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::l7::route::{BackendRef, Cors, HeaderOps, Mirror, PathRewrite, Redirect, RedirectPort, Rewrite, Share};
use mesh_core::l7::text::TextMatch;

use super::Compiler;
use crate::object::ObjectKey;
use crate::object::http_filter::{
    CorsFilter, Filter, FilterKind, HeaderModifier, NamedValue, PathModifier, RequestMirror, RequestRedirect,
    UrlRewrite,
};

#[derive(Debug, Default)]
pub(super) struct Filtered {
    pub(super) request: HeaderOps,
    pub(super) response: HeaderOps,
    pub(super) rewrite: Rewrite,
    pub(super) redirect: Option<Redirect>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<Cors>,
    /// There is one that nobody here carries out: what it is for is answered with 500.
    pub(super) is_unknown: bool,
}

impl Filtered {
    /// Instead of a backend whose filters are not carried out.
    pub(super) fn refusal() -> BackendRef {
        BackendRef::Missing { status: 500, why: "it has a filter that is not carried out".into() }
    }
}

impl Compiler<'_> {
    pub(super) fn filtered(&mut self, filters: &[Filter], object: &ObjectKey, field: &str) -> Filtered {
        let mut filtered = Filtered::default();
        for (i, filter) in filters.iter().enumerate() {
            let field = format!("{field}[{i}]");
            match filter.kind {
                FilterKind::RequestHeaderModifier => filtered.request = header_ops(&filter.request_header_modifier),
                FilterKind::ResponseHeaderModifier => filtered.response = header_ops(&filter.response_header_modifier),
                FilterKind::RequestMirror => {
                    let mirrors = filter.request_mirror.iter();
                    let drawn = mirrors.map(|mirror| (mirror, share(mirror))).filter(|(_, share)| share.0 > 0);
                    for (mirror, share) in drawn {
                        let to = self.backend(&mirror.backend_ref, object, &format!("{field}.requestMirror"));
                        filtered.mirrors.push(Mirror { to, share });
                    }
                }
                FilterKind::RequestRedirect => {
                    filtered.redirect = Some(redirect(&filter.request_redirect.clone().unwrap_or_default()));
                }
                FilterKind::UrlRewrite => filtered.rewrite = rewrite(&filter.url_rewrite.clone().unwrap_or_default()),
                FilterKind::Cors => filtered.cors = filter.cors.as_ref().map(cors),
                FilterKind::ExtensionRef => {
                    filtered.is_unknown = true;
                    self.unresolved(
                        object,
                        &field,
                        "no such filter is carried out; what it is for gets 500".to_owned(),
                    );
                }
            }
        }
        filtered
    }
}

fn header_ops(from: &HeaderModifier) -> HeaderOps {
    let pairs = |values: &[NamedValue]| {
        values.iter().map(|value| (value.name.to_lowercase().into(), value.value.clone())).collect()
    };
    HeaderOps {
        remove: from.remove.iter().map(|name| name.to_lowercase().into()).collect(),
        set: pairs(&from.set),
        add: pairs(&from.add),
    }
}

fn share(mirror: &RequestMirror) -> Share {
    match (mirror.percent, mirror.fraction) {
        (Some(percent), _) => Share::percent(f64::from(percent)),
        (None, Some(fraction)) => {
            Share::percent(f64::from(fraction.numerator) * 100.0 / f64::from(fraction.denominator.max(1)))
        }
        (None, None) => Share::ALL,
    }
}

fn path(from: &PathModifier) -> Option<PathRewrite> {
    let full = from.replace_full_path.clone().map(PathRewrite::Full);
    full.or_else(|| from.replace_prefix_match.clone().map(PathRewrite::Elements))
}

fn redirect(from: &RequestRedirect) -> Redirect {
    Redirect {
        status: from.status_code.unwrap_or(302),
        scheme: from.scheme.clone(),
        authority: from.hostname.clone(),
        port: match (from.port, &from.scheme) {
            (Some(port), _) => RedirectPort::Number(port),
            (None, Some(_)) => RedirectPort::Default,
            (None, None) => RedirectPort::Keep,
        },
        path: from.path.as_ref().and_then(path),
    }
}

fn rewrite(from: &UrlRewrite) -> Rewrite {
    Rewrite { path: from.path.as_ref().and_then(path), authority: from.hostname.clone() }
}

fn cors(from: &CorsFilter) -> Cors {
    let origin = |origin: &Arc<str>| match (&**origin, origin.contains('*')) {
        ("*", _) => TextMatch::Present,
        (_, false) => TextMatch::Exact(origin.clone()),
        // A wildcard stands for any number of labels.
        (_, true) => {
            let parts: Vec<String> = origin.split('*').map(quoted).collect();
            TextMatch::Regex(parts.join(".*").into())
        }
    };
    Cors {
        origins: from.allow_origins.iter().map(origin).collect(),
        methods: from.allow_methods.clone(),
        headers: from.allow_headers.clone(),
        expose: from.expose_headers.clone(),
        max_age: Some(Duration::from_secs(from.max_age.unwrap_or(5))),
        credentials: from.allow_credentials,
        forward_unmatched: false,
    }
}

/// As text within a regular expression.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && !"/:-".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
