//! `envoy.service.auth.v3.Authorization/Check`: one message each way.

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use mesh_core::l7::authorization::ExternalAuthorizer;
use mesh_net::header_list::HeaderList;
use prost::Message;

use super::{AskError, MOST, PARTIAL_BODY, Ruling, Seen};
use crate::engine::fields::Fields;
use crate::engine::headers::REQUEST_ID;
use crate::engine::respond::{GRPC_STATUS, Reply, Why};
use crate::errand::{self, Errand};
use crate::exchange::edit::{self, Edit, How};
use crate::exchange::read::{self, Incoming};
use crate::session::Session;
use crate::wire::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::wire::envoy::config::core::v3::{Address, HeaderValueOption, SocketAddress, address};
use crate::wire::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use crate::wire::envoy::service::auth::v3::check_response::HttpResponse;
use crate::wire::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use crate::world::{Compiled, World};

pub(super) async fn ask(
    session: &Session,
    world: &World,
    compiled: &Compiled,
    authorizer: &ExternalAuthorizer,
    incoming: &Incoming,
    seen: Option<&Seen>,
) -> Result<Ruling, AskError> {
    let mut headers = HeaderList::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    // At most eight digits: a day in milliseconds has as many.
    let milliseconds = authorizer.timeout.as_millis().clamp(1, 99_999_999);
    if let Ok(timeout) = HeaderValue::try_from(format!("{milliseconds}m")) {
        headers.insert("grpc-timeout", timeout);
    }
    let errand = Errand {
        service: authorizer.service.clone(),
        port: authorizer.port,
        method: Method::POST,
        authority: format!("{}:{}", authorizer.service.hostname, authorizer.port),
        target: CHECK.to_owned(),
        headers,
        body: framed(&check(session, incoming, seen)),
        is_grpc: true,
        timeout: authorizer.timeout,
    };
    let answer = errand::run(session, world, compiled, &errand, MOST).await?;
    if answer.status != StatusCode::OK {
        return Err(AskError::Status(answer.status));
    }
    // In the trailers, or in the head of an answer that is nothing but a status.
    let status = answer.trailers.get(GRPC_STATUS).or_else(|| answer.headers.get(GRPC_STATUS));
    if status.is_none_or(|status| status != "0") {
        let status = status.map_or("none".into(), |status| String::from_utf8_lossy(status.as_bytes()));
        return Err(AskError::Grpc(status.into_owned()));
    }
    Ok(ruling(CheckResponse::decode(unframed(answer.body)?)?))
}

fn check(session: &Session, incoming: &Incoming, seen: Option<&Seen>) -> CheckRequest {
    let peer = |at: SocketAddr, principal: String| Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                protocol: 0,
                address: at.ip().to_string(),
                port_value: at.port().into(),
            })),
        }),
        principal,
        ..Peer::default()
    };
    let own = &session.shared.upstreams.dialler().own.identity;
    let path = incoming.canonical();
    let fields: &dyn Fields = &incoming.headers;
    let mut headers: std::collections::BTreeMap<_, _> = incoming
        .headers
        .keys()
        .filter_map(|name| Some((name.as_str().to_owned(), fields.joined(name.as_str())?)))
        .collect();
    for (name, value) in [
        (":authority", &*incoming.authority),
        (":method", incoming.method.as_str()),
        (":path", &path),
        (":scheme", SCHEME),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    if let Some(seen) = seen {
        headers.insert(PARTIAL_BODY.to_owned(), (!seen.is_all).to_string());
    }
    let length = incoming.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let http = HttpRequest {
        id: fields.joined(REQUEST_ID.as_str()).unwrap_or_default(),
        method: incoming.method.as_str().to_owned(),
        headers,
        path,
        host: incoming.authority.clone(),
        scheme: SCHEME.to_owned(),
        size: length.unwrap_or(-1),
        protocol: read::protocol(incoming.version).to_owned(),
        body: seen.map(|seen| String::from_utf8_lossy(&seen.bytes).into_owned()).unwrap_or_default(),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(session.client.address, session.client.identity.uri().to_owned())),
            destination: Some(peer(session.asked.address, own.uri().to_owned())),
            request: Some(Request { time: Some(SystemTime::now().into()), http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}

fn ruling(said: CheckResponse) -> Ruling {
    // Without a status, an empty message says nothing: only the form of an answer that allows does.
    let is_allowed = match &said.status {
        Some(status) => status.code == 0,
        None => matches!(said.http_response, Some(HttpResponse::OkResponse(_))),
    };
    match said.http_response {
        Some(HttpResponse::OkResponse(OkHttpResponse { headers, headers_to_remove, response_headers_to_add }))
            if is_allowed =>
        {
            let mut request: Vec<_> = headers.iter().filter_map(|option| edited(option, How::Set)).collect();
            let removed = headers_to_remove.iter();
            request.extend(removed.filter_map(|name| Edit::new(How::Remove, name.as_bytes(), b"")));
            let response = response_headers_to_add.iter().filter_map(|option| edited(option, acted(option))).collect();
            Ruling::Allow { request, response }
        }
        _ if is_allowed => Ruling::Allow { request: Vec::new(), response: Vec::new() },
        Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body })) => {
            let code = status.and_then(|status| StatusCode::from_u16(u16::try_from(status.code).ok()?).ok());
            let code = code.filter(|code| !code.is_informational()).unwrap_or(StatusCode::FORBIDDEN);
            let mut reply = Reply::text(code, body, Why::Authorizer);
            let edits: Vec<_> = headers.iter().filter_map(|option| edited(option, How::Set)).collect();
            edit::apply(&edits, &mut reply.headers);
            Ruling::Deny(reply)
        }
        _ => Ruling::Deny(Reply::text(StatusCode::FORBIDDEN, "", Why::Authorizer)),
    }
}

/// `otherwise`: when the option itself does not say whether to append.
fn edited(option: &HeaderValueOption, otherwise: How) -> Option<Edit> {
    let header = option.header.as_ref()?;
    let how = match option.append {
        Some(true) => How::Append,
        Some(false) => How::Set,
        None => otherwise,
    };
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    Edit::new(how, header.key.as_bytes(), value)
}

fn acted(option: &HeaderValueOption) -> How {
    match option.append_action() {
        HeaderAppendAction::AppendIfExistsOrAdd => How::Append,
        HeaderAppendAction::AddIfAbsent => How::AddIfAbsent,
        HeaderAppendAction::OverwriteIfExistsOrAdd => How::Set,
        HeaderAppendAction::OverwriteIfExists => How::SetIfPresent,
    }
}

/// A message as gRPC sends it: not compressed, four bytes of length.
fn framed(message: &CheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    // A head and a body of bounded size.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

fn unframed(mut frame: Bytes) -> Result<Bytes, AskError> {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return Err(AskError::Frame);
    }
    let length = frame.get_u32() as usize;
    if frame.len() == length { Ok(frame) } else { Err(AskError::Frame) }
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Between pods requests are HTTP; TLS is the mesh's.
const SCHEME: &str = "http";
