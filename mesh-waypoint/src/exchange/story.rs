//! What is told of an exchange when it is over, whoever ends it.

use super::edit::Edit;
use crate::body::{Replay, Watch};
use crate::engine::respond::{GRPC_STATUS, Why};
use crate::telemetry::{Record, Telemetry};

/// The record of one exchange: written and counted when this is dropped.
pub(super) struct Story {
    telemetry: Telemetry,
    pub(super) record: Record,
    /// The request's body, for how much of it came.
    pub(super) body: Option<Replay>,
    pub(super) logged: bool,
    /// What authorizers do to the response, whoever gives it.
    pub(super) edits: Vec<Edit>,
    /// The response went to the client whole.
    complete: bool,
}

impl Story {
    pub(super) fn begin(telemetry: Telemetry, record: Record) -> Self {
        telemetry.live.inc();
        Self { telemetry, record, body: None, logged: true, edits: Vec::new(), complete: false }
    }

    /// Keeps this instance from ending for as long as it is held, beyond the story itself.
    pub(super) fn live(&self) -> Live {
        self.telemetry.live.inc();
        Live(self.telemetry.clone())
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
        };
        self.record.flags = flags;
        if self.record.details.is_empty() {
            details.clone_into(&mut self.record.details);
        }
    }
}

impl Watch for Story {
    fn passed(&mut self, bytes: usize) {
        self.record.sent += bytes as u64;
    }

    fn trailers(&mut self, trailers: &http::HeaderMap) {
        if let Some(status) = trailers.get(GRPC_STATUS) {
            self.record.grpc_status = Some(String::from_utf8_lossy(status.as_bytes()).into_owned());
        }
    }

    fn ended(&mut self) {
        self.complete = true;
    }

    fn failed(&mut self) {
        self.complete = true;
        self.record.flags = "UC";
        "upstream_reset_after_response_started".clone_into(&mut self.record.details);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(body) = &self.body {
            self.record.received = body.received();
        }
        if !self.complete {
            self.record.flags = "DC";
            "downstream_remote_disconnect".clone_into(&mut self.record.details);
        }
        self.telemetry.live.dec();
        self.telemetry.exchanged(&self.record, self.logged);
    }
}

/// See [`Story::live`].
pub(super) struct Live(Telemetry);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.dec();
    }
}
