//! What texts mean: names, addresses, durations. Pure questions about text, shared by all checks.

pub(crate) mod host;
pub(crate) mod address;
pub(crate) mod label;
pub(crate) mod duration;
pub(crate) mod grpc_status;
pub(crate) mod pattern;
