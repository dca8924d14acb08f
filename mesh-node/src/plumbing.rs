//! Rules, routes and sysctls in a pod's namespace, without which a marked connection would go nowhere special.
//!
//! ```text
//!   rule    57: fwmark 0x560000/0xfe0000 lookup T          captured and delivered connections
//!   route   local default dev lo src <pod address> table T
//!   sysctl  net.ipv4.tcp_fwmark_accept = 1                 the application's replies carry its client's mark, so that
//!                                                          they return to the agent
//!           net.ipv4.fwmark_reflect, net.ipv6.fwmark_reflect = 1   and so do the resets that no socket sends
//! ```
//!
//! `src` is needed because the kernel else takes the destination of a local route as the source. Everything here is
//! idempotent: an agent that restarted finds its own rules.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
};

use futures_util::TryStreamExt as _;
use mesh_ebpf::{LOOP_MARK, LOOP_MASK, LOOP_PRIORITY, LOOP_TABLE, Plumbed};
use rtnetlink::{
    Handle, IpVersion, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        route::{RouteAttribute, RouteMessage, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use crate::netns::Netns;

/// Why a pod's namespace could not be prepared or restored.
#[derive(Debug, thiserror::Error)]
pub enum PlumbingError {
    /// The namespace could not be entered.
    #[error("enter the network namespace")]
    Enter(#[source] io::Error),
    /// The netlink socket or its runtime failed.
    #[error("open a netlink socket in the network namespace")]
    Netlink(#[source] io::Error),
    /// A sysctl of the namespace.
    #[error("set {name} to {value}")]
    Sysctl { name: &'static str, value: u8, source: io::Error },
    /// A rule or route.
    #[error("{what} in the network namespace")]
    Route { what: &'static str, source: rtnetlink::Error },
    /// None of the addresses given can be a source.
    #[error("the pod has no address to route by")]
    NoAddress,
}

/// Reads what [`plumb`] is about to change.
///
/// # Errors  Of entering the namespace and of reading a sysctl: `tcp_fwmark_accept` exists since kernel 4.14
/// (documented in ip-sysctl.rst), and not without CONFIG_SYSCTL.
pub fn before(netns: &Netns) -> Result<Plumbed, PlumbingError> {
    netns
        .enter(|| {
            Ok(Plumbed {
                netns_inode: netns.inode(),
                tcp_fwmark_accept: read(TCP_FWMARK_ACCEPT)?,
                v4_fwmark_reflect: read(V4_FWMARK_REFLECT)?,
                v6_fwmark_reflect: read(V6_FWMARK_REFLECT).unwrap_or(NONE),
                pad: [0; 5],
            })
        })
        .map_err(PlumbingError::Enter)?
}

/// Prepares the namespace. `addresses` are the pod's; the first of each family becomes the source of captured
/// connections that the application did not bind.
///
/// # Errors  Of the kernel; what was done until then stays, for [`unplumb`] to undo.
pub fn plumb(netns: &Netns, addresses: &[IpAddr]) -> Result<(), PlumbingError> {
    let v4 = addresses.iter().find_map(|address| match address.to_canonical() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().find_map(|address| match address.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    });
    if v4.is_none() && v6.is_none() {
        return Err(PlumbingError::NoAddress);
    }
    inside(netns, async |handle| {
        // Without an address of a family its route is left out, but not its rule: a marked connection then ends at
        // the family's ordinary routes, of which such a pod has none.
        for version in [IpVersion::V4, IpVersion::V6] {
            if version == IpVersion::V6 && v6.is_none() {
                continue;
            }
            if rules(handle, version.clone()).await?.is_empty() {
                add_rule(handle, version).await?;
            }
        }
        if let Some(source) = v4 {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().pref_source(source);
            add_route(handle, local(route).build()).await?;
        }
        if let Some(source) = v6 {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().pref_source(source);
            add_route(handle, local(route).build()).await?;
        }
        Ok(())
    })?;
    netns
        .enter(|| {
            write(TCP_FWMARK_ACCEPT, 1)?;
            write(V4_FWMARK_REFLECT, 1)?;
            if read(V6_FWMARK_REFLECT).is_ok() { write(V6_FWMARK_REFLECT, 1) } else { Ok(()) }
        })
        .map_err(PlumbingError::Enter)?
}

/// Removes the rules and routes and restores the sysctls. Nothing to undo is no error.
///
/// # Errors  Of the kernel.
pub fn unplumb(netns: &Netns, before: &Plumbed) -> Result<(), PlumbingError> {
    inside(netns, async |handle| {
        for version in [IpVersion::V4, IpVersion::V6] {
            for rule in rules(handle, version.clone()).await? {
                let done = handle.rule().del(rule).execute().await;
                done.map_err(|source| PlumbingError::Route { what: "remove the rule", source })?;
            }
            for route in routes(handle, version).await? {
                let done = handle.route().del(route).execute().await;
                done.map_err(|source| PlumbingError::Route { what: "remove the route", source })?;
            }
        }
        Ok(())
    })?;
    netns
        .enter(|| {
            write(TCP_FWMARK_ACCEPT, before.tcp_fwmark_accept)?;
            write(V4_FWMARK_REFLECT, before.v4_fwmark_reflect)?;
            if before.v6_fwmark_reflect == NONE {
                return Ok(());
            }
            write(V6_FWMARK_REFLECT, before.v6_fwmark_reflect)
        })
        .map_err(PlumbingError::Enter)?
}

/// Joins two fresh namespaces by a pair of virtual Ethernet devices; `addresses` are, for each family, the first one's and
/// the second one's.
///
/// # Errors  Of the kernel.
pub fn join(one: &Netns, other: &Netns, addresses: &[[IpAddr; 2]]) -> Result<(), PlumbingError> {
    for netns in [one, other] {
        // The host's defaults may allow no address of IPv6.
        let done = netns.enter(|| fs::write(path("net.ipv6.conf.default.disable_ipv6"), "0"));
        let _ = done.map_err(PlumbingError::Enter)?;
    }
    let failed = |what| move |source| PlumbingError::Route { what, source };
    inside(one, async |handle| {
        let pair = handle.link().add(LinkVeth::new("weft0", "weft1").build()).execute().await;
        pair.map_err(failed("add a pair of devices"))?;
        let moved = LinkUnspec::new_with_name("weft1").setns_by_fd(other.as_fd().as_raw_fd()).build();
        handle.link().set(moved).execute().await.map_err(failed("move a device"))
    })?;
    for (number, (netns, name)) in [(one, "weft0"), (other, "weft1")].into_iter().enumerate() {
        inside(netns, async |handle| {
            for name in ["lo", name] {
                let up = LinkUnspec::new_with_name(name).up().build();
                handle.link().set(up).execute().await.map_err(failed("set a device up"))?;
            }
            let mut found = handle.link().get().match_name(name.to_owned()).execute();
            let link = found.try_next().await.map_err(failed("find a device"))?;
            let index = link.map_or(0, |link| link.header.index);
            for pair in addresses {
                let length = if pair[number].is_ipv4() { 30 } else { 126 };
                let mut add = handle.address().add(index, pair[number], length);
                // Else an address of IPv6 is usable only some time later.
                add.message_mut().header.flags = AddressHeaderFlags::Nodad;
                add.execute().await.map_err(failed("add an address"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Runs `work` with a netlink socket of the namespace. On a thread of its own, because the caller may be inside of a
/// runtime and rtnetlink needs one.
fn inside<T: Send>(
    netns: &Netns,
    work: impl AsyncFnOnce(&Handle) -> Result<T, PlumbingError> + Send,
) -> Result<T, PlumbingError> {
    let work = || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(PlumbingError::Netlink)?;
        let _context = runtime.enter();
        let socket = netns.enter(rtnetlink::new_connection).map_err(PlumbingError::Enter)?;
        let (connection, handle, _) = socket.map_err(PlumbingError::Netlink)?;
        let pump = runtime.spawn(connection);
        let result = runtime.block_on(work(&handle));
        pump.abort();
        result
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Our rules of one family.
async fn rules(handle: &Handle, version: IpVersion) -> Result<Vec<RuleMessage>, PlumbingError> {
    let found = handle.rule().get(version).execute().try_filter(|rule| {
        let ours = rule.attributes.contains(&RuleAttribute::Table(LOOP_TABLE));
        std::future::ready(ours)
    });
    found.try_collect().await.map_err(|source| PlumbingError::Route { what: "list the rules", source })
}

async fn add_rule(handle: &Handle, version: IpVersion) -> Result<(), PlumbingError> {
    let rule = handle.rule().add().table_id(LOOP_TABLE).priority(LOOP_PRIORITY).fw_mark(LOOP_MARK);
    let rule = rule.action(RuleAction::ToTable);
    let mask = RuleAttribute::FwMask(LOOP_MASK);
    let done = match version {
        IpVersion::V4 => {
            let mut rule = rule.v4();
            rule.message_mut().attributes.push(mask);
            rule.execute().await
        }
        IpVersion::V6 => {
            let mut rule = rule.v6();
            rule.message_mut().attributes.push(mask);
            rule.execute().await
        }
    };
    done.map_err(|source| PlumbingError::Route { what: "add the rule", source })
}

fn local<T>(route: RouteMessageBuilder<T>) -> RouteMessageBuilder<T> {
    // Interface 1 is lo in every namespace.
    route.output_interface(1).table_id(LOOP_TABLE).kind(RouteType::Local).scope(RouteScope::Host)
}

async fn add_route(handle: &Handle, route: RouteMessage) -> Result<(), PlumbingError> {
    let done = handle.route().add(route).replace().execute().await;
    done.map_err(|source| PlumbingError::Route { what: "add the route", source })
}

/// Our routes of one family.
async fn routes(handle: &Handle, version: IpVersion) -> Result<Vec<RouteMessage>, PlumbingError> {
    let any = match version {
        IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    let found = handle.route().get(any).execute().try_filter(|route| {
        let ours = route.attributes.contains(&RouteAttribute::Table(LOOP_TABLE));
        std::future::ready(ours)
    });
    found.try_collect().await.map_err(|source| PlumbingError::Route { what: "list the routes", source })
}

fn read(name: &'static str) -> Result<u8, PlumbingError> {
    let failed = |source| PlumbingError::Sysctl { name, value: 0, source };
    let text = fs::read_to_string(path(name)).map_err(failed)?;
    text.trim().parse().map_err(|_| failed(io::ErrorKind::InvalidData.into()))
}

fn write(name: &'static str, value: u8) -> Result<(), PlumbingError> {
    // A sysctl that is right already may be on a read-only mount.
    if read(name).is_ok_and(|found| found == value) {
        return Ok(());
    }
    fs::write(path(name), value.to_string()).map_err(|source| PlumbingError::Sysctl { name, value, source })
}

/// /proc/sys/net shows the namespace of the thread that opens it.
fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// A sysctl that does not exist.
const NONE: u8 = u8::MAX;
const TCP_FWMARK_ACCEPT: &str = "net.ipv4.tcp_fwmark_accept";
const V4_FWMARK_REFLECT: &str = "net.ipv4.fwmark_reflect";
const V6_FWMARK_REFLECT: &str = "net.ipv6.fwmark_reflect";
