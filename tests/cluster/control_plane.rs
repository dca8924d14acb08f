//! The test cluster itself.

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use xtask::clusters::MARK;

#[test]
fn a_cluster_keeps_objects_over_a_crash_of_its_api_server_and_leaves_nothing() -> Result<()> {
    let mut cluster = Cluster::of_test(&binaries!())?;
    let (dir, shop) =
        (cluster.dir().to_owned(), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    cluster.api().apply(&shop)?;
    let mark = format!("{MARK}={}", dir.display());
    assert_eq!(marked(&mark)?.len(), 2, "etcd and the API server");

    cluster.kill_apiserver()?;
    assert!(!cluster.api().is_ready());
    cluster.start_apiserver()?;
    let kept = cluster.api().get(&shop)?.context("the namespace is kept")?;
    assert_eq!(kept["status"]["phase"], "Active");

    drop(cluster);
    assert!(!dir.exists(), "{}", dir.display());
    assert_eq!(marked(&mark)?, Vec::<String>::new());
    Ok(())
}

/// Processes with `mark` in their environment.
fn marked(mark: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}
