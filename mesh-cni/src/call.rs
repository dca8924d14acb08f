//! What the runtime asks: environment and standard input as the CNI specification has them, read and checked.

use std::path::PathBuf;

use serde::Deserialize;

use crate::failure::{CNI_VERSION, Code, Failure};
use crate::packet::Pod;
use crate::plugin::Plugin;
use crate::spans::members;

/// Versions of the specification in which a plugin is told the result of the one before it.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Variables that the specification names, as they were set.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub command: Option<String>,
    pub netns: Option<String>,
    pub args: Option<String>,
}

impl Environment {
    /// Of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self { command: variable("CNI_COMMAND"), netns: variable("CNI_NETNS"), args: variable("CNI_ARGS") }
    }
}

#[derive(Debug)]
pub enum Call<'a> {
    Version,
    Add {
        plugin: Box<Plugin>,
        /// `None`: what is started is no pod of Kubernetes'.
        pod: Option<Pod>,
        netns: PathBuf,
        /// The result of the plugins before, as it was written.
        result: &'a str,
    },
    Delete {
        plugin: Box<Plugin>,
        pod: Option<Pod>,
        netns: Option<PathBuf>,
    },
    /// CHECK, STATUS and GC: there is nothing in the result that this plugin made, and whether the node takes pods is not
    /// for it to say.
    Nothing,
}

#[derive(Deserialize)]
struct Versioned {
    #[serde(rename = "cniVersion", default)]
    version: Option<String>,
}

/// The version that the network configuration is written in.
#[must_use]
pub fn version(stdin: &str) -> String {
    let versioned = serde_json::from_str::<Versioned>(stdin).ok();
    versioned.and_then(|versioned| versioned.version).unwrap_or_else(|| CNI_VERSION.to_owned())
}

/// Reads a call.
///
/// # Errors
/// It is not one of the specification's, or not for a chained plugin.
pub fn read<'a>(environment: &Environment, stdin: &'a str) -> Result<Call<'a>, Failure> {
    let command = environment.command.as_deref().ok_or_else(|| {
        Failure::new(
            Code::InvalidEnvironment,
            "CNI_COMMAND is not set: container runtimes call this program, not people",
        )
    })?;
    match command {
        "VERSION" => return Ok(Call::Version),
        "CHECK" | "STATUS" | "GC" => return Ok(Call::Nothing),
        "ADD" | "DEL" => {}
        other => return Err(Failure::new(Code::InvalidEnvironment, format!("CNI_COMMAND {other:?} is not known"))),
    }
    let version = version(stdin);
    if !VERSIONS.contains(&version.as_str()) {
        let message = format!("cniVersion {version:?} is none of {}", VERSIONS.join(", "));
        return Err(Failure::new(Code::IncompatibleVersion, message));
    }
    let unreadable = |error| Failure::new(Code::Decode, format!("the network configuration of {command}: {error}"));
    let plugin: Box<Plugin> = serde_json::from_str(stdin).map_err(unreadable)?;
    let pod = pod(environment.args.as_deref().unwrap_or_default())?;
    let netns = environment.netns.as_ref().map(PathBuf::from);
    if command == "DEL" {
        return Ok(Call::Delete { plugin, pod, netns });
    }
    let netns = netns.ok_or_else(|| Failure::new(Code::InvalidEnvironment, "CNI_NETNS is not set"))?;
    let result = members(stdin).map_err(unreadable)?.into_iter().rev().find(|(key, _)| key == "prevResult");
    let (_, result) = result.ok_or_else(|| {
        let message = "there is no prevResult: weft-cni makes no network and has to stand behind a plugin that does";
        Failure::new(Code::InvalidNetwork, message)
    })?;
    Ok(Call::Add { plugin, pod, netns, result: &stdin[result] })
}

/// The pod that CNI_ARGS name; none if what is started is no pod of Kubernetes'.
fn pod(args: &str) -> Result<Option<Pod>, Failure> {
    let value =
        |key| args.split(';').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == key).map(|pair| pair.1);
    let Some(namespace) = value("K8S_POD_NAMESPACE") else { return Ok(None) };
    let required = |key| {
        value(key).filter(|value| !value.is_empty()).map(str::to_owned).ok_or_else(|| {
            Failure::new(
                Code::InvalidEnvironment,
                format!("CNI_ARGS has no {key}: the runtime is too old for this plugin"),
            )
        })
    };
    Ok(Some(Pod { namespace: namespace.to_owned(), name: required("K8S_POD_NAME")?, uid: required("K8S_POD_UID")? }))
}

#[cfg(test)]
mod tests;
