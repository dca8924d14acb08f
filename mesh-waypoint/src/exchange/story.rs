//! What is told of an exchange when it is over, whoever ends it.

use std::sync::Arc;

use super::edit::Edit;
use crate::body::{Replay, Watch};
use crate::engine::respond::{self, Why};
use crate::overload::Taken;
use crate::telemetry::{Headers, Live, Record, Rules, Telemetry};

/// The record of one exchange: written and counted when this is dropped.
pub(super) struct Story {
    telemetry: Telemetry,
    pub(super) record: Record,
    /// The request's body, for how much of it came.
    pub(super) body: Option<Replay>,
    /// Of the model that the request is answered by.
    pub(super) rules: Option<Arc<Rules>>,
    /// What authorizers do to the response, whoever gives it.
    pub(super) edits: Vec<Edit>,
    /// The response went to the client whole.
    complete: bool,
    /// Of what the client may have at once.
    pub(super) taken: Option<Taken>,
    _live: Live,
}

impl Story {
    pub(super) fn begin(telemetry: Telemetry, record: Record) -> Self {
        let (live, texts) = (telemetry.begin(), telemetry.texts());
        let record = Record { texts, ..record };
        Self {
            telemetry,
            record,
            body: None,
            rules: None,
            edits: Vec::new(),
            complete: false,
            taken: None,
            _live: live,
        }
    }

    /// Keeps this instance from ending for as long as it is held, beyond the story itself.
    pub(super) fn live(&self) -> Live {
        self.telemetry.begin()
    }

    /// Where header fields are to be kept for the end, if somebody asks for them then.
    pub(super) fn headers(&mut self) -> Option<&mut Headers> {
        let asks = self.rules.as_ref().is_some_and(|rules| rules.asks_for_headers());
        asks.then(|| &mut **self.record.headers.get_or_insert_default())
    }

    /// The response is the waypoint's own.
    pub(super) fn own(&mut self, why: Why) {
        let (flags, details) = match why {
            Why::BadRequest => ("DPE", "http1.codec_error"),
            Why::NoRoute => ("NR", "route_not_found"),
            Why::Denied => ("-", "rbac_access_denied"),
            Why::Authorizer => ("UAEX", "ext_authz_denied"),
            Why::Limited => ("RL", "local_rate_limited"),
            Why::Preflight | Why::Redirect | Why::Direct => ("-", "direct_response"),
            Why::Fault => ("FI", "fault_filter_abort"),
            Why::NoBackend => ("NC", "cluster_not_found"),
            Why::NoHealthyUpstream => ("UH", "no_healthy_upstream"),
            Why::Overflow => ("UO", "upstream_reset_before_response_started{overflow}"),
            Why::Reset => ("UF", "upstream_reset_before_response_started"),
            Why::Timeout => ("UT", "response_timeout"),
            Why::SlowHead => ("-", "request_header_timeout"),
            Why::Stalled => ("SI", "stream_idle_timeout"),
            Why::Overload => ("OM", "overload"),
        };
        self.record.flags = flags;
        if self.record.details.is_empty() {
            self.record.details = details.into();
        }
    }
}

impl Watch for Story {
    fn passed(&mut self, bytes: usize) {
        self.record.sent += bytes as u64;
    }

    fn trailers(&mut self, trailers: &http::HeaderMap) {
        self.record.hear(trailers.get(respond::GRPC_STATUS));
    }

    fn ended(&mut self) {
        self.complete = true;
    }

    fn failed(&mut self) {
        self.complete = true;
        self.record.flags = "UC";
        self.record.details = "upstream_reset_after_response_started".into();
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(body) = &self.body {
            self.record.received = body.received();
        }
        if !self.complete {
            self.record.flags = "DC";
            self.record.details = "downstream_remote_disconnect".into();
        }
        self.telemetry.exchanged(&mut self.record, self.rules.as_ref());
    }
}
