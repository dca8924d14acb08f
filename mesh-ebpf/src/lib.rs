//! The ABI between the kernel programs and the agent: map names, key and value types, marks and pin names.
//!
//! Both sides compile this file, so a type has one definition. What neither side can check at compile time is that
//! the object that is loaded, the maps that are pinned and the agent that runs were built from the same version of it;
//! [`ABI_VERSION`] is written into each and compared at start.
//!
//! ```text
//!   pod: connect() -> connect.rs    marks the socket           PODS, AGENTS, AGENT_SOCKETS, VERDICTS
//!                     service.rs    draws an endpoint          SERVICES, VERDICTS -> ASKED
//!                     sock_ops.rs   says whose the tuple is    PODS, LOCAL, AGENT_SOCKETS, VERDICTS -> FLOWS, DIRECT
//!   SYN arrives    -> sk_lookup.rs  steers it                  FLOWS, DIRECT, LISTENERS
//!   open, closed   -> sock_ops.rs   tells the agent            DIRECT -> EVENTS
//!   getpeername()  -> service.rs    says what was asked for    DIRECT
//! ```
#![no_std]

/// Version of everything in this file. Raise it with any change to a map, a type, a mark or their meaning.
pub const ABI_VERSION: u32 = 4;

/// ELF section of the object that holds [`ABI_VERSION`] as four little-endian bytes.
pub const ABI_SECTION: &str = "weft_abi";

/// Bits of a socket mark that are ours. The rest of the mark is left zero on captured sockets: a pod's own mark has
/// no say in how its connection is routed.
pub const MARK_MASK: u32 = 0x00ff_0000;

/// A pod's own connection that the agent shall take: routed to `lo` in the pod's namespace.
pub const MARK_CAPTURE: u32 = 0x0056_0000;

/// Beside [`MARK_CAPTURE`]: the hook has drawn among the endpoints of a service, and none of its [`Choices`] was drawn. The
/// agent takes one of the others, or the choices would get more than their shares. No rule of ours looks at it.
pub const MARK_DRAWN: u32 = 0x0100_0000;

/// The agent's connection to the pod with the client's address as source. Routed to `lo`, so that the application's
/// replies (which copy the mark, `tcp_fwmark_accept`) return to the agent and not to the client's real host.
pub const MARK_DELIVER: u32 = 0x0057_0000;

/// The agent's connection out of the pod's namespace: a tunnel, or a connection passed through. No rule matches it.
pub const MARK_AGENT: u32 = 0x0058_0000;

/// The one `ip rule` matches [`MARK_CAPTURE`] and [`MARK_DELIVER`], which differ only in the bit that this mask leaves
/// out.
pub const LOOP_MARK: u32 = 0x0056_0000;
/// Mask of [`LOOP_MARK`].
pub const LOOP_MASK: u32 = 0x00fe_0000;

/// Routing table in the pod's namespace with the local default route. Above the tables that CNI plugins number by
/// interface (100 and up), below 2^31; `0x57` is our letter.
pub const LOOP_TABLE: u32 = 0x5700_0001;

/// Priority of our rule: after the kernel's `local` table (0), before anything that CNI plugins add.
pub const LOOP_PRIORITY: u32 = 57;

/// Port on which peers' tunnels arrive.
pub const HBONE_PORT: u16 = 15008;

