//! Images that clusters are given: what pods of tests run, and Weft's own programs as they were built here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xtask::image::recipe::Recipe;
use xtask::image::{Entry, Image, Layer};

use crate::program::{built, find};

/// The image that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/weft-tests/pause:1";
/// A shell with `nc`, `httpd`, `wget` and the like.
pub const TOOLS: &str = "localhost/weft-tests/tools:1";

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
    let program = ("bin/busybox".to_owned(), Entry::program(busybox));
    let links = applets.map(|name| (format!("bin/{name}"), Entry::link("busybox")));
    let make = |name: &str, entries: BTreeMap<String, Entry>, entrypoint: &[&str]| {
        let entrypoint = entrypoint.iter().map(|&argument| argument.to_owned()).collect();
        let image = Image { entries, entrypoint, ..Image::default() };
        anyhow::Ok(image.archive(name, Layer::Plain)?.bytes)
    };
    Ok([
        make(PAUSE, BTreeMap::from([program.clone()]), &["/bin/busybox", "sleep", "2147483647"])?,
        make(TOOLS, links.into_iter().chain([program]).collect(), &["/bin/sh"])?,
    ])
}

/// The image of one of Weft's programs (`cargo xtask image`), as it was built beside the one that runs.
///
/// # Errors
/// It has not been built, or a library is not to be found.
pub fn program(name: &str, program: &str) -> Result<Vec<u8>> {
    let path = built(program)?;
    let dir = Path::new(&path).parent().context("a program is in a folder")?;
    Ok(Recipe::of(program)?.image(dir, env!("CARGO_PKG_VERSION"), 0)?.archive(name, Layer::Plain)?.bytes)
}
