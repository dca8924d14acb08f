//! The object with the programs: the one built into this agent, or a file; and whether it speaks our ABI.

use std::{borrow::Cow, fs, io, path::Path};

use mesh_ebpf::{ABI_SECTION, ABI_VERSION};
use object::{Object as _, ObjectSection as _};

/// Why there is no object to load.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The file named by `--ebpf-object`.
    #[error("read the eBPF object {path}")]
    Read { path: String, source: io::Error },
    /// Not an ELF object, or not one of ours.
    #[error("{origin} is not an eBPF object of Weft's: {why}")]
    Foreign { origin: String, why: String },
    /// Built from another version of the ABI.
    #[error("{origin} has ABI version {found}, this agent has {ABI_VERSION}: use the object of the same release")]
    Abi { origin: String, found: u32 },
}

/// Reads the object at `path`, or takes the built-in one, and compares its ABI version with ours.
pub(super) fn read(path: Option<&Path>) -> Result<Cow<'static, [u8]>, ObjectError> {
    let (bytes, origin) = match path {
        Some(path) => {
            let name = path.display().to_string();
            let bytes = fs::read(path).map_err(|source| ObjectError::Read { path: name.clone(), source })?;
            (Cow::Owned(bytes), name)
        }
        None => (Cow::Borrowed(BUILT_IN), "the built-in object".to_owned()),
    };
    match abi(&bytes) {
        Ok(ABI_VERSION) => Ok(bytes),
        Ok(found) => Err(ObjectError::Abi { origin, found }),
        Err(why) => Err(ObjectError::Foreign { origin, why }),
    }
}

fn abi(bytes: &[u8]) -> Result<u32, String> {
    let elf = object::File::parse(bytes).map_err(|error| error.to_string())?;
    let section = elf.section_by_name(ABI_SECTION).ok_or_else(|| format!("no section {ABI_SECTION}"))?;
    let data = section.data().map_err(|error| error.to_string())?;
    let version = data.first_chunk().ok_or_else(|| format!("section {ABI_SECTION} is too short"))?;
    Ok(u32::from_le_bytes(*version))
}

/// ELF structures are read in place, so the bytes must lie as in a file that is mapped.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static BUILT_IN: &[u8] = {
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("WEFT_EBPF_OBJECT_BUILT")));
    &OBJECT.0
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_object_is_ours() {
        assert_eq!(abi(BUILT_IN), Ok(ABI_VERSION));
        assert!(read(None).is_ok());
    }

    #[test]
    fn an_object_of_another_abi_is_refused() {
        let mut other = BUILT_IN.to_vec();
        let place = {
            let elf = object::File::parse(BUILT_IN).unwrap();
            elf.section_by_name(ABI_SECTION).unwrap().file_range().unwrap().0 as usize
        };
        other[place] += 1;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &other).unwrap();
        assert!(matches!(read(Some(file.path())), Err(ObjectError::Abi { found, .. }) if found == ABI_VERSION + 1));
    }

    #[test]
    fn a_file_that_is_no_object_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"#!/bin/sh").unwrap();
        assert!(matches!(read(Some(file.path())), Err(ObjectError::Foreign { .. })));
    }
}
