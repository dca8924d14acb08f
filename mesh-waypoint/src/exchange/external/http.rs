//! The request's own head, sent to the authorizer: 200 lets it pass.

use http::{HeaderName, HeaderValue, StatusCode, header};
use mesh_core::l7::authorization::ExternalAuthorizer;
use mesh_core::l7::text::TextMatch;
use mesh_net::header_list::HeaderList;

use super::{AskError, MOST, PARTIAL_BODY, Ruling, Seen};
use crate::engine::pattern::Pattern;
use crate::engine::respond::{Reply, Why};
use crate::errand::{self, Answer, Errand};
use crate::exchange::edit::{self, Edit, How};
use crate::exchange::read::Incoming;
use crate::session::Session;
use crate::world::{Compiled, World};

pub(super) async fn ask(
    session: &Session,
    world: &World,
    compiled: &Compiled,
    authorizer: &ExternalAuthorizer,
    incoming: &Incoming,
    seen: Option<&Seen>,
) -> Result<Ruling, AskError> {
    let errand = Errand {
        service: authorizer.service.clone(),
        port: authorizer.port,
        method: incoming.method.clone(),
        authority: incoming.authority.clone(),
        target: format!("{}{}", authorizer.path_prefix, incoming.canonical()),
        headers: told(authorizer, incoming, seen),
        body: seen.map(|seen| seen.bytes.clone()).unwrap_or_default(),
        is_grpc: false,
        timeout: authorizer.timeout,
    };
    let Answer { status, headers, body, .. } = errand::run(session, world, compiled, &errand, MOST).await?;
    if status == StatusCode::OK {
        return Ok(allowed(authorizer, &headers));
    }
    if status.is_server_error() || status.is_informational() {
        return Err(AskError::Status(status));
    }
    let mut reply = Reply::text(status, body, Why::Authorizer);
    let list = &authorizer.headers_to_downstream_on_deny;
    let is_meant = |name: &HeaderName| {
        list.is_empty() || [header::WWW_AUTHENTICATE, header::LOCATION].contains(name) || names(list, name)
    };
    let edits: Vec<_> = Edit::lines(&headers, is_meant, How::Set).collect();
    edit::apply(&edits, &mut reply.headers);
    Ok(Ruling::Deny(reply))
}

/// Little of a request is told unless it is asked for: its head is the client's, and may hold secrets of others'.
fn told(authorizer: &ExternalAuthorizer, incoming: &Incoming, seen: Option<&Seen>) -> HeaderList {
    let list = &authorizer.include_request_headers;
    let is_meant = |name: &HeaderName| *name == header::AUTHORIZATION || names(list, name);
    let edits: Vec<_> = Edit::lines(&incoming.headers, is_meant, How::Set).collect();
    let mut headers = HeaderList::new();
    edit::apply(&edits, &mut headers);
    let further = authorizer.include_additional_headers.iter();
    let further: Vec<_> = further.filter_map(|(n, v)| Edit::new(How::Set, n.as_bytes(), v.as_bytes())).collect();
    edit::apply(&further, &mut headers);
    if let Some(seen) = seen {
        let partial = if seen.is_all { "false" } else { "true" };
        headers.insert(PARTIAL_BODY, HeaderValue::from_static(partial));
    }
    headers.insert(header::CONTENT_LENGTH, seen.map_or(0, |seen| seen.bytes.len()).into());
    headers
}

fn allowed(authorizer: &ExternalAuthorizer, headers: &HeaderList) -> Ruling {
    let upstream = |name: &HeaderName| names(&authorizer.headers_to_upstream, name);
    let mut request: Vec<_> = Edit::lines(headers, upstream, How::Set).collect();
    let removed = headers.get_all(TO_REMOVE).flat_map(|line| line.as_bytes().split(|b| *b == b','));
    request.extend(removed.filter_map(|name| Edit::new(How::Remove, name.trim_ascii(), b"")));
    let downstream = |name: &HeaderName| names(&authorizer.headers_to_downstream_on_allow, name);
    Ruling::Allow { request, response: Edit::lines(headers, downstream, How::Append).collect() }
}

/// Whether a header is on a list.
fn names(list: &[TextMatch], name: &HeaderName) -> bool {
    let name = name.as_str();
    list.iter().any(|text| match text {
        TextMatch::Exact(text) => name.eq_ignore_ascii_case(text),
        TextMatch::Prefix(text) => name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text)),
        TextMatch::Suffix(text) => {
            let end = name.len().checked_sub(text.len()).and_then(|at| name.get(at..));
            end.is_some_and(|end| end.eq_ignore_ascii_case(text))
        }
        TextMatch::Regex(_) => Pattern::new(text).is_ok_and(|pattern| pattern.holds(name.as_bytes())),
        TextMatch::Present => true,
    })
}

/// Names of the request's headers that are not to go on.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_headers_without_regard_to_case() {
        let list =
            [TextMatch::Exact("X-User".into()), TextMatch::Prefix("X-Auth-".into()), TextMatch::Suffix("-Id".into())];
        let is_named = |name: &'static str| names(&list, &HeaderName::from_static(name));
        assert_eq!(
            ["x-user", "x-users", "x-auth-a", "x-auth", "request-id", "id"].map(is_named),
            [true, false, true, false, true, false]
        );
        assert!(!names(&[], &HeaderName::from_static("x-user")));
    }
}
