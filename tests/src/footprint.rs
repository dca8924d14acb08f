//! What a mesh could leave behind in a pod's network namespace.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use crate::place::Place;

/// Rules, routes, sysctls and listening sockets, one a line: two of them are equal when nothing was left behind.
///
/// # Errors
/// When they cannot be read.
pub fn footprint(place: &Place) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for question in ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"] {
        let said = place.command("ip").args(question.split(' ')).stdout()?;
        lines.extend(said.lines().map(|line| format!("{}: {}", &question[..2], line.trim())));
    }
    place.run(|| -> Result<()> {
        for name in SYSCTLS {
            let value = fs::read_to_string(format!("/proc/sys/net/{name}")).with_context(|| format!("read {name}"))?;
            lines.insert(format!("{name} = {}", value.trim()));
        }
        for table in ["tcp", "tcp6"] {
            let sockets = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
            let listening = sockets.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields.get(3) == Some(&"0A")).then(|| format!("{table} listener {}", fields[1]))
            });
            lines.extend(listening);
        }
        Ok(())
    })?;
    Ok(lines)
}

/// All that change how TCP connections are marked or routed.
const SYSCTLS: [&str; 7] = [
    "ipv4/tcp_fwmark_accept",
    "ipv4/fwmark_reflect",
    "ipv6/fwmark_reflect",
    "ipv4/ip_nonlocal_bind",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/all/route_localnet",
    "ipv4/ip_local_port_range",
];
