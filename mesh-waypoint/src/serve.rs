//! One stream of the tunnel: what is spoken on it, and who carries that on.

use std::sync::Arc;

use bytes::BytesMut;
use mesh_core::l7::Protocol;
use tokio::io::AsyncReadExt;

use crate::io::{ByteStream, Rewound};
use crate::session::Session;
use crate::sniff::{self, Spoken};
use crate::{http1, http2, relay};

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
            Spoken::Http1 => self.requests(false, io, first).await,
            Spoken::Http2 => self.requests(true, io, first).await,
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

    async fn requests(self, is_second: bool, io: impl ByteStream + 'static, first: BytesMut) {
        let (limits, draining) = (self.shared.limits, self.shared.draining.clone());
        match is_second {
            true => http2::server::serve(Arc::new(self), &limits, draining, Rewound::new(first.freeze(), io)).await,
            false => http1::server::serve(&self, &limits, draining, io, first).await,
        }
    }
}
