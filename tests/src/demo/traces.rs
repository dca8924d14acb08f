//! What the mesh leaves in a pod's namespace and pins for it, so that "nothing is left" can be looked up.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::pod::Pod;

/// Rules, routes, sysctls and listening sockets of the pod's namespace, a line each.
pub(super) fn in_namespace(pod: &Pod) -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for words in [["-4", "rule", "show"].as_slice(), &["-6", "rule", "show"]] {
        traces.extend(ip(pod, words)?.into_iter().map(|line| format!("rule {line}")));
    }
    for family in ["-4", "-6"] {
        let routes = ip(pod, &[family, "route", "show", "table", "all"])?;
        traces.extend(routes.into_iter().map(|line| format!("route {line}")));
    }
    pod.run(|| -> Result<()> {
        for name in SYSCTLS {
            let value = fs::read_to_string(Path::new("/proc/sys/net").join(name)).unwrap_or_default();
            traces.insert(format!("sysctl net/{name} = {}", value.trim()));
        }
        for table in ["tcp", "tcp6"] {
            let sockets = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
            let listening = sockets.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields.get(3) == Some(&"0A")).then(|| format!("listener {table} {}", fields[1]))
            });
            traces.extend(listening);
        }
        Ok(())
    })?;
    Ok(traces)
}

/// Everything below a folder, by path inside it.
pub(super) fn pins(dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(dir)?.display().to_string());
            }
        }
    }
    Ok(found)
}

fn ip(pod: &Pod, words: &[&str]) -> Result<Vec<String>> {
    let output = Command::new("ip").args(["-n", pod.netns().name()]).args(words).output().context("run ip")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

/// What delivery with the client's own address needs.
const SYSCTLS: [&str; 3] = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];
