//! Istio's Gateway: its servers.

use super::port::{self, Protocol, protocol};
use super::server_tls;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::{SOCKET_SCHEME, is_port, is_socket_path};
use crate::syntax::host::is_ip;

pub(super) fn check(spec: &Node, report: &mut Report) {
    let servers = spec.list("servers");
    if servers.is_empty() {
        report.add(Code::MissingSetting, spec, "a server is needed");
    }
    port::check_distinct("the port's name", servers.iter().filter_map(|server| server.at(&["port", "name"])), report);
    port::check_distinct("the server's name", servers.iter().filter_map(|server| server.get("name")), report);
    for server in &servers {
        check_server(server, report);
    }
}

fn check_server(server: &Node, report: &mut Report) {
    if server.has("hosts") && server.list("hosts").is_empty() {
        report.add(Code::MissingSetting, server, "a host is needed; '*' stands for all");
    }
    for host in server.list("hosts") {
        port::check_namespaced_host(&host, report);
    }
    if let Some(tls) = server.get("tls") {
        server_tls::check(&tls, report);
    }
    check_bind(server, report);
    let Some(listened) = server.get("port") else { return };
    if listened.text("name").is_empty() && listened.has("name") {
        report.add(Code::EmptyValue, &listened, "the port has no name");
    }
    if listened.int("targetPort").unwrap_or(0) > 0 {
        report.add_at(Code::ConflictingSettings, listened.child("targetPort"), "targetPort means nothing at a gateway");
    }
    match protocol(listened.text("protocol")) {
        None if listened.has("protocol") => {
            let message = format!("{:?} is no protocol that is known", listened.text("protocol"));
            report.add_at(Code::BadProtocol, listened.child("protocol"), message);
        }
        None => {}
        Some(protocol) => check_tls_of(protocol, server, report),
    }
}

/// Whether TLS is spoken follows from the protocol; the settings have to agree.
fn check_tls_of(protocol: Protocol, server: &Node, report: &mut Report) {
    let name = server.get("port").map(|port| port.text("protocol").to_owned()).unwrap_or_default();
    match (protocol, server.get("tls")) {
        (Protocol::Tls, None) => report.add(Code::BadTlsSettings, server, format!("{name} needs tls")),
        (Protocol::Tls, Some(tls)) if tls.is_true("httpsRedirect") => {
            report.add(Code::IgnoredSetting, &tls, format!("httpsRedirect is for HTTP, and this is {name}"));
        }
        // Plain HTTP may have the redirect, and nothing else.
        (Protocol::Http, Some(tls)) => {
            let others = tls.object().is_some_and(|fields| {
                fields
                    .iter()
                    .any(|(field, value)| field != "httpsRedirect" && !value.is_null() && value != "PASSTHROUGH")
            });
            if others {
                report.add(Code::BadTlsSettings, &tls, format!("{name} is without TLS and takes httpsRedirect only"));
            }
        }
        (Protocol::Tcp | Protocol::Udp, Some(tls)) => {
            report.add(Code::BadTlsSettings, &tls, format!("{name} is without TLS; write TLS or HTTPS"));
        }
        _ => {}
    }
}

fn check_bind(server: &Node, report: &mut Report) {
    let number = server.get("port").and_then(|port| port.int("number"));
    let bind = server.text("bind");
    if let Some(path) = bind.strip_prefix(SOCKET_SCHEME) {
        if !is_socket_path(path) {
            report.add_at(Code::BadAddress, server.child("bind"), format!("{path:?} is no absolute path to a socket"));
        }
        if number.is_some_and(|number| number != 0) {
            report.add_at(Code::ConflictingSettings, server.child("port"), "a socket has no port: number has to be 0");
        }
        return;
    }
    if !bind.is_empty() && !is_ip(bind) {
        report.add_at(Code::BadAddress, server.child("bind"), format!("{bind:?} is no IP address"));
    }
    if let Some(number) = number.filter(|number| !is_port(*number)) {
        report.add_at(Code::BadPort, format!("{}.number", server.child("port")), format!("{number} is no port"));
    }
}