/// Names of the maps, in the object and as pins.
pub mod maps {
    /// Netns cookie -> [`Pod`](crate::Pod): pods whose connections are captured.
    pub const PODS: &str = "PODS";
    /// [`Address`](crate::Address) -> netns cookie of the enrolled pod that has it.
    pub const LOCAL: &str = "LOCAL";
    /// cgroup v2 id -> 1: cgroups of agent processes.
    pub const AGENTS: &str = "AGENTS";
    /// Socket cookie -> 1: sockets that an agent is connecting, from the connect hook to the SYN.
    pub const AGENT_SOCKETS: &str = "AGENT_SOCKETS";
    /// [`FlowKey`](crate::FlowKey) -> [`FlowKind`](crate::FlowKind).
    pub const FLOWS: &str = "FLOWS";
    /// [`ListenerKey`](crate::ListenerKey) -> the agent's listening socket.
    pub const LISTENERS: &str = "LISTENERS";
    /// Netns cookie -> [`Plumbed`](crate::Plumbed): what enrolment changed in a pod's namespace. Only the agent uses it.
    pub const PLUMBED: &str = "PLUMBED";
    /// [`VerdictKey`](crate::VerdictKey) -> [`Verdict`](crate::Verdict): which pods of this node may talk without the agent.
    pub const VERDICTS: &str = "VERDICTS";
    /// [`ServiceKey`](crate::ServiceKey) -> [`Choices`](crate::Choices): endpoints on this node of what pods may ask for.
    pub const SERVICES: &str = "SERVICES";
    /// Socket cookie -> [`Asked`](crate::Asked): what sockets have asked for whose endpoint the hook has chosen, from the
    /// connect hook to the SYN.
    pub const ASKED: &str = "ASKED";
    /// [`FlowKey`](crate::FlowKey) with cookie 0 -> [`Direct`](crate::Direct): connections between two pods of this node
    /// that no agent carries.
    pub const DIRECT: &str = "DIRECT";
    /// Ring buffer of [`Event`](crate::Event)s.
    pub const EVENTS: &str = "EVENTS";
    /// [`SameNode::AGENT`](crate::SameNode::AGENT) and [`SameNode::HOOKS`](crate::SameNode::HOOKS), each its own fields of
    /// [`SameNode`](crate::SameNode).
    pub const SAME_NODE: &str = "SAME_NODE";
    /// 0 -> [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// The log's ring buffer; the name is aya-log's.
    pub const LOGS: &str = "AYA_LOGS";

    /// Every map that is pinned.
    pub const ALL: [&str; 15] = [
        PODS,
        LOCAL,
        AGENTS,
        AGENT_SOCKETS,
        FLOWS,
        LISTENERS,
        PLUMBED,
        VERDICTS,
        SERVICES,
        ASKED,
        DIRECT,
        EVENTS,
        SAME_NODE,
        SETTINGS,
        LOGS,
    ];
}

/// Names of the programs in the object.
pub mod programs {
    /// `cgroup/connect4`.
    pub const CONNECT4: &str = "weft_connect4";
    /// `cgroup/connect6`.
    pub const CONNECT6: &str = "weft_connect6";
    /// `cgroup/getpeername4`.
    pub const GETPEERNAME4: &str = "weft_getpeername4";
    /// `cgroup/getpeername6`.
    pub const GETPEERNAME6: &str = "weft_getpeername6";
    /// `sock_ops`.
    pub const SOCK_OPS: &str = "weft_sock_ops";
    /// `sk_lookup`; one instance for each pod.
    pub const SK_LOOKUP: &str = "weft_sk_lookup";
    /// Stands in [`SK_LOOKUP`]'s instructions where the pod's netns cookie goes: that hook has no helper to ask for it
    /// (the verifier refuses `bpf_get_netns_cookie` there, tried on 6.18). An instruction's operand and no global, so that an instance is a copy of the relocated
    /// instructions and no other map.
    pub const POD_COOKIE: u64 = 0x5745_4654_0000_c001;
    /// As [`POD_COOKIE`], for how many listeners of each kind the pod has: [`POD_SLOTS_BITS`] bits for each, the kind's
    /// number many times that from the right.
    pub const POD_SLOTS: u64 = 0x5745_4654_0000_c002;
    /// See [`POD_SLOTS`].
    pub const POD_SLOTS_BITS: u32 = 16;
    /// Global of [`CONNECT4`] and [`CONNECT6`]: 1 if the kernel has `bpf_set_retval`.
    pub const SET_RETVAL: &str = "WEFT_SET_RETVAL";
    /// Global of [`SOCK_OPS`], [`CONNECT4`] and [`CONNECT6`]: 1 if the kernel has `bpf_skc_to_mptcp_sock`.
    pub const TELLS_MPTCP: &str = "WEFT_TELLS_MPTCP";
}

/// Names under the pin directory.
pub mod pins {
    /// Folder of the maps, each by its own name.
    pub const MAPS: &str = "maps";
    /// Folder of the links: `<program>` on the pods' cgroup root, `<program>-agent-<cgroup id>` on an agent's own
    /// cgroup where that lies outside of the root, `sk_lookup-<netns cookie>` for each pod.
    pub const LINKS: &str = "links";
}

