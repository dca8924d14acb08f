//! The maps that the hooks share, and how they read their contexts. Names and types are the ABI's (lib.rs); sizes are explained here.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LruHashMap, SockHash},
};
use mesh_ebpf::{Address, FlowKey, FlowKind, ListenerKey, Plumbed, Pod, Settings};

/// 4,096 pods on a node: the kubelet's default is 110, the largest in use near 1,000.
const PODS_MAX: u32 = 4096;

#[map]
pub(crate) static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(PODS_MAX, 0);

/// Four addresses for each pod.
#[map]
pub(crate) static LOCAL: HashMap<Address, u64> = HashMap::with_max_entries(4 * PODS_MAX, 0);

/// Two agents during an upgrade, and room for those that died before they could take themselves out.
#[map]
pub(crate) static AGENTS: HashMap<u64, u8> = HashMap::with_max_entries(64, 0);

/// Entries live for microseconds, from the connect hook to the SYN of the same `connect`.
#[map]
pub(crate) static AGENT_SOCKETS: LruHashMap<u64, u8> = LruHashMap::with_max_entries(4096, 0);

/// An entry is needed until its SYN has been looked up and (`NODE`) the connection accepted; it goes when the
/// initiator's socket closes, or when 65,536 later connections are open.
#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowKind> = LruHashMap::with_max_entries(65_536, 0);

/// Three for each pod and worker: five workers with the most pods, more with fewer. A bucket takes 16 bytes, an entry
/// memory only while it is there.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(65_536, 0);

/// No program reads it; it is here so that it is made and pinned with the others.
#[map]
pub(crate) static PLUMBED: HashMap<u64, Plumbed> = HashMap::with_max_entries(PODS_MAX, 0);

#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Whether the kernel has bpf_set_retval (5.18); set by the loader.
#[unsafe(no_mangle)]
pub(crate) static WEFT_SET_RETVAL: Global<u8> = Global::new(0);

/// Chooses by the address family between addresses that have both been read. Reading them in two branches would let
/// LLVM merge the reads into one with a computed offset, volatile or not, which the verifier refuses.
#[inline(always)]
pub(crate) fn either(family: u32, v4: (Address, Address), v6: (Address, Address)) -> (Address, Address) {
    if family == AF_INET { v4 } else { v6 }
}

/// <linux/socket.h>
const AF_INET: u32 = 2;

/// A number that the loader writes over `$placeholder` in the instructions, before the verifier sees them.
macro_rules! patched {
    ($placeholder:expr) => {{
        let number: u64;
        // SAFETY: one instruction that sets one register.
        unsafe {
            core::arch::asm!("{} = {} ll", out(reg) number, const $placeholder, options(pure, nomem, nostack));
        }
        number
    }};
}

/// Reads one field of a hook's context. Volatile, because the verifier knows contexts by constant offsets, one field at
/// a time: LLVM would merge neighbours into a wider load.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the kernel passes each hook a context that is valid while it runs; the field exists in its type.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}

/// Reads an IPv6 address from a hook's context, word by word.
macro_rules! address6 {
    ($context:expr, $field:ident) => {
        mesh_ebpf::Address([
            field!($context, $field[0]),
            field!($context, $field[1]),
            field!($context, $field[2]),
            field!($context, $field[3]),
        ])
    };
}

pub(crate) use {address6, field, patched};
