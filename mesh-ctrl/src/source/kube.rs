//! The Kubernetes source: one watch for each kind, of what the API server holds.
//!
//! ```text
//! CustomResourceDefinitions ──> presence ─┐
//! API server ──> a follower for each kind ┴─> ledger (what was, what is) ──> reports ──> batches of events
//! ```
//! What was read stays in force while the API server is away, and is compared with what it says when it is back: see
//! [`ledger`] for when an object that is missing there is taken for deleted.

mod follow;
mod presence;
mod hearing;
mod ledger;
mod kinds;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::kube::client::ClientBuilder;
use ::kube::core::ApiResource;
use ::kube::{Client, Config};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tracing::info;

use super::{Code, Event, Finding, Severity};
pub use follow::Pace;
use follow::{Follower, Report};
pub use hearing::Hearing;
use kinds::WATCHED;

use crate::object::Kind;

/// A task that sends the cluster's objects, [`Event::InitialSynced`], and then every change, until the receiver is dropped.
///
/// # Errors
/// The credentials are of no use. An API server that does not answer is waited for.
pub fn watch(
    server: Config,
    pace: Pace,
    hearing: Hearing,
    events: mpsc::Sender<Vec<Event>>,
) -> Result<impl Future<Output = ()> + Send + use<>, ::kube::Error> {
    let client = ClientBuilder::try_from(server)?.with_layer(&hearing).build();
    Ok(run(client, pace, hearing, events))
}

async fn run(client: Client, pace: Pace, hearing: Hearing, events: mpsc::Sender<Vec<Event>>) {
    let (publish, presence) = channel::channel(None);
    let (sender, mut reports) = mpsc::channel(REPORTS);
    let mut tasks = JoinSet::new();
    tasks.spawn(presence::follow(client.clone(), publish));
    for (row, watched) in WATCHED.iter().enumerate() {
        let (client, presence, hearing, reports) = (client.clone(), presence.clone(), hearing.clone(), sender.clone());
        tasks.spawn(Follower { row, watched, client, presence, hearing, reports, pace }.run());
    }
    drop((sender, presence));
    let mut desk = Desk::default();
    let mut waiting = Vec::with_capacity(REPORTS);
    loop {
        tokio::select! {
            count = reports.recv_many(&mut waiting, REPORTS) => if count == 0 { return },
            () = events.closed() => return,
        }
        let batch = desk.gather(waiting.drain(..));
        if !batch.is_empty() && events.send(batch).await.is_err() {
            return;
        }
    }
}

/// Puts the kinds' reports together.
#[derive(Debug, Default)]
struct Desk {
    kinds: BTreeMap<usize, Told>,
    reported: Vec<Finding>,
    synced: bool,
}

/// What a kind has told so far.
#[derive(Debug, Default)]
struct Told {
    listed: bool,
    findings: Vec<Finding>,
    trouble: Option<Arc<str>>,
}

impl Desk {
    /// One batch of what the reports say, [`Event::InitialSynced`] once every kind has been listed.
    fn gather(&mut self, reports: impl IntoIterator<Item = Report>) -> Vec<Event> {
        let mut events = Vec::new();
        for report in reports {
            events.extend(report.events);
            let told = self.kinds.entry(report.row).or_default();
            told.listed |= report.listed;
            told.trouble = report.trouble;
            told.findings = report.findings;
        }
        if !self.synced && (0..WATCHED.len()).all(|row| self.kinds.get(&row).is_some_and(|told| told.listed)) {
            self.synced = true;
            info!("the cluster has been read");
            events.push(Event::InitialSynced);
        }
        let findings = self.findings();
        if findings != self.reported {
            self.reported.clone_from(&findings);
            events.push(Event::Findings(findings.into()));
        }
        events
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.kinds.values().flat_map(|told| told.findings.iter().cloned()).collect();
        for (row, told) in &self.kinds {
            let Some(why) = &told.trouble else { continue };
            findings.push(Finding {
                severity: Severity::Error,
                code: Code::Unreadable,
                object: None,
                file: None,
                line: None,
                field: None,
                message: format!(
                    "{} cannot be listed, what was read of them stays in force: {why}",
                    WATCHED[*row].plural
                ),
            });
        }
        findings.sort();
        findings
    }
}

/// Where the API server has objects of a kind that is watched, in a version such as `networking.istio.io/v1`.
pub fn resource(kind: Kind, api_version: &str) -> Option<ApiResource> {
    let watched = WATCHED.iter().find(|watched| watched.kind == kind)?;
    let version = api_version.rsplit('/').next()?;
    Some(watched.resource(version))
}

/// Reports that may wait to be put together.
const REPORTS: usize = 64;

#[cfg(test)]
mod tests;
