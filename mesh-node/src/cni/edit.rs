//! The plugin's entry in the text of a network configuration list. Everything else of the text stays byte by byte as it is.

use std::ops::Range;

use mesh_cni::call::VERSIONS;
use mesh_cni::plugin::TYPE;
use mesh_cni::spans::{elements, members};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Why a text is no list that the plugin can be chained into.
#[derive(Debug, Error)]
pub enum Unfit {
    #[error("not a network configuration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no plugin that makes a network")]
    NoPlugins,
    #[error("cniVersion {version:?}, in which plugins cannot be chained; it takes one of {}", VERSIONS.join(", "))]
    Version { version: String },
    #[error("a configuration without a {0}")]
    Missing(&'static str),
}

#[derive(Deserialize)]
struct Versions {
    #[serde(rename = "cniVersion", default)]
    version: Option<String>,
    /// Those that a newer runtime may choose from.
    #[serde(rename = "cniVersions", default)]
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct Single {
    #[serde(rename = "cniVersion", default)]
    version: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type", default)]
    kind: String,
}

/// The text with `plugin` behind the others, once. A text that has it already stays as it is.
///
/// # Errors
/// See [`Unfit`].
pub fn insert(text: &str, plugin: &str) -> Result<String, Unfit> {
    let plugins = plugins(text)?;
    let said: Versions = serde_json::from_str(text)?;
    let chained = |version: &String| VERSIONS.contains(&version.as_str());
    if !said.version.iter().chain(&said.versions).any(chained) {
        return Err(Unfit::Version { version: said.version.unwrap_or_default() });
    }
    let ours: Vec<usize> = (0..plugins.len()).filter(|at| is_ours(&text[plugins[*at].clone()])).collect();
    if ours.len() == plugins.len() {
        return Err(Unfit::NoPlugins);
    }
    if let [at] = ours[..]
        && at > 0
        && serde_json::from_str::<Value>(&text[plugins[at].clone()])? == serde_json::from_str::<Value>(plugin)?
    {
        return Ok(text.to_owned());
    }
    let bare = remove(text)?;
    let last = self::plugins(&bare)?.pop().ok_or(Unfit::NoPlugins)?;
    // Set apart as the one before is.
    let before = &bare[..last.start];
    let blank = &before[before.trim_end().len()..];
    Ok(format!("{},{blank}{plugin}{}", &bare[..last.end], &bare[last.end..]))
}

/// The text without the plugin.
///
/// # Errors
/// It is not JSON of that form.
pub fn remove(text: &str) -> Result<String, Unfit> {
    let mut text = text.to_owned();
    loop {
        let plugins = plugins(&text)?;
        let Some(at) = plugins.iter().position(|plugin| is_ours(&text[plugin.clone()])) else { return Ok(text) };
        let own = plugins[at].clone();
        let cut = match (at.checked_sub(1), plugins.get(at + 1)) {
            (Some(before), _) => plugins[before].end..own.end,
            (None, Some(next)) => own.start..next.start,
            (None, None) => own,
        };
        text.replace_range(cut, "");
    }
}

/// Whether the plugin is in a list.
#[must_use]
pub fn has_plugin(text: &str) -> bool {
    plugins(text).is_ok_and(|plugins| plugins.into_iter().any(|plugin| is_ours(&text[plugin])))
}

/// A configuration of a single plugin as a list of it, in which the runtime writes name and version over the plugin's own.
///
/// # Errors
/// See [`Unfit`].
pub fn list_of(text: &str) -> Result<String, Unfit> {
    let single: Single = serde_json::from_str(text)?;
    single.kind.ok_or(Unfit::Missing("type"))?;
    let name = single.name.ok_or(Unfit::Missing("name"))?;
    let version = single.version.ok_or(Unfit::Missing("cniVersion"))?;
    let (name, version) = (Value::from(name), Value::from(version));
    Ok(format!(
        "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"plugins\": [\n    {}\n  ]\n}}\n",
        text.trim()
    ))
}

/// Where the plugins of a list stand in it.
fn plugins(text: &str) -> Result<Vec<Range<usize>>, Unfit> {
    let list = members(text)?.into_iter().rev().find(|(key, _)| key == "plugins");
    Ok(list.map_or(Ok(Vec::new()), |(_, list)| elements(text, list))?)
}

fn is_ours(plugin: &str) -> bool {
    serde_json::from_str::<Typed>(plugin).is_ok_and(|typed| typed.kind == TYPE)
}

#[cfg(test)]
mod tests;
