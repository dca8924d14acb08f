//! What is in the images of Weft's programs: the programs, the libraries that they are linked to, and a few files.
//!
//! The libraries are glibc's and libgcc's of the machine that builds, six files. Programs linked statically would need
//! a second C toolchain (musl) for their C and assembly, and glibc linked statically does not look up names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Entry, Image};

/// What an image is made of.
#[derive(Debug)]
pub struct Recipe {
    /// The image's name, and its first program, which it runs.
    pub name: &'static str,
    says: &'static str,
    /// What lies beside that program, in `/` as well.
    programs: &'static [&'static str],
    user: Option<u32>,
    /// Files of text: path and content.
    texts: &'static [(&'static str, &'static str)],
    /// Files of the machine that builds: where to, and from the first of these places that there is.
    files: &'static [(&'static str, &'static [&'static str])],
}

/// Users of an image that does not run as root.
const NOBODY: u32 = 65532;
const USERS: [(&str, &str); 2] =
    [("etc/passwd", "nonroot:x:65532:65532:nonroot:/:/\n"), ("etc/group", "nonroot:x:65532:\n")];

/// Roots of public authorities, as distributions have them.
pub const ROOTS: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// All images.
pub static ALL: [Recipe; 3] = [
    Recipe {
        name: "mesh-ctrl",
        says: "Weft's controller",
        programs: &[],
        user: Some(NOBODY),
        texts: &USERS,
        files: &[],
    },
    // As root: it enters pods' network namespaces and loads programs into the kernel (deploy/kubernetes/weft.yaml).
    // The agent puts the CNI plugin onto the node.
    Recipe {
        name: "mesh-node",
        says: "Weft's node agent",
        programs: &["mesh-cni"],
        user: None,
        texts: &[],
        files: &[],
    },
    Recipe {
        name: "mesh-waypoint",
        says: "Weft's waypoint",
        programs: &[],
        user: Some(NOBODY),
        texts: &[USERS[0], USERS[1], ("etc/nsswitch.conf", "hosts: files dns\n")],
        // By which it knows others' servers: endpoints outside the mesh, and where keys for tokens are.
        files: &[("etc/ssl/certs/ca-certificates.crt", ROOTS)],
    },
];

impl Recipe {
    /// That of a program of tests: it and its libraries.
    #[must_use]
    pub fn bare(name: &'static str) -> Recipe {
        Recipe { name, says: "for tests", programs: &[], user: None, texts: &[], files: &[] }
    }

    /// The recipe of an image.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn of(name: &str) -> Result<&'static Recipe> {
        let names: Vec<&str> = ALL.iter().map(|recipe| recipe.name).collect();
        let found = ALL.iter().find(|recipe| recipe.name == name);
        found.with_context(|| format!("{name} is no image of Weft's: {}", names.join(", ")))
    }

    /// The image of programs that are in `dir`.
    ///
    /// # Errors
    /// A program, a library or a file is missing.
    pub fn image(&self, dir: &Path, version: &str, time: u64) -> Result<Image> {
        let mut entries = BTreeMap::new();
        for program in [self.name].iter().chain(self.programs) {
            let path = dir.join(program);
            for library in libraries(&path)? {
                entries.insert(inside(&library).to_owned(), Entry::program(read(Path::new(&library))?));
            }
            entries.insert((*program).to_owned(), Entry::program(read(&path)?));
        }
        for (path, text) in self.texts {
            entries.insert((*path).to_owned(), Entry::file(*text));
        }
        for (path, places) in self.files {
            let found = places.iter().find(|place| Path::new(place).exists());
            let found =
                found.with_context(|| format!("/{path} of an image: there is none of {}", places.join(", ")))?;
            entries.insert((*path).to_owned(), Entry::file(read(Path::new(found))?));
        }
        let labels =
            [("title", self.name), ("description", self.says), ("version", version), ("licenses", "Apache-2.0")];
        let labels = labels.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned()));
        Ok(Image { entries, entrypoint: vec![format!("/{}", self.name)], user: self.user, labels: labels.into(), time })
    }
}

fn inside(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}, which goes into an image", path.display()))
}

/// What the program is linked to on this machine, with the loader; nothing, if it is linked statically.
fn libraries(program: &Path) -> Result<Vec<String>> {
    if !program.exists() {
        bail!("{} is not there: cargo xtask build (or test, or image) makes it", program.display());
    }
    // Lines of it: `libc.so.6 => /lib/libc.so.6 (0x..)`, `/lib64/ld-linux-x86-64.so.2 (0x..)`, `libx.so => not found`.
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = said.lines().find(|line| line.ends_with("not found")) {
        bail!("{}: {}", program.display(), line.trim());
    }
    Ok(said
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any program does: this one, by the names of ours.
    fn images(test: &str) -> Vec<(&'static str, Image)> {
        let dir = std::env::temp_dir().join(format!("weft-{test}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let own = std::env::current_exe().unwrap();
        let images = ALL
            .iter()
            .filter(|recipe| {
                recipe.files.iter().all(|(_, places)| places.iter().any(|place| Path::new(place).exists()))
            })
            .map(|recipe| {
                for program in [recipe.name].iter().chain(recipe.programs) {
                    fs::copy(&own, dir.join(program)).unwrap();
                }
                (recipe.name, recipe.image(&dir, "1.2", 0).unwrap())
            });
        let images = images.collect();
        fs::remove_dir_all(dir).unwrap();
        images
    }

    #[test]
    fn an_image_has_its_program_what_that_is_linked_to_and_nothing_that_runs_besides() {
        for (name, image) in images("entries") {
            assert_eq!(image.entrypoint, [format!("/{name}")]);
            let runs: Vec<&str> = image
                .entries
                .iter()
                .filter(|(_, entry)| matches!(entry, Entry::File { mode: 0o755, .. }))
                .map(|(path, _)| path.as_str())
                .collect();
            assert!(runs.contains(&name) && runs.iter().any(|path| path.contains("libc.so")), "{runs:?}");
            assert!(runs.iter().all(|path| !path.starts_with('/')), "{runs:?}");
            let recipe = Recipe::of(name).unwrap();
            let others = runs.iter().filter(|path| !path.contains(".so") && **path != name);
            assert!(others.clone().all(|path| recipe.programs.contains(path)), "{runs:?}");
            assert_eq!(image.labels["org.opencontainers.image.version"], "1.2");
        }
    }

    #[test]
    fn only_the_agent_runs_as_root() {
        for (name, image) in images("users") {
            assert_eq!(image.user.is_none(), name == "mesh-node", "{name}");
            assert_eq!(image.entries.contains_key("etc/passwd"), image.user.is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Recipe::of("mesh-ctrl").unwrap().image(Path::new("/nowhere"), "1", 0).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/mesh-ctrl is not there"), "{error}");
        assert!(Recipe::of("mesh").unwrap_err().to_string().contains("mesh-ctrl, mesh-node, mesh-waypoint"));
    }
}
