//! Container images as OCI archives, made in memory: no daemon, no registry, the same bytes for the same files.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::program::{built, find};

/// The image that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/weft-tests/pause:1";
/// A shell with `nc`, `httpd`, `wget` and the like.
pub const TOOLS: &str = "localhost/weft-tests/tools:1";

/// A file of an image: path without a leading slash, mode, content.
pub type File<'a> = (&'a str, u32, &'a [u8]);

/// An archive of image `name` (`localhost/...:tag`, which nothing pulls) with one layer.
///
/// # Errors
/// A path is longer than an archive may have.
pub fn archive(name: &str, files: &[File<'_>], links: &[(&str, &str)], entrypoint: &[&str]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        append(&mut layer, path, *mode, content)?;
    }
    for (path, target) in links {
        let mut header = header(0o777, 0);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, path, target)?;
    }
    let layer = layer.into_inner()?;
    let layer_digest = sha256(&layer);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    });
    let config = config.to_string().into_bytes();
    let described = |kind: &str, bytes: &[u8]| -> Value {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": sha256(bytes), "size": bytes.len()})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config), "layers": [described("layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = described("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();

    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut archive, "index.json", 0o644, &index)?;
    for blob in [&manifest, &config, &layer] {
        append(&mut archive, &format!("blobs/{}", sha256(blob).replace(':', "/")), 0o644, blob)?;
    }
    Ok(archive.into_inner()?)
}

/// Whether busybox is there and needs no library.
pub(super) fn has_busybox() -> bool {
    // A program that is linked dynamically names its loader (PT_INTERP).
    let loader = |bytes: &[u8]| [&b"/ld-linux"[..], b"/ld-musl"].iter().any(|name| contains(bytes, name));
    find("busybox").and_then(|path| fs::read(path).ok()).is_some_and(|bytes| !loader(&bytes[..bytes.len().min(4096)]))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// The images that every cluster has: [`PAUSE`] and [`TOOLS`], of the machine's static busybox.
///
/// # Errors
/// busybox is not installed.
pub fn basic() -> Result<[Vec<u8>; 2]> {
    let busybox = find("busybox").context("busybox, linked statically, is installed (cargo xtask setup)")?;
    let busybox = fs::read(busybox)?;
    let applets =
        ["sh", "sleep", "nc", "httpd", "wget", "cat", "echo", "timeout", "dd", "head", "md5sum", "ip", "true"];
    let links: Vec<(String, &str)> = applets.iter().map(|name| (format!("bin/{name}"), "busybox")).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    let files = [("bin/busybox", 0o755, busybox.as_slice())];
    Ok([
        archive(PAUSE, &files, &[], &["/bin/busybox", "sleep", "2147483647"])?,
        archive(TOOLS, &files, &links, &["/bin/sh"])?,
    ])
}

/// An image of a program that this workspace has built, with the libraries that it is linked to on this machine. For
/// tests: what is published is linked statically.
///
/// # Errors
/// It has not been built, or a library is not to be found.
pub fn program(name: &str, program: &str) -> Result<Vec<u8>> {
    let path = built(program)?;
    // Lines of it: `libc.so.6 => /lib/libc.so.6 (0x..)`, `/lib64/ld-linux-x86-64.so.2 (0x..)`.
    let linked = Command::new("ldd").arg(&path).output().context("run ldd")?;
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    let mut contents = vec![(program.to_owned(), fs::read(&path)?)];
    if program == "mesh-node" {
        // It runs on the node, with the node's libraries.
        contents.push(("mesh-cni".to_owned(), fs::read(built("mesh-cni")?)?));
    }
    for library in libraries {
        contents.push((library.trim_start_matches('/').to_owned(), fs::read(library)?));
    }
    let files: Vec<File<'_>> = contents.iter().map(|(path, bytes)| (path.as_str(), 0o755, bytes.as_slice())).collect();
    archive(name, &files, &[], &[&format!("/{program}")])
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(mode, content.len());
    archive.append_data(&mut header, path, content).with_context(|| format!("put {path} into an image"))
}

/// No time and no owner of this machine: the same files are the same image.
fn header(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in digest::digest(&digest::SHA256, bytes).as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_image() {
        let make = || archive("localhost/a:1", &[("bin/a", 0o755, b"a")], &[("bin/b", "a")], &["/bin/a"]).unwrap();
        assert_eq!(make(), make());
        let names: Vec<String> = tar::Archive::new(make().as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names.len(), 5);
        assert_eq!(&names[..2], ["oci-layout", "index.json"]);
        assert!(names[2..].iter().all(|name| name.len() == "blobs/sha256/".len() + 64), "{names:?}");
    }
}
