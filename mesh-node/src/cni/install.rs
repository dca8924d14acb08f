//! The plugin's files on the node: put there whole or not at all, and taken away again.
//!
//! ```text
//! <bin dir>/weft-cni               the plugin
//! <conf dir>/10-net.conflist       the first configuration by name, which is the one in force: the plugin is in it
//! <conf dir>/10-net.conf           one of a single plugin: goes to weft.d/, with 10-net.conf.conflist in its place
//! <conf dir>/weft.d/mesh.json      see `meshed`
//! ```

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mesh_cni::plugin::TYPE;
use thiserror::Error;

use super::{FOLDER, edit};

#[derive(Debug, Error)]
pub enum InstallError {
    /// The network's own plugin has not been set up.
    #[error("there is no network configuration in {0} yet")]
    NoConfiguration(PathBuf),
    #[error("{path}: {why}")]
    Unfit { path: PathBuf, why: edit::Unfit },
    #[error("{what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> InstallError + use<'a> {
    move |source| InstallError::File { what, path: path.to_owned(), source }
}

/// Puts the plugin into the configuration in force. Returns its file, and whether that was changed.
///
/// # Errors
/// See [`InstallError`]; what was there is still there, whole.
pub fn configure(conf_dir: &Path, plugin: &str) -> Result<(PathBuf, bool), InstallError> {
    let path = first(conf_dir)?.ok_or_else(|| InstallError::NoConfiguration(conf_dir.to_owned()))?;
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    let unfit = |why| InstallError::Unfit { path: path.clone(), why };
    if is_list(&path) {
        let with = edit::insert(&text, plugin).map_err(unfit)?;
        if with != text {
            replace(&path, with.as_bytes(), mode(&path))?;
        }
        return Ok((path, with != text));
    }
    let with = edit::list_of(&text).and_then(|list| edit::insert(&list, plugin)).map_err(unfit)?;
    let list = list_beside(&path);
    replace(&list, with.as_bytes(), mode(&path))?;
    // From here on the list is the first.
    let folder = conf_dir.join(FOLDER);
    fs::create_dir_all(&folder).map_err(file("make", &folder))?;
    let kept = folder.join(path.file_name().unwrap_or_default());
    fs::rename(&path, &kept).map_err(file("move", &path))?;
    Ok((list, true))
}

/// Puts the plugin's program where the runtime looks for it. Returns whether it was another, or none.
///
/// # Errors
/// The program cannot be read, or not be written; what was there is still there.
pub fn place(program: &Path, bin_dir: &Path) -> Result<bool, InstallError> {
    let bytes = fs::read(program).map_err(file("read", program))?;
    let path = bin_dir.join(TYPE);
    if fs::read(&path).is_ok_and(|there| there == bytes) && mode(&path) == 0o755 {
        return Ok(false);
    }
    replace(&path, &bytes, 0o755)?;
    Ok(true)
}

/// Takes everything away: the plugin out of every configuration first, so that nothing calls what is not there.
///
/// # Errors
/// The first thing that could not be done; the rest was.
pub fn remove(conf_dir: &Path, bin_dir: &Path) -> Result<(), InstallError> {
    let folder = conf_dir.join(FOLDER);
    let mut done = Ok(());
    for kept in files(&folder).unwrap_or_default().into_iter().filter(|path| is_configuration(path)) {
        done = done.and(restore(conf_dir, &kept));
    }
    match files(conf_dir) {
        Ok(paths) => {
            for path in paths.iter().filter(|path| is_list(path)) {
                done = done.and(strip(path));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => done = done.and(Err(file("list", conf_dir)(error))),
    }
    // With the plugin still in a configuration, its program has to stay: the runtime would start no pod without.
    done?;
    absent(fs::remove_dir_all(&folder)).map_err(file("remove", &folder))?;
    let path = bin_dir.join(TYPE);
    absent(fs::remove_file(&path)).map_err(file("remove", &path))
}

/// Puts a single configuration back in its place, and then takes its list away.
fn restore(conf_dir: &Path, kept: &Path) -> Result<(), InstallError> {
    let path = conf_dir.join(kept.file_name().unwrap_or_default());
    let list = list_beside(&path);
    // If somebody has written it anew, that is the one to keep; and if the list is gone, the network is another now.
    if !path.exists() && list.exists() {
        fs::rename(kept, &path).map_err(file("move", kept))?;
    }
    absent(fs::remove_file(&list)).map_err(file("remove", &list))
}

fn strip(path: &Path) -> Result<(), InstallError> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    if !edit::has_plugin(&text) {
        return Ok(());
    }
    let without = edit::remove(&text).map_err(|why| InstallError::Unfit { path: path.to_owned(), why })?;
    replace(path, without.as_bytes(), mode(path))
}

/// The configuration in force: runtimes take the first by name.
fn first(conf_dir: &Path) -> Result<Option<PathBuf>, InstallError> {
    let found = match files(conf_dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file("list", conf_dir)(error)),
    };
    Ok(found.into_iter().filter(|path| is_configuration(path)).min())
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_list(path: &Path) -> bool {
    extension(path) == "conflist"
}

/// As runtimes read them; our own file in our own folder is none of them.
fn is_configuration(path: &Path) -> bool {
    let is_ours = path.file_name().is_some_and(|name| name == mesh_cni::meshed::FILE);
    matches!(extension(path), "conf" | "conflist" | "json") && !is_ours
}

/// The list that takes the place of a single configuration, right behind it by name.
fn list_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".conflist");
    name.into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777)
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        other => other,
    }
}

/// Writes a file whole: beside its place, on the disk, and then into it.
///
/// # Errors
/// What was there is still there.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".weft-new");
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut new = File::create(&beside)?;
        new.write_all(bytes)?;
        new.set_permissions(Permissions::from_mode(mode))?;
        new.sync_all()?;
        drop(new);
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        file("write", path)(error)
    })
}

#[cfg(test)]
mod tests;
