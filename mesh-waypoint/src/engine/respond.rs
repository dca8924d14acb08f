//! Replies of the waypoint's own, word for word as the reference has them: clients look at these.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use mesh_core::l7::route::{Abort, AbortWith, Fault, GrpcStatus};
use mesh_net::header_list::HeaderList;
use std::time::Duration;

use super::path::encode;

#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderList,
    pub body: Bytes,
    pub why: Why,
}

/// What a reply of the waypoint's own is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    BadRequest,
    NoRoute,
    Denied,
    /// By an external authorizer, or because it could not be asked.
    Authorizer,
    Limited,
    Preflight,
    Redirect,
    Direct,
    Fault,
    NoBackend,
    NoHealthyUpstream,
    Overflow,
    Reset,
    Timeout,
    /// The client did not go on with its head.
    SlowHead,
    /// Nor with its body.
    Stalled,
    /// There is too much to do.
    Overload,
}

impl Why {
    /// Closed set, used as a log and metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NoRoute => "no_route",
            Self::Denied => "denied",
            Self::Authorizer => "authorizer",
            Self::Limited => "rate_limited",
            Self::Preflight => "preflight",
            Self::Redirect => "redirect",
            Self::Direct => "direct_response",
            Self::Fault => "fault",
            Self::NoBackend => "no_backend",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::Overflow => "overflow",
            Self::Reset => "upstream_reset",
            Self::Timeout => "timeout",
            Self::SlowHead => "slow_head",
            Self::Stalled => "stalled",
            Self::Overload => "overload",
        }
    }
}

impl Reply {
    /// `text/plain`, unless there is nothing to say.
    pub fn text(status: StatusCode, body: impl Into<Bytes>, why: Why) -> Self {
        let body = body.into();
        let mut headers = HeaderList::new();
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Self { status, headers, body, why }
    }

    /// In gRPC's words: HTTP 200, and all else in headers. Those that the reply has besides stay.
    pub fn into_grpc(self) -> Self {
        let status = grpc_status(self.status);
        self.with_grpc_status(status)
    }

    fn with_grpc_status(mut self, status: GrpcStatus) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status.0)));
        if let Some(message) = grpc_message(&self.body) {
            self.headers.insert(GRPC_MESSAGE, message);
        }
        Self { status: StatusCode::OK, body: Bytes::new(), ..self }
    }

    /// For a request that says of itself that it is gRPC ([`super::head::Head::is_grpc`]).
    pub fn for_client(self, is_grpc: bool) -> Self {
        if is_grpc { self.into_grpc() } else { self }
    }
}

/// No rule holds.
pub fn not_found() -> Reply {
    Reply::text(StatusCode::NOT_FOUND, "", Why::NoRoute)
}

pub fn bad_request() -> Reply {
    Reply::text(StatusCode::BAD_REQUEST, "Bad Request", Why::BadRequest)
}

/// By a policy.
pub fn denied() -> Reply {
    Reply::text(StatusCode::FORBIDDEN, "RBAC: access denied", Why::Denied)
}

/// By a rate limit.
pub fn limited() -> Reply {
    Reply::text(StatusCode::TOO_MANY_REQUESTS, "local_rate_limited", Why::Limited)
}

/// The rule leads to what is not there.
pub fn no_backend(status: StatusCode) -> Reply {
    Reply::text(status, "", Why::NoBackend)
}

/// There is no endpoint, or all are ejected.
pub fn no_healthy_upstream() -> Reply {
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", Why::NoHealthyUpstream)
}

/// A limit of the connection pool is reached.
pub fn overflow() -> Reply {
    let mut reply = Reply { why: Why::Overflow, ..reset("overflow", false) };
    reply.headers.insert(OVERLOADED, HeaderValue::from_static("true"));
    reply
}

/// The backend's connection ended before a reply began: `remote connection failure`, `connection timeout`,
/// `connection termination`, `remote reset`, `remote refused stream reset`, `protocol error`; `retried`: it was the last of several.
pub fn reset(reason: &str, retried: bool) -> Reply {
    let latest = if retried { "retried and the latest " } else { "" };
    let text = format!("upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}");
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, text, Why::Reset)
}

pub fn timeout() -> Reply {
    Reply::text(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", Why::Timeout)
}

/// The client does not end its head.
pub fn slow_head() -> Reply {
    Reply::text(StatusCode::REQUEST_TIMEOUT, "request header timeout", Why::SlowHead)
}

/// The client does not go on with its body.
pub fn stalled() -> Reply {
    Reply::text(StatusCode::REQUEST_TIMEOUT, "stream timeout", Why::Stalled)
}

/// There is too much to do.
pub fn overloaded() -> Reply {
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, "envoy overloaded", Why::Overload)
}

/// What a fault does to a request. The wait comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    pub delay: Option<Duration>,
    pub abort: Option<AbortWith>,
}

/// Both numbers are drawn evenly from 0 to 999,999, each on its own.
pub fn inject(fault: &Fault, drawn_for_delay: u32, drawn_for_abort: u32) -> Injected {
    let delay = fault.delay.as_ref().filter(|delay| delay.share.holds(drawn_for_delay));
    let abort = fault.abort.as_ref().filter(|abort| abort.share.holds(drawn_for_abort));
    Injected { delay: delay.map(|delay| delay.time), abort: abort.map(|Abort { with, .. }| *with) }
}

