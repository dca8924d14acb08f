//! What this kernel has of what we need, found out by trying: distributions move features between versions.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Config, cgroup::Cgroup};
use crate::netns::{Netns, can_destroy};

/// Something of the kernel's that Weft uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility {
    /// What it is called.
    pub name: &'static str,
    /// Kernel in which it appeared, from the kernel's sources.
    pub since: &'static str,
    /// Whether it is here.
    pub present: bool,
    /// What does not work without it.
    pub lost: &'static str,
}

/// Tries everything once. Needs the same rights as [`Kernel::load`](super::Kernel::load); without them a facility may
/// look absent. Takes about a millisecond.
pub fn probe(config: &Config) -> Vec<Facility> {
    let program = |kind| is_program_supported(kind).unwrap_or(false);
    let helper = |kind, helper| is_helper_supported(kind, helper).unwrap_or(false);
    let facility = |name, since, present, lost| Facility { name, since, present, lost };
    vec![
        facility(
            "cgroup v2",
            "4.5",
            statfs(&config.cgroup_root).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC),
            "everything: no connection is captured",
        ),
        facility(
            "bpffs",
            "4.4",
            super::is_bpffs(&config.pin_dir),
            "everything: capture would end with the agent, and fail open",
        ),
        facility(
            "eBPF on cgroup/connect4 and connect6",
            "4.17",
            program(ProgramType::CgroupSockAddr),
            "everything: no outbound connection is captured",
        ),
        facility(
            "bpf_setsockopt in cgroup/connect",
            "5.8",
            helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_setsockopt),
            "everything: no outbound connection is captured",
        ),
        facility(
            "bpf_get_netns_cookie in cgroup/connect",
            "5.7",
            helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie),
            "everything: pods cannot be told apart",
        ),
        facility(
            "bpf_get_netns_cookie in sock_ops",
            "5.15",
            helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie),
            "everything: a pod's own connections cannot be told from those that arrive",
        ),
        facility(
            "eBPF on sk_lookup",
            "5.9",
            helper(ProgramType::SkLookup, BpfHelper::BPF_FUNC_sk_assign),
            "everything: no connection reaches the agent",
        ),
        facility("SO_NETNS_COOKIE", "5.14", Netns::current().is_ok(), "everything: pods cannot be told apart"),
        facility(
            "bpf_set_retval in cgroup/connect",
            "5.18",
            set_retval(),
            "a clear error: without an agent, an enrolled pod's connect fails with EPERM, not ECONNREFUSED",
        ),
        facility(
            "bpf_skc_to_mptcp_sock in sock_ops",
            "5.19",
            tells_mptcp(),
            "multipath connections between pods of this node through the agent: an end that policy puts to one may take a \
             minute to show",
        ),
        facility("IP_TRANSPARENT", "2.6.28", transparent(), "everything: the agent cannot answer for other addresses"),
        facility(
            "net.ipv4.tcp_fwmark_accept",
            "4.14",
            std::fs::exists("/proc/sys/net/ipv4/tcp_fwmark_accept").unwrap_or(false),
            "enrolment: replies to a client whose address the application sees would leave the node",
        ),
        facility(
            "SOCK_DESTROY",
            "4.5",
            can_destroy(),
            "ending connections from before enrolment that policy forbids (CONFIG_INET_DIAG_DESTROY)",
        ),
        facility(
            "open_by_handle_at on cgroup v2",
            "5.5",
            Cgroup::open(&config.cgroup_root).is_ok_and(|root| root.is_found(root.id)),
            "forgetting the cgroups of agents that are gone: 64 restarts later no agent loads",
        ),
    ]
}

/// Whether a connect hook can choose the error that the application sees.
pub(super) fn set_retval() -> bool {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}

/// Whether `sock_ops` can tell a socket of a multipath connection.
pub(super) fn tells_mptcp() -> bool {
    is_helper_supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_skc_to_mptcp_sock).unwrap_or(false)
}

fn transparent() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    socket.is_ok_and(|socket| socket.set_ip_transparent_v4(true).is_ok())
}
