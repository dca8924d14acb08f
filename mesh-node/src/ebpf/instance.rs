//! A pod's own instance of sk_lookup: the program relocated once, copied for each pod with the pod's numbers in it.
//!
//! An `EbpfLoader` for each pod would read all of the running kernel's BTF each time (see `attach.rs`). The kernel
//! verifies an instance in less than a millisecond; `tests/kernel/costs.rs` measures.

use std::{
    collections::HashSet,
    ffi::CString,
    mem::take,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf, EbpfError,
    maps::{Map, MapData},
    programs::ProgramError,
};
use aya_obj::{Object, ProgramSection, VerifierLog, generated::bpf_insn};
use mesh_ebpf::programs;

use super::{ListenerKind, LoadError, sys};

/// The instructions of sk_lookup, complete but for the numbers of a pod.
pub(super) struct Template {
    instructions: Vec<bpf_insn>,
    license: CString,
    /// The instructions name these by number.
    _maps: Vec<OwnedFd>,
}

impl Template {
    /// Relocates the program in `object` to the maps of `loaded`, which was loaded from the same object.
    pub(super) fn of(object: &[u8], loaded: &Ebpf) -> Result<Self, LoadError> {
        let failed = |error: EbpfError| LoadError::Maps(Box::new(error));
        let mut object = Object::parse(object).map_err(|error| failed(error.into()))?;
        let definitions = take(&mut object.maps);
        let mut maps = Vec::new();
        for (name, map) in loaded.maps() {
            if let (Some(definition), Some(data)) = (definitions.get(name), data(map)) {
                let fd = data.fd().as_fd().try_clone_to_owned();
                let fd = fd.map_err(|error| failed(EbpfError::FileError { path: name.into(), error }))?;
                maps.push((name, fd, definition));
            }
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let fds = maps.iter().map(|(name, fd, definition)| (*name, fd.as_raw_fd(), *definition));
        object.relocate_maps(fds, &text).map_err(|error| failed(error.into()))?;
        object.relocate_calls(&text).map_err(|error| failed(error.into()))?;

        let missing = || LoadError::Missing(programs::SK_LOOKUP);
        let program = object.programs.remove(programs::SK_LOOKUP).ok_or_else(missing)?;
        if !matches!(program.section, ProgramSection::SkLookup) {
            return Err(missing());
        }
        let function = object.functions.remove(&program.function_key()).ok_or_else(missing)?;
        let maps = maps.into_iter().map(|(_, fd, _)| fd).collect();
        let this = Self { instructions: function.instructions, license: program.license, _maps: maps };
        for (placeholder, name) in PLACEHOLDERS {
            if patch(&mut this.instructions.clone(), placeholder, 0) == 0 {
                return Err(LoadError::Missing(name));
            }
        }
        Ok(this)
    }

    /// Has the kernel verify an instance for the pod with that netns cookie and those listeners.
    pub(super) fn instance(&self, cookie: u64, slots: Slots) -> Result<OwnedFd, LoadError> {
        let mut instructions = self.instructions.clone();
        patch(&mut instructions, programs::POD_COOKIE, cookie);
        patch(&mut instructions, programs::POD_SLOTS, slots.0);
        sys::load_sk_lookup(&instructions, &self.license).map_err(|(io_error, log)| LoadError::Program {
            name: programs::SK_LOOKUP,
            source: Box::new(ProgramError::LoadError { io_error, verifier_log: VerifierLog::new(log) }),
        })
    }
}

/// How many listeners of each kind there are, as [`programs::POD_SLOTS`] has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots(u64);

impl Default for Slots {
    /// One of each.
    fn default() -> Self {
        let mut one = Self(0);
        ListenerKind::ALL.into_iter().for_each(|kind| one.set(kind, 1));
        one
    }
}

impl Slots {
    pub(super) fn set(&mut self, kind: ListenerKind, slots: u32) {
        let shift = programs::POD_SLOTS_BITS * kind.number();
        let mask = (1 << programs::POD_SLOTS_BITS) - 1;
        self.0 = self.0 & !(mask << shift) | (u64::from(slots) & mask) << shift;
    }
}

/// Writes `number` over `placeholder` wherever an instruction loads it; returns how often.
fn patch(instructions: &mut [bpf_insn], placeholder: u64, number: u64) -> usize {
    let mut found = 0;
    for at in 1..instructions.len() {
        let [first, second] = &mut instructions[at - 1..=at] else { unreachable!("a slice of two") };
        let loads = first.code == LOAD_64 && first.src_reg() == 0;
        if loads && (first.imm, second.imm) == halves(placeholder) {
            (first.imm, second.imm) = halves(number);
            found += 1;
        }
    }
    found
}

/// A number as the two instruction slots hold it.
fn halves(number: u64) -> (i32, i32) {
    (number as i32, (number >> 32) as i32)
}

/// The map's descriptor, of the types that sk_lookup uses.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::SockHash(data)
        | Map::RingBuf(data)
        | Map::PerCpuArray(data) => Some(data),
        _ => None,
    }
}

const PLACEHOLDERS: [(u64, &str); 2] =
    [(programs::POD_COOKIE, "place for a pod's cookie"), (programs::POD_SLOTS, "place for a pod's listeners")];

/// `BPF_LD | BPF_IMM | BPF_DW`, of two slots (kernel's Documentation/bpf/standardization/instruction-set.rst).
const LOAD_64: u8 = 0x18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_load_of_the_placeholder_is_patched() {
        let registers = bpf_insn::new_bitfield_1(0, 0);
        let slot = |code, imm| bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off: 0, imm };
        let (low, high) = halves(programs::POD_COOKIE);
        let mut program = [slot(LOAD_64, low), slot(0, high), slot(0xb7, low), slot(LOAD_64, low), slot(0, 0)];
        assert_eq!(patch(&mut program, programs::POD_COOKIE, 0x1_0000_0002), 1);
        assert_eq!((program[0].imm, program[1].imm), (2, 1));
        assert_eq!(program[2..].iter().map(|i| i.imm).collect::<Vec<_>>(), [low, low, 0]);
    }
}
