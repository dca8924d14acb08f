//! The `matches` of HTTPRoutes and GRPCRoutes.

use std::sync::Arc;

use mesh_core::l7::route::{HeaderMatch, Match, PathKind, PathMatch, QueryMatch};
use mesh_core::l7::text::TextMatch;

use crate::object::grpc_route::{GrpcMethod, GrpcRouteMatch};
use crate::object::http_route::{Comparison, Condition, HttpRouteMatch, PathConditionKind};

/// Without any: the prefix `/`.
pub(super) fn of_requests(matches: &[HttpRouteMatch]) -> Vec<Match> {
    let all = [HttpRouteMatch::default()];
    let matches = if matches.is_empty() { &all } else { matches };
    let one = |from: &HttpRouteMatch| {
        let (kind, value) = match &from.path {
            None => (PathKind::Elements, "/".into()),
            Some(path) => match path.kind {
                PathConditionKind::Exact => (PathKind::Exact, path.value.clone()),
                PathConditionKind::PathPrefix => (PathKind::Elements, path.value.clone()),
                PathConditionKind::RegularExpression => (PathKind::Regex, path.value.clone()),
            },
        };
        let parameter = |from: &Condition| QueryMatch { name: from.name.clone(), value: text(from.kind, &from.value) };
        Match {
            path: Some(PathMatch { kind, value, ignore_case: false }),
            method: from.method.clone().map(TextMatch::Exact),
            headers: from.headers.iter().map(header).collect(),
            query: from.query_params.iter().map(parameter).collect(),
            ..Match::default()
        }
    };
    matches.iter().map(one).collect()
}

/// A call is a request for `/service/method`.
pub(super) fn of_calls(matches: &[GrpcRouteMatch]) -> Vec<Match> {
    let all = [GrpcRouteMatch::default()];
    let matches = if matches.is_empty() { &all } else { matches };
    let one = |from: &GrpcRouteMatch| Match {
        path: from.method.as_ref().and_then(path),
        headers: from.headers.iter().map(header).collect(),
        ..Match::default()
    };
    matches.iter().map(one).collect()
}

fn path(call: &GrpcMethod) -> Option<PathMatch> {
    const ANY: &str = "[^/]+";
    let set = |text: &Option<Arc<str>>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (set(&call.service), set(&call.method));
    let (kind, value) = match (call.kind, service, method) {
        (_, None, None) => return None,
        (Comparison::Exact, Some(service), Some(method)) => (PathKind::Exact, format!("/{service}/{method}")),
        (Comparison::Exact, Some(service), None) => (PathKind::Prefix, format!("/{service}/")),
        (Comparison::Exact, None, Some(method)) => (PathKind::Regex, format!("/{ANY}/{method}")),
        (Comparison::RegularExpression, service, method) => {
            let part = |part: Option<Arc<str>>| part.map_or_else(|| ANY.to_owned(), |part| format!("(?:{part})"));
            (PathKind::Regex, format!("/{}/{}", part(service), part(method)))
        }
    };
    Some(PathMatch { kind, value: value.into(), ignore_case: false })
}

fn header(from: &Condition) -> HeaderMatch {
    HeaderMatch { name: from.name.to_lowercase().into(), value: text(from.kind, &from.value), inverted: false }
}

fn text(kind: Comparison, value: &Arc<str>) -> TextMatch {
    match kind {
        Comparison::Exact => TextMatch::Exact(value.clone()),
        Comparison::RegularExpression => TextMatch::Regex(value.clone()),
    }
}
