//! Images that clusters are given: what pods of tests run, and Weft's own programs as they were built here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::image::recipe::Recipe;
use xtask::image::{self, Entry, Image, Layer};

use crate::program::{built, find};

/// The image that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/weft-tests/pause:1";
/// A shell with `nc`, `httpd`, `wget` and the like.
pub const TOOLS: &str = "localhost/weft-tests/tools:1";
/// The same, as `busybox:1.35` of `deploy/samples` is called: Debian's is 1.35 too.
const BUSYBOX: &str = "docker.io/library/busybox:1.35";

/// Whether busybox is there and needs no library.
pub(super) fn has_busybox() -> bool {
    // A program that is linked dynamically names its loader (PT_INTERP).
    let loader = |bytes: &[u8]| [&b"/ld-linux"[..], b"/ld-musl"].iter().any(|name| contains(bytes, name));
    find("busybox").and_then(|path| fs::read(path).ok()).is_some_and(|bytes| !loader(&bytes[..bytes.len().min(4096)]))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// The images that every cluster has: [`PAUSE`], [`TOOLS`] and `busybox:1.35`, of the machine's static busybox.
///
/// # Errors
/// busybox is not installed.
pub fn basic() -> Result<[Vec<u8>; 3]> {
    let busybox = find("busybox").context("busybox, linked statically, is installed (cargo xtask setup)")?;
    let busybox = fs::read(busybox)?;
    let applets =
        ["sh", "sleep", "nc", "httpd", "wget", "cat", "echo", "timeout", "dd", "head", "md5sum", "ip", "true", "mkdir"];
    let program = ("bin/busybox".to_owned(), Entry::program(busybox));
    let links = applets.map(|name| (format!("bin/{name}"), Entry::link("busybox")));
    let tools: BTreeMap<String, Entry> = links.into_iter().chain([program.clone()]).collect();
    Ok([
        make(PAUSE, BTreeMap::from([program]), &["/bin/busybox", "sleep", "2147483647"])?,
        make(TOOLS, tools.clone(), &["/bin/sh"])?,
        make(BUSYBOX, tools, &["/bin/sh"])?,
    ])
}

fn given() -> Option<PathBuf> {
    std::env::var_os(GIVEN).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// One that is not carried anywhere.
///
/// # Errors
/// A path is longer than an archive may have.
pub(super) fn make(name: &str, entries: BTreeMap<String, Entry>, entrypoint: &[&str]) -> Result<Vec<u8>> {
    let entrypoint = entrypoint.iter().map(|&argument| argument.to_owned()).collect();
    Ok(Image { entries, entrypoint, ..Image::default() }.archive(name, Layer::Plain)?.bytes)
}

/// A folder of Weft's images as `cargo xtask image` makes them, which clusters are given in place of what was built here: for
/// tests of what is released.
const GIVEN: &str = "WEFT_TEST_IMAGES";

/// The image of a program that was built beside the one that runs: one of Weft's (`cargo xtask image`), or one of tests'. One of
/// Weft's is taken from the folder `WEFT_TEST_IMAGES`, if that is set.
///
/// # Errors
/// It has not been built, or a library or the folder's archive is not to be found.
pub fn program(name: &str, program: &'static str) -> Result<Vec<u8>> {
    if let Some(folder) = given().filter(|_| Recipe::of(program).is_ok()) {
        let path = folder.join(format!("{program}.tar"));
        let archive = fs::read(&path).with_context(|| format!("{GIVEN}: read {}", path.display()))?;
        println!("{name} is {}", path.display());
        return image::renamed(&archive, name).with_context(|| format!("{GIVEN}: {}", path.display()));
    }
    let path = built(program)?;
    let dir = Path::new(&path).parent().context("a program is in a folder")?;
    let version = env!("CARGO_PKG_VERSION");
    let image = match Recipe::of(program) {
        Ok(recipe) => recipe.image(dir, version, 0)?,
        Err(_) => Recipe::bare(program).image(dir, version, 0)?,
    };
    Ok(image.archive(name, Layer::Plain)?.bytes)
}
