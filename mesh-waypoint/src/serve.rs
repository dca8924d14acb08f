//! One stream of the tunnel: what is spoken on it, and who carries that on.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::l7::Protocol;
use tokio::io::AsyncReadExt;
use tracing::debug;

use crate::body::{Body, BodyError};
use crate::http1;
use crate::io::{ByteStream, Rewound};
use crate::limits::Limits;
use crate::message::{Arriving, Service};
use crate::relay;
use crate::session::Session;
use crate::sniff::{self, Spoken};

impl Session {
    /// Carries the stream from its first byte to its last.
    pub async fn serve(self, mut io: impl ByteStream + 'static) {
        let world = self.world();
        let Some(compiled) = self.compiled(&world) else { return };
        let rules = self.rules(&compiled);
        let protocol = rules.map(|rules| rules.protocol).unwrap_or_default();
        let mut first = BytesMut::new();
        let spoken = match protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => match self.preface(&mut io, &mut first).await {
                Some(spoken) => spoken,
                None => return,
            },
            Protocol::Tcp => Spoken::Other,
            Protocol::Tls => Spoken::Tls,
            Protocol::Detect => {
                // A server that speaks first is waited for by its client: but where something is said about requests, nothing
                // goes on before it is known whether it is one.
                let patient = rules.is_some_and(|rules| rules.http.is_some()) || compiled.guards_requests();
                match self.sniff(&mut io, &mut first, patient).await {
                    Some(spoken) => spoken,
                    None => return,
                }
            }
        };
        let tls = rules.is_some_and(|rules| !rules.tls.is_empty());
        match spoken {
            Spoken::Http1 => self.first(io, first).await,
            Spoken::Http2 => self.second(Rewound::new(first.freeze(), io)).await,
            Spoken::Tls if tls => relay::tls(self, io, first).await,
            Spoken::Tls | Spoken::Other => relay::bytes(self, Rewound::new(first.freeze(), io), None).await,
        }
    }

    /// `None`: the client went without a word.
    async fn sniff(&self, io: &mut impl ByteStream, first: &mut BytesMut, patient: bool) -> Option<Spoken> {
        let told = async {
            loop {
                if let Some(spoken) = sniff::spoken(first) {
                    return Some(spoken);
                }
                match io.read_buf(first).await {
                    Ok(0) if first.is_empty() => return Some(Spoken::Other),
                    Ok(0) => return Some(Spoken::Other),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        if patient {
            return told.await;
        }
        tokio::time::timeout(self.shared.limits.sniff_timeout, told).await.unwrap_or(Some(Spoken::Other))
    }

    /// Which HTTP. `None`: the client went without a word.
    async fn preface(&self, io: &mut impl ByteStream, first: &mut BytesMut) -> Option<Spoken> {
        loop {
            if let Some(is_second) = sniff::is_second(first) {
                return Some(if is_second { Spoken::Http2 } else { Spoken::Http1 });
            }
            if io.read_buf(first).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn first(self, io: impl ByteStream + 'static, first: BytesMut) {
        let (limits, draining) = (self.shared.limits, self.shared.draining.clone());
        http1::server::serve(&self, &limits, draining, io, first).await;
    }

    async fn second(self, io: impl ByteStream + 'static) {
        let Limits { max_head, max_streams, .. } = self.shared.limits;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(max_streams)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_pending_accept_reset_streams(20);
        let mut draining = self.shared.draining.clone();
        let (client, session) = (self.client.address, Arc::new(self));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let session = session.clone();
            async move {
                let (parts, body) = request.into_parts();
                let arriving = Arriving {
                    method: parts.method,
                    authority: parts.uri.authority().map(|authority| authority.as_str().to_owned()),
                    target: parts.uri.path_and_query().map_or("/".to_owned(), |target| target.as_str().to_owned()),
                    version: parts.version,
                    headers: parts.headers,
                    body: Body::stream(body.map_err(BodyError::from)),
                };
                Ok::<_, Infallible>(session.answer(arriving).await.response)
            }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut told = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                _ = draining.wait_for(|d| *d), if !told => {
                    connection.as_mut().graceful_shutdown();
                    told = true;
                }
            }
        };
        if let Err(error) = ended {
            debug!(%client, %error, "stream ended");
        }
    }
}
