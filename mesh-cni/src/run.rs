//! One call from beginning to end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::asking::ask;
use crate::call::{Call, Environment, VERSIONS, read, version};
use crate::failure::{CNI_VERSION, Code, Failure};
use crate::meshed::Meshed;
use crate::packet::{Answer, Pod, Request};
use crate::plugin::{MOST_SECONDS, OnFailure, Plugin};

/// What is printed, and whether the call went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub is_success: bool,
}

/// Between attempts to reach an agent that is being replaced.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a pod's end may be held up: what its last connections have still to say is on its way for that long.
const DELETE: Duration = Duration::from_secs(3);

/// Carries out one call of the runtime's. What is worth a word besides goes to `note`, a line at a time.
pub fn run(environment: &Environment, stdin: &str, note: &mut dyn FnMut(&str)) -> Output {
    match obey(environment, stdin, note) {
        Ok(stdout) => Output { stdout, is_success: true },
        Err(failure) => Output { stdout: failure.to_json(&version(stdin)), is_success: false },
    }
}

fn obey(environment: &Environment, stdin: &str, note: &mut dyn FnMut(&str)) -> Result<String, Failure> {
    match read(environment, stdin)? {
        Call::Version => Ok(json!({"cniVersion": CNI_VERSION, "supportedVersions": VERSIONS}).to_string()),
        Call::Nothing => Ok(String::new()),
        Call::Add { plugin, pod, netns, result } => {
            if let Some(pod) = pod.filter(|pod| !plugin.exclude_namespaces.contains(&pod.namespace)) {
                wait(&plugin, &pod, &netns, note)?;
            }
            Ok(result.to_owned())
        }
        Call::Delete { plugin, pod, netns } => {
            // A pod has to be able to go, whether or not anybody wants to know.
            if let (Some(pod), Some(Ok(netns))) = (pod, netns.map(File::open)) {
                let deadline = Instant::now() + DELETE;
                let _ = ask(&plugin.socket, |_| Request::Delete { pod }, Some(netns.as_fd()), deadline);
            }
            Ok(String::new())
        }
    }
}

/// Waits until a new pod may start.
fn wait(plugin: &Plugin, pod: &Pod, netns: &Path, note: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let opened = File::open(netns).map_err(|error| {
        Failure::new(Code::Io, format!("open the pod's network namespace {}: {error}", netns.display()))
    })?;
    let seconds = plugin.timeout_seconds.clamp(1, MOST_SECONDS);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let why = loop {
        let request = |milliseconds| Request::Add { pod: pod.clone(), milliseconds };
        match ask(&plugin.socket, request, Some(opened.as_fd()), deadline) {
            Ok(Answer::Enrolled | Answer::Outside | Answer::Deleted) => return Ok(()),
            Ok(Answer::Failed(why)) => break why,
            Err(error) => {
                if without_agent(Meshed::read(&plugin.meshed), &pod.namespace) == Start::Now {
                    return Ok(());
                }
                if Instant::now() + PAUSE >= deadline {
                    break format!("ask the node's agent at {}: {error}", plugin.socket.display());
                }
            }
        }
        std::thread::sleep(PAUSE);
    };
    let message = format!("weft: pod {}/{} is not in the mesh yet: {why}", pod.namespace, pod.name);
    match plugin.on_failure {
        OnFailure::Open => {
            note(&format!("{message}; it starts without (onFailure: open)"));
            Ok(())
        }
        OnFailure::Closed => Err(Failure::new(Code::TryAgainLater, message)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Now,
    /// Once there is an agent, which knows.
    Later,
}

/// Whether a pod of a namespace may start while no agent answers.
fn without_agent(meshed: io::Result<Option<Meshed>>, namespace: &str) -> Start {
    match meshed {
        // Weft has left this node.
        Ok(None) => Start::Now,
        Ok(Some(meshed)) if !meshed.namespaces.contains(namespace) => Start::Now,
        Ok(Some(_)) => Start::Later,
        // Whose pods are in the mesh is not known, so this one may be.
        Err(_) => Start::Later,
    }
}

#[cfg(test)]
mod tests;
