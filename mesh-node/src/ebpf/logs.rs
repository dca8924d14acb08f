//! From the hooks' ring buffer to `tracing`.
#![allow(unsafe_code)]

use std::{future::pending, io};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::unix::AsyncFd;

/// The ring buffer's reading end.
pub(super) struct Logs(EbpfLogger<ToTracing>);

impl Logs {
    /// Takes the ring out of a loaded object.
    pub(super) fn of(programs: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(programs, ToTracing).ok().map(Self)
    }
}

/// Passes records on until cancelled. With no ring there is nothing to pass on, ever.
pub(super) async fn drain(logs: Option<Logs>) -> io::Result<()> {
    let Some(Logs(logger)) = logs else { return pending().await };
    // SAFETY: the logger owns the map whose descriptor it returns, always the same one, and lives inside of `ring`.
    let mut ring = unsafe { AsyncFd::register(logger)? };
    loop {
        let mut ready = ring.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// aya-log speaks `log`; the agent `tracing`.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(target: "ebpf", hook = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}
