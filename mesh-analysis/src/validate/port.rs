//! Ports, protocols, hosts and labels, where they stand in objects.

use std::collections::HashSet;

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::is_port;
use crate::syntax::host::{NoHost, domain, is_ip, wildcard_domain};
use crate::syntax::label::{is_dns_label, is_label, is_label_name, is_label_value};

/// What a protocol of Istio's names stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Tls,
    Tcp,
    Udp,
}

/// `None` for one that nobody knows. Upper and lower case are the same.
pub(super) fn protocol(name: &str) -> Option<Protocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" => Protocol::Http,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" | "hbone" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    })
}

/// Of a port that may leave it out.
pub(super) fn check_protocol(port: &Node, report: &mut Report) {
    if let Some(node) = port.get("protocol")
        && let Some(name) = node.str()
        && !name.is_empty()
        && protocol(name).is_none()
    {
        report.add(Code::BadProtocol, &node, format!("{name:?} is no protocol that is known"));
    }
}

/// A number that has to be a port.
pub(super) fn check_number(node: &Node, report: &mut Report) {
    if let Some(number) = node.value.as_i64()
        && !is_port(number)
    {
        report.add(Code::BadPort, node, format!("{number} is no port"));
    }
}

pub(super) fn check_name(name: &str, node: &Node, report: &mut Report) {
    if !is_label(name) {
        report.add(Code::BadPort, node, format!("{name:?} is no name of a port"));
    }
}

/// A name without a wildcard.
pub(super) fn check_domain(node: &Node, report: &mut Report) {
    if let Some(name) = node.str()
        && let Err(why) = domain(name)
    {
        bad_host(node, name, why, report);
    }
}

/// A name, with or without a wildcard.
pub(super) fn check_host(node: &Node, report: &mut Report) {
    if let Some(name) = node.str()
        && let Err(why) = wildcard_domain(name)
    {
        bad_host(node, name, why, report);
    }
}

/// A name, with or without a wildcard, or an address.
pub(super) fn check_host_or_address(node: &Node, report: &mut Report) {
    if !node.str().is_some_and(is_ip) {
        check_host(node, report);
    }
}

fn bad_host(node: &Node, name: &str, why: NoHost, report: &mut Report) {
    report.add(Code::BadHost, node, format!("{name:?} is no host name: it {}", why.why()));
}

/// `namespace/name` or a name; `*`, `.` and `~` stand for namespaces.
pub(super) fn check_namespaced_host(node: &Node, report: &mut Report) {
    let Some(text) = node.str() else { return };
    let Some((namespace, name)) = text.split_once('/') else { return check_host(node, report) };
    if !["*", ".", "~"].contains(&namespace) && !is_dns_label(namespace) {
        report.add(Code::BadHost, node, format!("{namespace:?} in {text:?} is no namespace"));
    }
    if let Err(why) = wildcard_domain(name) {
        bad_host(node, name, why, report);
    }
}

/// A map of labels, as something has them.
pub(super) fn check_labels(node: &Node, field: &str, report: &mut Report) {
    for (name, value) in node.map(field) {
        if !is_label_name(name) {
            report.add(Code::BadLabel, &value, format!("{name:?} is no name of a label"));
        }
        if let Some(text) = value.str()
            && !is_label_value(text)
        {
            report.add(Code::BadLabel, &value, format!("{text:?} is no value of a label"));
        }
    }
}

/// Values that name something may be there once. Empty ones name nothing.
pub(super) fn check_distinct<'a>(what: &str, nodes: impl IntoIterator<Item = Node<'a>>, report: &mut Report) {
    let mut seen = HashSet::new();
    for node in nodes {
        if node.str() != Some("") && !seen.insert(node.value.to_string()) {
            report.add(Code::DuplicateName, &node, format!("{what} {} is there twice", node.value));
        }
    }
}
