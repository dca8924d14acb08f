//! Container images as OCI archives, made in memory: no daemon, no registry, the same bytes for the same files.
//!
//! ```text
//! recipe ──> files, links ──> one layer ──> config ──> manifest ──> index.json ──> archive
//! ```

pub mod recipe;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// By their paths, which have no leading slash.
    pub entries: BTreeMap<String, Entry>,
    pub entrypoint: Vec<String>,
    /// uid and gid that it runs as; root if there is none.
    pub user: Option<u32>,
    /// Keys of the specification (`org.opencontainers.image.`) and what they say.
    pub labels: BTreeMap<String, String>,
    /// What is said to be the time at which all of it was made, in seconds since 1970.
    pub time: u64,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Entry {
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// What becomes of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// As it is: for what is used on this machine.
    Plain,
    /// Smaller, and slower to make: for what is carried elsewhere.
    Gzip,
}

/// An archive, and what names its content.
#[derive(Clone, Debug)]
pub struct Archive {
    pub bytes: Vec<u8>,
    /// Of the manifest: `sha256:...`.
    pub digest: String,
}

impl Entry {
    /// One that everybody may read.
    #[must_use]
    pub fn file(content: impl Into<Vec<u8>>) -> Entry {
        Entry::File { mode: 0o644, content: content.into() }
    }

    /// One that everybody may run.
    #[must_use]
    pub fn program(content: impl Into<Vec<u8>>) -> Entry {
        Entry::File { mode: 0o755, content: content.into() }
    }

    #[must_use]
    pub fn link(target: &str) -> Entry {
        Entry::Link { target: target.to_owned() }
    }
}

/// The same archive, of one image, to be known as `name` where it is imported.
///
/// # Errors
/// It is no archive as [`Image::archive`] makes them.
pub fn renamed(archive: &[u8], name: &str) -> Result<Vec<u8>> {
    let mut renamed = tar::Builder::new(Vec::new());
    let mut found = false;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry.context("read an image's archive")?;
        let path = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).with_context(|| format!("read {path} of an image's archive"))?;
        if path == "index.json" {
            let mut index: Value = serde_json::from_slice(&content).context("index.json of an image's archive")?;
            let [one] = index["manifests"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default() else {
                bail!("index.json names {} images, not one", index["manifests"].as_array().map_or(0, Vec::len));
            };
            one["annotations"] = names(name);
            content = index.to_string().into_bytes();
            found = true;
        }
        append(&mut renamed, &path, 0o644, 0, &content)?;
    }
    if !found {
        bail!("an image's archive without index.json");
    }
    Ok(renamed.into_inner()?)
}

/// By which containerd and others know an image.
fn names(name: &str) -> Value {
    json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name})
}

impl Image {
    /// The archive of the image, to be known as `name` (`registry/path:tag`) where it is imported.
    ///
    /// # Errors
    /// A path is longer than an archive may have.
    pub fn archive(&self, name: &str, layer: Layer) -> Result<Archive> {
        let plain = self.layer()?;
        let diff = sha256(&plain);
        let (kind, layer) = match layer {
            Layer::Plain => ("layer.v1.tar", plain),
            Layer::Gzip => ("layer.v1.tar+gzip", gzip(&plain)?),
        };
        let config = self.config(&diff).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config), "layers": [described(kind, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = described("manifest.v1+json", &manifest);
        entry["platform"] = json!({"architecture": ARCHITECTURE, "os": "linux"});
        entry["annotations"] = names(name);
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
        });

        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, "oci-layout", 0o644, 0, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", 0o644, 0, index.to_string().as_bytes())?;
        for blob in [&manifest, &config, &layer] {
            append(&mut archive, &format!("blobs/{}", sha256(blob).replace(':', "/")), 0o644, 0, blob)?;
        }
        Ok(Archive { bytes: archive.into_inner()?, digest: sha256(&manifest) })
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::File { mode, content } => append(&mut layer, path, *mode, self.time, content)?,
                Entry::Link { target } => {
                    let mut header = header(0o777, self.time, 0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    layer.append_link(&mut header, path, target).with_context(|| format!("link {path} in an image"))?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }

    fn config(&self, diff: &str) -> Value {
        let mut config = json!({"Entrypoint": self.entrypoint, "Env": ["PATH=/bin"], "WorkingDir": "/"});
        if let Some(user) = self.user {
            config["User"] = json!(format!("{user}:{user}"));
        }
        if !self.labels.is_empty() {
            config["Labels"] = json!(self.labels);
        }
        json!({
            "architecture": ARCHITECTURE, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        })
    }
}

/// As images name it, of what this is built for.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": sha256(bytes), "size": bytes.len()})
}

/// Without a name or a time in its header.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, time: u64, content: &[u8]) -> Result<()> {
    let mut header = header(mode, time, content.len());
    archive.append_data(&mut header, path, content).with_context(|| format!("put {path} into an image"))
}

/// No owner of this machine, and the time that is said: the same files are the same image.
fn header(mode: u32, time: u64, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
