//! Keeps the file that says whose pods have to wait while no agent answers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mesh_cni::meshed::Meshed;
use mesh_core::snapshot::Snapshot;
use tokio::sync::watch;
use tracing::warn;

use super::install::replace;
use crate::pods::{PodsView, is_captured};

/// How often it is looked at at most, and how often at least: the mesh changes more often than its namespaces.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(10);

/// Namespaces with a pod in the mesh.
#[must_use]
pub fn namespaces(snapshot: &Snapshot) -> BTreeSet<String> {
    let mut namespaces: BTreeSet<&str> = BTreeSet::new();
    for workload in snapshot.workloads().filter(|workload| is_captured(workload)) {
        namespaces.insert(&workload.namespace);
    }
    namespaces.into_iter().map(str::to_owned).collect()
}

/// Whether a namespace has a pod in the mesh.
#[must_use]
pub fn is_meshed(snapshot: &Snapshot, namespace: &str) -> bool {
    snapshot.workloads().any(|workload| *workload.namespace == *namespace && is_captured(workload))
}

/// Writes the file if it says something else.
///
/// # Errors
/// It cannot be written; what it said before it still says.
pub fn write(path: &Path, snapshot: &Snapshot) -> anyhow::Result<()> {
    let meshed = Meshed { namespaces: namespaces(snapshot) };
    if Meshed::read(path).is_ok_and(|there| there.as_ref() == Some(&meshed)) {
        return Ok(());
    }
    let folder = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(replace(path, &serde_json::to_vec(&meshed)?, 0o644)?)
}

/// Keeps it for as long as this agent has the node's pods.
pub async fn keep(
    path: PathBuf,
    mut snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pods: watch::Receiver<PodsView>,
) {
    let mut failed = false;
    while !pods.borrow().superseded {
        let now = snapshot.borrow_and_update().clone();
        if let Some(now) = now {
            match write(&path, &now) {
                Ok(()) => failed = false,
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    warn!(error = format!("{error:#}"), "the CNI plugin's file of namespaces is not up to date");
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(SOONEST).await;
        if let Ok(Err(_)) = tokio::time::timeout(LATEST, snapshot.changed()).await {
            return;
        }
    }
}
