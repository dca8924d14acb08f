//! Counts what a program copies in user space: the bytes that it has memcpy and memmove move.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A library that counts, built by the C compiler, and where a program's count is.
#[derive(Debug)]
pub struct Copies {
    library: PathBuf,
    dir: PathBuf,
}

impl Copies {
    /// Builds the library in `dir`.
    ///
    /// # Errors
    /// What the compiler said.
    pub fn new(dir: &Path) -> Result<Copies> {
        let (source, library) = (dir.join("copies.c"), dir.join("copies.so"));
        fs::write(&source, include_str!("copies.c"))?;
        // Without its own idea of what memcpy is, or the compiler would turn the loop into a call of itself.
        let flags = ["-O1", "-shared", "-fPIC", "-fno-builtin", "-o"];
        let built = Command::new("cc").args(flags).args([&library, &source]).output().context("run cc")?;
        ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
        Ok(Copies { library, dir: dir.to_owned() })
    }

    /// What has to be in the environment of the program that counts as `name`.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn environment(&self, name: &str) -> Result<[(String, String); 2]> {
        let file = self.dir.join(name);
        fs::write(&file, [0; 4096])?;
        let text = |path: &Path| path.display().to_string();
        Ok([("LD_PRELOAD".to_owned(), text(&self.library)), ("WEFT_COPIES".to_owned(), text(&file))])
    }

    /// Bytes that were moved so far, in calls of 1 KiB and more.
    ///
    /// # Errors
    /// When nothing of that name counts.
    pub fn of(&self, name: &str) -> Result<u64> {
        let page = fs::read(self.dir.join(name))?;
        Ok(u64::from_ne_bytes(page[..8].try_into()?))
    }
}
