//! ServiceEntry: names, addresses, ports, and where its endpoints come from.

use super::export::{self, Nobody};
use super::port::{self, Protocol, protocol};
use super::selector;
use super::workload::{Names, check_endpoint};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::is_address_or_block;
use crate::syntax::host::is_ip;

pub(super) fn check(namespace: &str, spec: &Node, report: &mut Report) {
    let resolution = match spec.text("resolution") {
        "" => "NONE",
        resolution => resolution,
    };
    if let Some(workloads) = spec.get("workloadSelector") {
        selector::check_labels(&workloads, "labels", report);
        if spec.has("endpoints") {
            report.add(Code::ExcludingFields, spec, "workloadSelector and endpoints exclude each other");
        }
        if resolution != "STATIC" && resolution != "DYNAMIC_DNS" {
            let message = format!("workloadSelector has no effect with resolution {resolution}; STATIC has endpoints");
            report.add(Code::IgnoredSetting, &workloads, message);
        }
    }
    check_hosts(spec, resolution, report);
    check_addresses(spec, resolution, report);
    check_ports(spec, resolution, report);
    check_endpoints(spec, resolution, report);
    export::check(namespace, Nobody::Allowed, spec, report);
}

fn check_hosts(spec: &Node, resolution: &str, report: &mut Report) {
    let hosts = spec.list("hosts");
    for host in &hosts {
        match host.str() {
            Some("*") => report.add(Code::BadHost, host, "'*' is no host of a service"),
            Some(name) if is_ip(name) && resolution.starts_with("DNS") => {
                report.add(Code::LiteralAddress, host, format!("{name} is an address, and resolution is {resolution}"));
            }
            _ => port::check_host(host, report),
        }
    }
    if resolution.starts_with("DNS") && spec.list("endpoints").is_empty() {
        for host in hosts.iter().filter(|host| host.str().is_some_and(|name| name.len() > 1 && name.starts_with('*'))) {
            let message = format!("{} cannot be looked up in DNS: write a name, or endpoints", host.value);
            report.add(Code::BadHost, host, message);
        }
    }
    if resolution == "DYNAMIC_DNS" {
        for host in hosts.iter().filter(|host| host.str().is_some_and(|name| !name.starts_with("*."))) {
            report.add(Code::BadHost, host, format!("{} has no wildcard, and DYNAMIC_DNS is for those", host.value));
        }
    }
    // Plain TCP says no name, so that nobody could tell which of the hosts is meant.
    let speaks_no_name = spec
        .list("ports")
        .into_iter()
        .find(|port| !matches!(protocol(port.text("protocol")), Some(Protocol::Http | Protocol::Tls)));
    if resolution != "NONE"
        && hosts.len() > 1
        && let Some(port) = speaks_no_name
    {
        let message = "several hosts need ports with HTTP or TLS: plain TCP does not say which is meant";
        report.add(Code::ConflictingSettings, &port, message);
    }
}

fn check_addresses(spec: &Node, resolution: &str, report: &mut Report) {
    for address in spec.list("addresses") {
        let Some(text) = address.str() else { continue };
        if !is_address_or_block(text) {
            report.add(Code::BadAddress, &address, format!("{text:?} is neither an address nor a block"));
        } else if text.contains('/') && !["NONE", "STATIC"].contains(&resolution) {
            report.add(
                Code::ConflictingSettings,
                &address,
                format!("{text} is a block, and resolution is {resolution}"),
            );
        }
    }
}

fn check_ports(spec: &Node, resolution: &str, report: &mut Report) {
    let ports = spec.list("ports");
    port::check_distinct("the number", ports.iter().filter_map(|port| port.get("number")), report);
    for port in &ports {
        if let Some(name) = port.get("name") {
            port::check_name(name.str().unwrap_or_default(), &name, report);
        }
        port::check_protocol(port, report);
        if port.has("targetPort") && resolution == "NONE" {
            let message = "targetPort has no effect with resolution NONE: traffic goes where it was sent";
            report.add_at(Code::IgnoredSetting, port.child("targetPort"), message);
        }
    }
}

fn check_endpoints(spec: &Node, resolution: &str, report: &mut Report) {
    let endpoints = spec.list("endpoints");
    let ports: Vec<&str> = spec.list("ports").iter().map(|port| port.text("name")).collect();
    match resolution {
        "NONE" if !endpoints.is_empty() => {
            let message = "resolution NONE sends traffic where it was sent, and has no endpoints";
            report.add_at(Code::ConflictingSettings, spec.child("endpoints"), message);
        }
        "DNS_ROUND_ROBIN" if endpoints.len() > 1 => {
            report.add_at(
                Code::ConflictingSettings,
                spec.child("endpoints"),
                "DNS_ROUND_ROBIN has one endpoint at most",
            );
        }
        "DYNAMIC_DNS" if !endpoints.is_empty() => {
            report.add_at(
                Code::ConflictingSettings,
                spec.child("endpoints"),
                "DYNAMIC_DNS looks names up and has no endpoints",
            );
        }
        _ => {}
    }
    for endpoint in &endpoints {
        let names = if resolution == "STATIC" { Names::Refused } else { Names::Allowed };
        check_endpoint(endpoint, names, report);
        let address = endpoint.text("address");
        if resolution.starts_with("DNS") && is_ip(address) {
            let message = format!("{address} is an address, and resolution is {resolution}");
            report.add_at(Code::LiteralAddress, endpoint.child("address"), message);
        }
        for (name, number) in endpoint.map("ports") {
            if !ports.contains(&name) {
                report.add(Code::BadPort, &number, format!("the service has no port {name:?}"));
            }
        }
        if address.starts_with("unix://") && ports.len() != 1 {
            report.add(Code::ConflictingSettings, endpoint, "a service with a socket has one port exactly");
        }
    }
}
