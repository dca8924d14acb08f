//! Sidecar: kept right, although nothing of it is carried out.

use super::{port, selector, server_tls, traffic_policy};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::{SOCKET_SCHEME, is_port, is_socket_path};
use crate::syntax::host::is_ip;

pub(super) fn check(spec: &Node, report: &mut Report) {
    if let Some(workloads) = spec.get("workloadSelector") {
        selector::check_labels(&workloads, "labels", report);
    }
    let (ingress, egress) = (spec.list("ingress"), spec.list("egress"));
    let others = spec.present(&["outboundTrafficPolicy", "inboundConnectionPool"]);
    if ingress.is_empty() && egress.is_empty() && others.is_empty() {
        report.add(
            Code::EmptySetting,
            spec,
            "one of ingress, egress, outboundTrafficPolicy and inboundConnectionPool is needed",
        );
    }
    port::check_distinct("the port", ingress.iter().filter_map(|listener| listener.at(&["port", "number"])), report);
    for listener in &ingress {
        check_port(listener, report);
        check_endpoint(listener, report);
        if let Some(pool) = listener.get("connectionPool") {
            traffic_policy::check_connection_pool(&pool, report);
        }
        if let Some(tls) = listener.get("tls") {
            check_ingress_tls(&tls, report);
        }
    }
    if let Some(pool) = spec.get("inboundConnectionPool") {
        traffic_policy::check_connection_pool(&pool, report);
    }
    for (index, listener) in egress.iter().enumerate() {
        match listener.has("port") {
            true => check_port(listener, report),
            false if index + 1 < egress.len() => {
                report.add(
                    Code::UnreachableRule,
                    listener,
                    "a listener without a port takes the rest and has to be the last",
                );
            }
            false => {}
        }
        if listener.has("hosts") && listener.list("hosts").is_empty() {
            report.add(Code::MissingSetting, listener, "a host is needed; '*/*' stands for all");
        }
        for host in listener.list("hosts") {
            if !host.str().is_some_and(|text| text.contains('/')) {
                report.add(Code::BadHost, &host, format!("{} is not of the form namespace/name", host.value));
            } else {
                port::check_namespaced_host(&host, report);
            }
        }
    }
    check_outbound(spec, report);
}

fn check_port(listener: &Node, report: &mut Report) {
    let Some(listened) = listener.get("port") else { return };
    port::check_protocol(&listened, report);
    let number = listened.int("number").unwrap_or(0);
    let bind = listener.text("bind");
    if let Some(path) = bind.strip_prefix(SOCKET_SCHEME) {
        if !is_socket_path(path) {
            report.add_at(
                Code::BadAddress,
                listener.child("bind"),
                format!("{path:?} is no absolute path to a socket"),
            );
        }
        if number != 0 {
            report.add(Code::ConflictingSettings, &listened, "a socket has no port: number has to be 0");
        }
        return;
    }
    if !is_port(number) {
        report.add(Code::BadPort, &listened, format!("{number} is no port"));
    }
    if !bind.is_empty() && !is_ip(bind) {
        report.add_at(Code::BadAddress, listener.child("bind"), format!("{bind:?} is no IP address"));
    }
}

fn check_endpoint(listener: &Node, report: &mut Report) {
    let endpoint = listener.text("defaultEndpoint");
    let good = match endpoint.strip_prefix(SOCKET_SCHEME) {
        _ if endpoint.is_empty() => true,
        Some(path) => is_socket_path(path),
        None => endpoint.rsplit_once(':').is_some_and(|(host, port)| {
            ["", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"].contains(&host) && port.parse().is_ok_and(is_port)
        }),
    };
    if !good {
        let message = format!("{endpoint:?} is neither 127.0.0.1:port nor [::1]:port nor a socket");
        report.add_at(Code::BadAddress, listener.child("defaultEndpoint"), message);
    }
}

fn check_ingress_tls(tls: &Node, report: &mut Report) {
    let without = tls.present(&["subjectAltNames", "httpsRedirect", "credentialName"]);
    if !without.is_empty() {
        report.add(Code::BadTlsSettings, tls, format!("{} cannot be set for a sidecar", without.join(" and ")));
    }
    if ["ISTIO_MUTUAL", "AUTO_PASSTHROUGH"].contains(&tls.text("mode")) {
        report.add(Code::BadTlsSettings, tls, format!("{} is for gateways only", tls.text("mode")));
    }
    server_tls::check(tls, report);
}

fn check_outbound(spec: &Node, report: &mut Report) {
    let Some(outbound) = spec.get("outboundTrafficPolicy") else { return };
    let Some(proxy) = outbound.get("egressProxy") else { return };
    if outbound.text("mode") != "ALLOW_ANY" {
        report.add(Code::ConflictingSettings, &outbound, "egressProxy needs mode: ALLOW_ANY");
    }
    if let Some(host) = proxy.get("host") {
        port::check_domain(&host, report);
    }
    if !proxy.has("port") {
        report.add(Code::MissingSetting, &proxy, "egressProxy needs a port");
    }
}