/// An IP address, IPv4 as IPv4-mapped IPv6; words as they lie in a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// Third word of an IPv4-mapped address.
    pub const V4_MAPPED: u32 = 0xffff_u32.to_be();

    /// Takes an IPv4 address as it lies in a packet.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, Self::V4_MAPPED, word])
    }

    /// Whether it is in 127.0.0.0/8 or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.0;
        a == 0
            && b == 0
            && ((c == Self::V4_MAPPED && d & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be())
                || (c == 0 && d == 1_u32.to_be()))
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_MAPPED
    }

    /// Whether it is 0.0.0.0 or `::`, which `connect` takes for the host itself.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.0;
        a == 0 && b == 0 && (c == 0 || c == Self::V4_MAPPED) && d == 0
    }

    /// Whether it is in fe80::/10: valid on one link only, so that no agent could dial it for the pod.
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        self.0[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be()
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(address.0) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(octets.into()).to_canonical()
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        let octets = match address {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

/// A connection as its initiator's socket sees it, in the namespace where its SYN will be looked up.
///
/// The cookie keeps apart pods that have equal addresses on their second interfaces.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Netns cookie of the pod that receives the SYN: the initiator's own for [`FlowKind::OUTBOUND`] and
    /// [`FlowKind::EXEMPT`], the destination's for [`FlowKind::NODE`].
    pub cookie: u64,
    /// The initiator's address.
    pub local: Address,
    /// The address that it connects to.
    pub remote: Address,
    /// The initiator's port, host order.
    pub local_port: u16,
    /// The port that it connects to, host order.
    pub remote_port: u16,
    /// Zero.
    pub pad: u32,
}

/// Who opened a connection. Without an entry it came from outside.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKind(pub u32);

impl FlowKind {
    /// An enrolled pod, outwards: the agent takes it.
    pub const OUTBOUND: Self = Self(1);
    /// The agent from within the pod's namespace, or a pod to its own address: nobody takes it.
    pub const EXEMPT: Self = Self(2);
    /// A process in the node's own namespace, such as a kubelet's probe.
    pub const NODE: Self = Self(3);
}

/// Two pods of this node, and what one of them may ask of the other without the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictKey {
    /// Netns cookie of the pod that connects.
    pub source: u64,
    /// Netns cookie of the pod that is asked.
    pub destination: u64,
    /// The port that is asked for, or [`VerdictKey::OTHER_PORTS`].
    pub port: u16,
    /// 4 or 6: policies may name addresses.
    pub family: u16,
    /// Zero.
    pub pad: u32,
}

impl VerdictKey {
    /// Every port that has no entry of its own.
    pub const OTHER_PORTS: u16 = 0;
}

/// What becomes of a connection between two pods of this node. Without an entry, and for [`HBONE_PORT`] whatever the entry:
/// [`Verdict::RELAY`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(pub u32);

impl Verdict {
    /// It is ordinary TCP between the two.
    pub const DIRECT: Self = Self(1);
    /// The agent takes it, to carry or to refuse.
    pub const RELAY: Self = Self(2);
}

/// A port of a service, as one pod asks for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Netns cookie of the pod that connects: its place and its namespace decide on the shares.
    pub source: u64,
    /// One of the service's addresses.
    pub address: Address,
    /// The service's port, host order.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// Endpoints of a service to which a pod may connect without the agent, in the proportions in which the agent would choose
/// them. What is left of the whole belongs to all others, of which the agent chooses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices(pub [Choice; Choices::MOST]);

impl Choices {
    /// Further endpoints are left to the agent.
    pub const MOST: usize = 8;
}

/// One endpoint of [`Choices`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Of the family of the service's address.
    pub address: Address,
    /// Host order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Whose drawn number is below it, of 2^32, and not below that of a choice before, gets this one. Zero: there is none.
    pub below: u32,
}

/// What a connection has asked for that goes to an endpoint of it; all zero: for what it goes to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub address: Address,
    /// Host order.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// A connection between two pods of this node that no agent carries.
