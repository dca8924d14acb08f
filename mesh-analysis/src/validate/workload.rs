//! WorkloadEntry, WorkloadGroup, and the endpoints of a ServiceEntry.

use super::{header, port};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::{SOCKET_SCHEME, is_socket_path};
use crate::syntax::host::{domain, is_ip};

pub(super) fn check_entry(spec: &Node, report: &mut Report) {
    check_endpoint(spec, Names::Allowed, report);
}

/// Whether an address may be a name, to be looked up in DNS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Allowed,
    Refused,
}

pub(super) fn check_endpoint(entry: &Node, names: Names, report: &mut Report) {
    let address = entry.text("address");
    match address.strip_prefix(SOCKET_SCHEME) {
        _ if address.is_empty() => {
            if entry.text("network").is_empty() {
                report.add(Code::MissingSetting, entry, "an address is needed");
            }
        }
        Some(path) => {
            if !is_socket_path(path) {
                report.add_at(
                    Code::BadAddress,
                    entry.child("address"),
                    format!("{path:?} is no absolute path to a socket"),
                );
            }
            if entry.has("ports") {
                report.add_at(Code::ConflictingSettings, entry.child("ports"), "a socket has no ports");
            }
        }
        None if is_ip(address) => {}
        None if names == Names::Refused => {
            report.add_at(
                Code::BadAddress,
                entry.child("address"),
                format!("{address:?} is no IP address, as STATIC needs"),
            );
        }
        None => {
            if domain(address).is_err() {
                let message = format!("{address:?} is neither an IP address nor a host name");
                report.add_at(Code::BadAddress, entry.child("address"), message);
            }
        }
    }
    for (name, number) in entry.map("ports") {
        port::check_name(name, &number, report);
    }
    port::check_labels(entry, "labels", report);
}

pub(super) fn check_group(spec: &Node, report: &mut Report) {
    if let Some(metadata) = spec.get("metadata") {
        port::check_labels(&metadata, "labels", report);
    }
    if let Some(template) = spec.get("template") {
        port::check_labels(&template, "labels", report);
    }
    let Some(probe) = spec.get("probe") else { return };
    if probe.present(&["httpGet", "tcpSocket", "exec", "grpc"]).is_empty() {
        report.add(Code::EmptySetting, &probe, "one of httpGet, tcpSocket, exec and grpc is needed");
    }
    if let Some(get) = probe.get("httpGet") {
        for sent in get.list("httpHeaders") {
            header::check_name(sent.text("name"), &sent, report);
        }
    }
    if let Some(exec) = probe.get("exec")
        && exec.has("command")
        && exec.list("command").is_empty()
    {
        report.add(Code::EmptySetting, &exec, "the command is empty");
    }
}
