//! The maps that the hooks share, and how they read their contexts. Names and types are the ABI's (lib.rs); sizes are explained here.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf, SockHash},
};
use mesh_ebpf::{
    Address, Asked, Choices, Direct, FlowKey, FlowKind, HBONE_PORT, ListenerKey, Plumbed, Pod, SameNode, ServiceKey,
    Settings, Verdict, VerdictKey,
};

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

/// 360 pods that may all talk to each other on both families; pairs that find no room are relayed. Memory only for
/// entries that are there.
#[map]
pub(crate) static VERDICTS: HashMap<VerdictKey, Verdict> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// 110 pods that may each ask for 300 ports of services with endpoints on this node, on both families; what finds no room is
/// relayed. Memory only for entries that are there.
#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, Choices> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Entries live from the connect hook to the SYN of the same `connect`; with a deferred TCP_FASTOPEN_CONNECT that is the
/// first write. One that is evicted costs the connection the service's name.
#[map]
pub(crate) static ASKED: LruHashMap<u64, Asked> = LruHashMap::with_max_entries(16_384, 0);

/// Connections that find no room are relayed. Not LRU: what is evicted would go on unaccounted for.
#[map]
pub(crate) static DIRECT: HashMap<FlowKey, Direct> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// 5,400 events: what a busy node has in the second that an agent needs to start.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

#[map]
pub(crate) static SAME_NODE: Array<SameNode> = Array::with_max_entries(2, 0);

#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Whether the kernel has bpf_set_retval (5.18); set by the loader.
#[unsafe(no_mangle)]
pub(crate) static WEFT_SET_RETVAL: Global<u8> = Global::new(0);

/// Whether the pods may talk without the agent: both are in the mesh, the agent said so, and not too long ago.
#[inline(always)]
pub(crate) fn is_direct(source: u64, destination: u64, to: &Address, port: u16) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // Tunnels to a pod are its agent's.
    if source == destination
        || port == HBONE_PORT
        || !SAME_NODE.get(SameNode::AGENT).is_some_and(|same_node| now < same_node.until)
    {
        return false;
    }
    // SAFETY: no reference into the map is kept.
    if unsafe { PODS.get(&destination) }.is_none_or(|pod| pod.is_passing()) {
        return false;
    }
    let family = if to.is_v4() { 4 } else { 6 };
    let key = VerdictKey { source, destination, port, family, pad: 0 };
    let rest = VerdictKey { source, destination, port: VerdictKey::OTHER_PORTS, family, pad: 0 };
    // SAFETY: copied out at once.
    let verdict = unsafe { VERDICTS.get(&key).or_else(|| VERDICTS.get(&rest)) };
    verdict.is_some_and(|verdict| verdict.0 == Verdict::DIRECT.0)
}

/// The enrolled pod on this node that has `address`.
#[inline(always)]
pub(crate) fn at(address: &Address) -> Option<u64> {
    // SAFETY: copied out at once.
    unsafe { LOCAL.get(address) }.copied()
}

/// Whether the kernel has bpf_skc_to_mptcp_sock (5.19); set by the loader.
#[unsafe(no_mangle)]
pub(crate) static WEFT_TELLS_MPTCP: Global<u8> = Global::new(0);

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

/// Writes one field of a hook's context. Volatile for the same reason as [`field`].
macro_rules! store {
    ($context:expr, $field:ident $([$index:literal])?, $value:expr) => {
        // SAFETY: as in `field`; the hook's own context, which nobody else reads while it runs.
        unsafe { core::ptr::write_volatile(&raw mut (*$context).$field $([$index])?, $value) }
    };
}

/// Writes the IPv6 address that a connection shall go to, word by word.
macro_rules! store6 {
    ($context:expr, $address:expr) => {{
        store!($context, user_ip6[0], $address.0[0]);
        store!($context, user_ip6[1], $address.0[1]);
        store!($context, user_ip6[2], $address.0[2]);
        store!($context, user_ip6[3], $address.0[3]);
    }};
}

pub(crate) use {address6, field, patched, store, store6};