///
/// Each hook writes the fields of its own end only; an entry goes when both ends have closed, and so does
/// [`Event::CLOSED`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Netns cookie of the pod that connects.
    pub source: u64,
    /// Netns cookie of the pod that it connects to.
    pub destination: u64,
    /// When it was begun, by CLOCK_MONOTONIC, in nanoseconds.
    pub begun: u64,
    /// When the connecting end was open; 0 before.
    pub opened: u64,
    /// Not 0 once a SYN of it has been seen in the destination's namespace.
    pub arrived: u64,
    /// How many of its ends have closed.
    pub ended: u64,
    /// The service's address that was asked for, if it was not the pod's own.
    pub asked: Asked,
    pub client: Side,
    pub server: Side,
}

/// One end of a [`Direct`] connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Cookie of its socket, by which sock_diag finds it too; 0 while there is none.
    pub socket: u64,
    /// Bytes that arrived, in order, until it closed; a FIN counts as one.
    pub received: u64,
    /// When it closed, by CLOCK_MONOTONIC, in nanoseconds; 0 before.
    pub closed: u64,
    /// The sequence number that it sends next; with the other end's `rcv_nxt` it says whether all arrived.
    pub snd_nxt: u32,
    /// The sequence number that it expects next.
    pub rcv_nxt: u32,
    /// The state that it closed from (<net/tcp_states.h>).
    pub last: u32,
    /// Zero.
    pub pad: u32,
}

/// What the agent is told of a [`Direct`] connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// [`Event::OPENED`] or [`Event::CLOSED`].
    pub kind: u64,
    pub flow: FlowKey,
    pub direct: Direct,
}

impl Event {
    /// The client's end is open.
    pub const OPENED: u64 = 1;
    /// Both ends have closed, or the only one there was.
    pub const CLOSED: u64 = 2;
}

/// Until when [`Verdict`]s hold, and what went wrong.
///
/// Two entries, so that neither side writes over the other's fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SameNode {
    /// CLOCK_MONOTONIC, in nanoseconds, at which verdicts are too old: put off by the agent as long as it runs.
    pub until: u64,
    /// Events that found no room in the ring.
    pub lost: u64,
    /// Connections that the agent got because [`maps::DIRECT`] was full.
    pub full: u64,
}

impl SameNode {
    /// The entry of which the agent writes `until`.
    pub const AGENT: u32 = 0;
    /// The entry of which the hooks count `lost` and `full`.
    pub const HOOKS: u32 = 1;
}

/// Which of a pod's listeners.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// Netns cookie of the pod.
    pub cookie: u64,
    /// One of [`ListenerKey::OUTBOUND`], [`ListenerKey::PLAINTEXT`], [`ListenerKey::HBONE`].
    pub kind: u32,
    /// Which of that kind, from zero: a worker's.
    pub slot: u32,
}

impl ListenerKey {
    /// Takes the pod's own connections.
    pub const OUTBOUND: u32 = 1;
    /// Takes connections to the pod that are not tunnels.
    pub const PLAINTEXT: u32 = 2;
    /// Takes connections to [`HBONE_PORT`].
    pub const HBONE: u32 = 3;

    /// Most listeners of one kind for one pod.
    pub const SLOTS: u32 = 64;
}

/// An enrolled pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Number for log lines; the agent's to choose.
    pub id: u32,
    /// [`Pod::PASSING`] or zero.
    pub flags: u32,
}

impl Pod {
    /// Everything that begins passes by the agent, as if the pod were in no mesh. What the agent has in hand for it goes
    /// on, and the agent's own sockets are told as ever. The pod is on its way in or out: the hooks of both directions
    /// see the change at the same moment, and a connection that one of them captured reaches the agent.
    pub const PASSING: u32 = 1;

    #[inline(always)]
    pub const fn is_passing(&self) -> bool {
        self.flags & Self::PASSING != 0
    }
}