/// A plain client is told of a gRPC status by HTTP 200 and the text.
pub fn abort(with: AbortWith, is_grpc: bool) -> Reply {
    let text = |status| Reply::text(status, "fault filter abort", Why::Fault);
    match with {
        AbortWith::Http(status) => {
            text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)).for_client(is_grpc)
        }
        AbortWith::Grpc(status) if is_grpc => text(StatusCode::OK).with_grpc_status(status),
        AbortWith::Grpc(_) => text(StatusCode::OK),
    }
}

/// gRPC's `http-grpc-status-mapping.md`.
pub fn grpc_status(status: StatusCode) -> GrpcStatus {
    match status.as_u16() {
        400 => GrpcStatus::INTERNAL,
        401 => GrpcStatus(16),
        403 => GrpcStatus(7),
        404 => GrpcStatus(12),
        429 | 502..=504 => GrpcStatus::UNAVAILABLE,
        _ => GrpcStatus(2),
    }
}

/// Percent-encoded as gRPC over HTTP/2 asks for; `None` when there is nothing to say.
fn grpc_message(text: &[u8]) -> Option<HeaderValue> {
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'%' => encode(*byte, &mut encoded),
            b' '..=b'~' => encoded.push(*byte),
            _ => encode(*byte, &mut encoded),
        }
    }
    HeaderValue::from_bytes(&encoded).ok().filter(|message| !message.is_empty())
}

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// As a client sees it.
#[cfg(test)]
pub(crate) fn shown(reply: &Reply) -> String {
    let lines = super::sample::lines(&reply.headers);
    format!("{}\n{lines}\n{}", reply.status.as_u16(), String::from_utf8_lossy(&reply.body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mesh_core::l7::route::{Delay, Share};
    use proptest::prelude::*;

    fn check(reply: Reply, expected: Expect) {
        expected.assert_eq(&shown(&reply));
    }

    #[test]
    fn replies_are_the_references_word_for_word() {
        check(not_found(), expect!["404\n\n"]);
        check(bad_request(), expect!["400\ncontent-type: text/plain\n\nBad Request"]);
        check(denied(), expect!["403\ncontent-type: text/plain\n\nRBAC: access denied"]);
        check(limited(), expect!["429\ncontent-type: text/plain\n\nlocal_rate_limited"]);
        check(no_backend(StatusCode::INTERNAL_SERVER_ERROR), expect!["500\n\n"]);
        check(no_healthy_upstream(), expect!["503\ncontent-type: text/plain\n\nno healthy upstream"]);
        check(
            overflow(),
            expect![
                "503\ncontent-type: text/plain\nx-envoy-overloaded: true\n\nupstream connect error or disconnect/reset before headers. reset reason: overflow"
            ],
        );
        check(timeout(), expect!["504\ncontent-type: text/plain\n\nupstream request timeout"]);
    }

    #[test]
    fn grpc_clients_are_told_in_headers() {
        check(
            denied().into_grpc(),
            expect!["200\ncontent-type: application/grpc\ngrpc-status: 7\ngrpc-message: RBAC: access denied\n\n"],
        );
        check(
            limited().into_grpc(),
            expect!["200\ncontent-type: application/grpc\ngrpc-status: 14\ngrpc-message: local_rate_limited\n\n"],
        );
        check(not_found().into_grpc(), expect!["200\ncontent-type: application/grpc\ngrpc-status: 12\n\n"]);
        check(
            timeout().into_grpc(),
            expect!["200\ncontent-type: application/grpc\ngrpc-status: 14\ngrpc-message: upstream request timeout\n\n"],
        );
        let odd = Reply::text(StatusCode::IM_A_TEAPOT, "50%\nü", Why::Direct);
        check(
            odd.into_grpc(),
            expect!["200\ncontent-type: application/grpc\ngrpc-status: 2\ngrpc-message: 50%25%0A%C3%BC\n\n"],
        );
    }

    #[test]
    fn aborts_say_that_they_are_one() {
        check(abort(AbortWith::Http(418), false), expect!["418\ncontent-type: text/plain\n\nfault filter abort"]);
        check(
            abort(AbortWith::Http(503), true),
            expect!["200\ncontent-type: application/grpc\ngrpc-status: 14\ngrpc-message: fault filter abort\n\n"],
        );
        check(
            abort(AbortWith::Grpc(GrpcStatus::CANCELLED), true),
            expect!["200\ncontent-type: application/grpc\ngrpc-status: 1\ngrpc-message: fault filter abort\n\n"],
        );
        check(
            abort(AbortWith::Grpc(GrpcStatus::CANCELLED), false),
            expect!["200\ncontent-type: text/plain\n\nfault filter abort"],
        );
    }

    #[test]
    fn delay_and_abort_are_drawn_separately() {
        let time = Duration::from_millis(700);
        let fault = Fault {
            delay: Some(Delay { share: Share::percent(50.0), time }),
            abort: Some(Abort { share: Share::percent(0.5), with: AbortWith::Http(500) }),
        };
        let both = Injected { delay: Some(time), abort: Some(AbortWith::Http(500)) };
        assert_eq!(inject(&fault, 499_999, 4_999), both);
        assert_eq!(inject(&fault, 500_000, 4_999), Injected { delay: None, ..both });
        assert_eq!(inject(&fault, 0, 5_000), Injected { abort: None, ..both });
        assert_eq!(inject(&Fault::default(), 0, 0), Injected::default());
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>, status in 100..1000u16) {
            let status = StatusCode::from_u16(status).unwrap();
            let reply = Reply::text(status, body, Why::Direct).into_grpc();
            prop_assert!(reply.headers.iter().all(|(_, value)| value.to_str().is_ok()));
        }
    }
}
