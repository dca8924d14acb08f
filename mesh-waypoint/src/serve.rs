//! One stream of the tunnel: what is spoken on it, and who carries that on.

use std::sync::Arc;

use bytes::BytesMut;
use mesh_core::l7::Protocol;
use tokio::io::AsyncReadExt;

use crate::io::{ByteStream, Rewound};
use crate::limits::Limits;
use crate::session::Session;
use crate::sniff::{self, Spoken};
use crate::stall::Impatient;
use crate::{http1, http2, relay};

impl Session {
    /// Carries the stream from its first byte to its last.
    pub async fn serve(self, mut io: impl ByteStream + 'static) {
        // Looked at once: nothing is held for as long as the stream is.
        let (protocol, patient, tls) = {
            let Some(compiled) = &self.in_force(&self.world()).compiled else { return };
            let rules = self.rules(compiled);
            // A server that speaks first is waited for by its client: but where something is said about requests, nothing goes on
            // before it is known whether it is one.
            let patient = rules.is_some_and(|rules| rules.http.is_some()) || compiled.guards_requests();
            let tls = rules.is_some_and(|rules| !rules.tls.is_empty());
            (rules.map(|rules| rules.protocol).unwrap_or_default(), patient, tls)
        };
        let mut first = BytesMut::new();
        let spoken = match protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => match self.preface(&mut io, &mut first).await {
                Some(spoken) => spoken,
                None => return,
            },
            Protocol::Tcp => Spoken::Other,
            Protocol::Tls => Spoken::Tls,
            Protocol::Detect => match self.sniff(&mut io, &mut first, patient).await {
                Some(spoken) => spoken,
                None => return,
            },
        };
        match spoken {
            Spoken::Http1 => self.requests(false, io, first).await,
            Spoken::Http2 => self.requests(true, io, first).await,
            Spoken::Tls if tls => relay::tls(self, io, first).await,
            Spoken::Tls | Spoken::Other => relay::bytes(self, Rewound::new(first.freeze(), io), None).await,
        }
    }

    /// `None`: the client went without a word.
    async fn sniff(&self, io: &mut impl ByteStream, first: &mut BytesMut, patient: bool) -> Option<Spoken> {
        let told = self.told(io, first, sniff::spoken, Some(Spoken::Other));
        if patient {
            return told.await;
        }
        tokio::time::timeout(self.shared.limits.sniff_timeout, told).await.unwrap_or(Some(Spoken::Other))
    }

    /// Which HTTP. `None`: the client went without a word.
    async fn preface(&self, io: &mut impl ByteStream, first: &mut BytesMut) -> Option<Spoken> {
        let tell = |first: &[u8]| Some(if sniff::is_second(first)? { Spoken::Http2 } else { Spoken::Http1 });
        self.told(io, first, tell, None).await
    }

    /// Reads into `first` until `tell` knows what it is; `end` if no more comes. `None` as well: it took too long.
    async fn told(
        &self,
        io: &mut impl ByteStream,
        first: &mut BytesMut,
        tell: impl Fn(&[u8]) -> Option<Spoken>,
        end: Option<Spoken>,
    ) -> Option<Spoken> {
        let Limits { idle_timeout, head_timeout, sniff_timeout, .. } = self.shared.limits;
        let mut draining = self.shared.draining.clone();
        let drained = async {
            tokio::select! {
                _ = draining.wait_for(|d| *d) => {}
                () = self.shared.overload.tight() => {}
            }
            // What was sent before is on its way.
            tokio::time::sleep(sniff_timeout).await;
        };
        let begun = tokio::select! {
            biased;
            read = io.read_buf(first) => read.ok()?,
            () = tokio::time::sleep(idle_timeout) => return None,
            () = drained => return None,
        };
        if begun == 0 {
            return end;
        }
        let told = async {
            loop {
                if let Some(spoken) = tell(first) {
                    return Some(spoken);
                }
                if io.read_buf(first).await.ok()? == 0 {
                    return end;
                }
            }
        };
        tokio::time::timeout(head_timeout, told).await.ok().flatten()
    }

    async fn requests(self, is_second: bool, io: impl ByteStream + 'static, first: BytesMut) {
        let (limits, draining) = (self.shared.limits, self.shared.draining.clone());
        let io = Impatient::new(io, limits.stream_idle);
        match is_second {
            true => http2::server::serve(Arc::new(self), &limits, draining, Rewound::new(first.freeze(), io)).await,
            false => http1::server::serve(&self, &limits, draining, io, first).await,
        }
    }
}