/// Sysctls of the pod's namespace as they were before enrolment, for withdrawal to restore.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plumbed {
    /// Inode of the namespace, by which withdrawal finds it again after a restart.
    pub netns_inode: u64,
    /// `net.ipv4.tcp_fwmark_accept`.
    pub tcp_fwmark_accept: u8,
    /// `net.ipv4.fwmark_reflect`.
    pub v4_fwmark_reflect: u8,
    /// `net.ipv6.fwmark_reflect`; 255 where the namespace has no IPv6.
    pub v6_fwmark_reflect: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// What the programs need to know that is not a constant, and the version that the pins were made with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`ABI_VERSION`] of the agent that made the pins. Zero: just made.
    pub abi_version: u32,
    /// Counts the agents that loaded. The last one owns the pins.
    pub generation: u32,
    /// Netns cookie of the node's own namespace.
    pub node_cookie: u64,
}

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<FlowKey>() == 48);
    assert!(size_of::<ListenerKey>() == 16);
    assert!(size_of::<Pod>() == 8);
    assert!(size_of::<Plumbed>() == 16);
    assert!(size_of::<VerdictKey>() == 24);
    assert!(size_of::<Side>() == 40);
    assert!(size_of::<ServiceKey>() == 32);
    assert!(size_of::<Choice>() == 24);
    assert!(size_of::<Asked>() == 24);
    assert!(size_of::<Direct>() == 48 + 24 + 2 * 40);
    assert!(size_of::<Event>() == 8 + 48 + 152);
    assert!(size_of::<SameNode>() == 24);
    assert!(size_of::<Settings>() == 16);
    assert!(MARK_CAPTURE & LOOP_MASK == LOOP_MARK && MARK_DELIVER & LOOP_MASK == LOOP_MARK);
    assert!(MARK_DRAWN & (MARK_MASK | LOOP_MASK) == 0);
    assert!(MARK_AGENT & LOOP_MASK != LOOP_MARK && MARK_AGENT & MARK_MASK == MARK_AGENT);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY (all): repr(C) or repr(transparent) of integers without padding (the sizes asserted above are the sums of
    // the fields), so that every bit pattern is a value and no byte is uninitialised.
    unsafe impl aya::Pod for crate::Address {}
    unsafe impl aya::Pod for crate::FlowKey {}
    unsafe impl aya::Pod for crate::FlowKind {}
    unsafe impl aya::Pod for crate::ListenerKey {}
    unsafe impl aya::Pod for crate::Pod {}
    unsafe impl aya::Pod for crate::Plumbed {}
    unsafe impl aya::Pod for crate::VerdictKey {}
    unsafe impl aya::Pod for crate::ServiceKey {}
    unsafe impl aya::Pod for crate::Choices {}
    unsafe impl aya::Pod for crate::Asked {}
    unsafe impl aya::Pod for crate::Verdict {}
    unsafe impl aya::Pod for crate::Direct {}
    unsafe impl aya::Pod for crate::SameNode {}
    unsafe impl aya::Pod for crate::Settings {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn mapped_and_plain_ipv4_are_one_address() {
        assert_eq!(address("10.0.0.1"), address("::ffff:10.0.0.1"));
        assert_eq!(address("10.0.0.1"), Address::v4(u32::from_ne_bytes([10, 0, 0, 1])));
        assert!(address("10.0.0.1").is_v4() && !address("::a00:1").is_v4());
    }

    #[test]
    fn an_address_is_the_same_there_and_back() {
        for text in ["10.0.0.1", "fd00::1", "::1", "255.255.255.255"] {
            assert_eq!(IpAddr::from(address(text)), text.parse::<IpAddr>().unwrap());
        }
        assert_eq!(IpAddr::from(address("::ffff:10.0.0.1")), "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn only_the_host_itself_is_loopback() {
        for own in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(address(own).is_loopback(), "{own}");
        }
        for other in ["126.0.0.1", "128.0.0.1", "::", "::2", "1::1", "fe80::1", "::127.0.0.1"] {
            assert!(!address(other).is_loopback(), "{other}");
        }
        assert!(address("0.0.0.0").is_unspecified() && address("::").is_unspecified());
        assert!(!address("0.0.0.1").is_unspecified() && !address("::1").is_unspecified());
    }

    #[test]
    fn link_local_is_a_tenth() {
        assert!(address("fe80::1").is_link_local_v6() && address("febf::1").is_link_local_v6());
        assert!(!address("fec0::1").is_link_local_v6() && !address("169.254.0.1").is_link_local_v6());
    }
}
