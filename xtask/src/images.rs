//! Images of Weft's programs as they are released: `cargo xtask image`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::image::Layer;
use xtask::image::recipe;
use xtask::target::{self, ROOT};

use crate::child;
use crate::setup;

/// Where images that no registry has are said to be from.
pub(crate) const REGISTRY: &str = "localhost/weft";

/// Makes an archive of each image in `out` of the programs in `programs`; prints what it is.
pub(crate) fn write(programs: &Path, out: &Path, registry: &str, version: &str) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let time = time(env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
    for recipe in &recipe::ALL {
        let name = format!("{registry}/{}:{version}", recipe.name);
        let archive = recipe.image(programs, version, time)?.archive(&name, Layer::Gzip)?;
        let path = out.join(format!("{}.tar", recipe.name));
        fs::write(&path, &archive.bytes).with_context(|| format!("write {}", path.display()))?;
        println!("{}: {name}@{}, {:.1} MB", path.display(), archive.digest, archive.bytes.len() as f64 / 1e6);
    }
    Ok(())
}

/// Builds the CNI plugin, linked statically, into `programs`: it runs on nodes, whose C library may be another or an older one.
/// It looks up no names.
pub(crate) fn plugin(programs: &Path) -> Result<()> {
    let built = plugin_of(Path::new(ROOT), &target::dir())?;
    let copied = fs::create_dir_all(programs).and_then(|()| fs::copy(&built, programs.join(PLUGIN)));
    copied.map(drop).with_context(|| format!("copy {} to {}", built.display(), programs.display()))
}

/// As [`plugin`], of the source in `root`, built in `target`; yields where it is.
fn plugin_of(root: &Path, target: &Path) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let folder = target.join("static");
    let mut cargo = child::cargo(&["build", "-p", PLUGIN, "--profile", "dist"]);
    // Said of a target, it holds for what is built and not for what builds it.
    cargo.current_dir(root).args(["--target", &triple, "--target-dir"]).arg(&folder);
    leave_out(&mut cargo, root, target, &["-Ctarget-feature=+crt-static"])?;
    child::succeed(&mut cargo)?;
    Ok(folder.join(triple).join("dist").join(PLUGIN))
}

const PLUGIN: &str = "mesh-cni";

/// Has a build leave out where on this machine its source was, which messages of panics and of C's assertions would tell; `more` are
/// further flags for rustc.
pub(crate) fn without_paths(cargo: &mut Command, more: &[&str]) -> Result<()> {
    leave_out(cargo, Path::new(ROOT), &target::dir(), more)
}

/// As [`without_paths`], of the source in `root`, built in `target`.
fn leave_out(cargo: &mut Command, root: &Path, target: &Path, more: &[&str]) -> Result<()> {
    let root = fs::canonicalize(root).context("the workspace's root")?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
    let target = fs::canonicalize(target).context("the target directory")?;
    let mut places = vec![(root, "/weft"), (target, "/weft/target")];
    places.extend(home.map(|home| (home, "/cargo")));
    // The standard library's source, where rust-src is installed.
    places.extend(setup::sysroot().map(|sysroot| (sysroot.join("lib/rustlib/src/rust"), "/rust")));
    // As cargo parts them, which may have blanks: what the caller has set stays.
    let set = env::var("CARGO_ENCODED_RUSTFLAGS").ok();
    let plain = || env::var("RUSTFLAGS").map(|flags| flags.split_whitespace().collect::<Vec<_>>().join("\x1f")).ok();
    let mut flags: Vec<String> = set.or_else(plain).into_iter().filter(|flags| !flags.is_empty()).collect();
    flags.extend(more.iter().map(|&flag| flag.to_owned()));
    let mut for_c = env::var("CFLAGS").unwrap_or_default();
    for (place, name) in places {
        let place = place.to_str().with_context(|| format!("{} is no UTF-8", place.display()))?;
        flags.push(format!("--remap-path-prefix={place}={name}"));
        for_c.push_str(&format!(" -ffile-prefix-map={place}={name}"));
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("CFLAGS", for_c.trim());
    Ok(())
}

/// Seconds since 1970 that files are said to be of: what reproducible builds call SOURCE_DATE_EPOCH, or none at all.
fn time(said: Option<&str>) -> Result<u64> {
    said.map_or(Ok(0), |text| text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text}: seconds since 1970")))
}

/// One program stands for all: what makes them differ would be a path in flags, in messages or in what names symbols.
#[test]
fn the_same_source_gives_the_same_program_wherever_it_lies() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(ROOT).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        return println!("skipped: {}:{}: needs git, and a checkout", module_path!(), line!());
    };
    let files = String::from_utf8(listed.stdout).unwrap();
    let scratch = env::temp_dir().join(format!("weft-twice-{}", std::process::id()));
    let [one, other] = ["a", "another/place"].map(|place| {
        let root = scratch.join(place);
        // A file that is listed may have been removed and not yet committed.
        for file in files.split_terminator('\0').filter(|file| Path::new(ROOT).join(file).exists()) {
            let to = root.join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(Path::new(ROOT).join(file), to).unwrap();
        }
        fs::read(plugin_of(&root, &root.join("target")).unwrap()).unwrap()
    });
    fs::remove_dir_all(&scratch).unwrap();
    assert!(one.len() > 100_000, "{} bytes are no program", one.len());
    assert!(one == other, "{} and {} bytes that differ", one.len(), other.len());
    let path = scratch.to_str().unwrap().as_bytes();
    assert!(!one.windows(path.len()).any(|window| window == path), "it names where it was built");
}

#[test]
fn a_time_that_is_none_is_refused() {
    assert_eq!((time(None).unwrap(), time(Some("1700000000")).unwrap()), (0, 1_700_000_000));
    assert!(time(Some("today")).unwrap_err().to_string().starts_with("SOURCE_DATE_EPOCH=today"));
}
