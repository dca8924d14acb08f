//! The Gateway API's kinds. Each rule is the counterpart of a CEL rule in the tables; what a field is if it is left out
//! (the CRD's default) is said here once more, since a manifest in a folder has no API server to fill it in.

use std::collections::HashSet;

use super::port;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::host::is_ip;
use crate::syntax::{duration, pattern};

pub(super) fn check(kind: &str, spec: &Node, report: &mut Report) {
    match kind {
        "Gateway" => {
            check_listeners(spec, report);
            check_addresses(spec, report);
        }
        "ListenerSet" => check_listeners(spec, report),
        "HTTPRoute" => {
            check_parents(spec, report);
            check_http(spec, report);
        }
        "GRPCRoute" => {
            check_parents(spec, report);
            check_grpc(spec, report);
        }
        "TCPRoute" | "UDPRoute" | "TLSRoute" => {
            check_parents(spec, report);
            for hostname in spec.list("hostnames").iter().filter(|hostname| hostname.str().is_some_and(is_ip)) {
                report.add(
                    Code::BadHost,
                    hostname,
                    format!("{} is an address, and clients send names", hostname.value),
                );
            }
            for rule in spec.list("rules") {
                check_backends(&rule, report);
            }
        }
        "BackendTLSPolicy" => check_backend_tls(spec, report),
        _ => {}
    }
}

/// A reference's fields, with what they are if left out.
fn or<'a>(node: &Node<'a>, field: &str, default: &'a str) -> &'a str {
    if node.has(field) { node.text(field) } else { default }
}

fn check_parents(spec: &Node, report: &mut Report) {
    let key = |parent: &Node| {
        let part = |field, default: &'static str| or(parent, field, default).to_owned();
        (part("group", "gateway.networking.k8s.io"), part("kind", "Gateway"), part("namespace", ""), part("name", ""))
    };
    let parents = spec.list("parentRefs");
    check_sections(&parents, |parent| format!("{:?}", key(parent)), report);
}

/// Whoever is named twice has to be named by different sections.
fn check_sections(references: &[Node], key: impl Fn(&Node) -> String, report: &mut Report) {
    for (index, reference) in references.iter().enumerate() {
        let same = references[..index].iter().find(|before| key(before) == key(reference));
        let Some(before) = same else { continue };
        if before.has("sectionName") != reference.has("sectionName") {
            let message = format!("{:?} is named twice: each needs a sectionName", reference.text("name"));
            report.add(Code::ConflictingSettings, reference, message);
        } else if references[..index]
            .iter()
            .any(|before| key(before) == key(reference) && before.text("sectionName") == reference.text("sectionName"))
        {
            report.add(Code::DuplicateName, reference, format!("{:?} is named twice", reference.text("name")));
        }
    }
}

fn check_listeners(spec: &Node, report: &mut Report) {
    let mut seen = HashSet::new();
    for listener in spec.list("listeners") {
        let protocol = listener.text("protocol").to_ascii_uppercase();
        let tls = listener.get("tls");
        let mode = tls.as_ref().map(|tls| or(tls, "mode", "Terminate"));
        match protocol.as_str() {
            "HTTP" | "TCP" | "UDP" if tls.is_some() => {
                report.add_at(Code::ConflictingSettings, listener.child("tls"), format!("{protocol} is without TLS"));
            }
            "HTTPS" if mode == Some("Passthrough") => {
                let message = "HTTPS is terminated; Passthrough goes with the protocol TLS";
                report.add_at(Code::ConflictingSettings, listener.child("tls"), message);
            }
            "TLS" if tls.is_none() => report.add(Code::MissingSetting, &listener, "the protocol TLS needs tls"),
            "HTTPS" if tls.is_none() => {
                report.add(Code::IgnoredSetting, &listener, "HTTPS without tls has no certificate")
            }
            _ => {}
        }
        if let Some(tls) = &tls
            && mode == Some("Terminate")
            && tls.list("certificateRefs").is_empty()
            && tls.map("options").is_empty()
        {
            report.add(Code::MissingSetting, tls, "Terminate needs certificateRefs or options");
        }
        if ["TCP", "UDP"].contains(&protocol.as_str()) && listener.has("hostname") {
            report.add_at(
                Code::ConflictingSettings,
                listener.child("hostname"),
                format!("{protocol} has no host names"),
            );
        }
        if !seen.insert((listener.int("port"), protocol, listener.text("hostname"))) {
            report.add(Code::DuplicateName, &listener, "a listener has the same port, protocol and hostname already");
        }
        let namespaces = listener.at(&["allowedRoutes", "namespaces"]);
        if let Some(namespaces) = namespaces {
            check_selector(&namespaces, report);
        }
    }
    if let Some(namespaces) = spec.at(&["allowedListeners", "namespaces"]) {
        check_selector(&namespaces, report);
    }
}

fn check_selector(namespaces: &Node, report: &mut Report) {
    match (namespaces.text("from"), namespaces.has("selector")) {
        ("Selector", false) => report.add(Code::MissingSetting, namespaces, "from: Selector needs a selector"),
        (from, true) if from != "Selector" => {
            report.add(Code::IgnoredSetting, namespaces, "the selector is looked at with from: Selector only");
        }
        _ => {}
    }
}

fn check_addresses(spec: &Node, report: &mut Report) {
    let mut seen = HashSet::new();
    for address in spec.list("addresses") {
        let (kind, value) = (or(&address, "type", "IPAddress"), address.text("value"));
        if value.is_empty() {
            continue;
        }
        if kind == "IPAddress" && !is_ip(value) {
            report.add(Code::BadAddress, &address, format!("{value:?} is no IP address"));
        }
        if kind == "Hostname"
            && let Some(node) = address.get("value")
        {
            port::check_host(&node, report);
        }
        if !seen.insert((kind, value)) {
            report.add(Code::DuplicateName, &address, format!("{value} is asked for twice"));
        }
    }
}

fn check_backends(rule: &Node, report: &mut Report) {
    for backend in rule.list("backendRefs") {
        check_backend(&backend, report);
    }
}

fn check_backend(backend: &Node, report: &mut Report) {
    if or(backend, "group", "").is_empty() && or(backend, "kind", "Service") == "Service" && !backend.has("port") {
        report.add(Code::MissingSetting, backend, "a reference to a Service needs a port");
    }
}

/// Names of a route's rules.
fn check_rule_names(spec: &Node, report: &mut Report) {
    port::check_distinct("the rule", spec.list("rules").iter().filter_map(|rule| rule.get("name")), report);
}

/// All rules together; each alone is the table's business.
fn check_matches(spec: &Node, report: &mut Report) {
    let matches: usize = spec.list("rules").iter().map(|rule| rule.list("matches").len().max(1)).sum();
    if matches > 128 {
        report.add_at(
            Code::WrongCount,
            spec.child("rules"),
            format!("{matches} matches in all rules, 128 is the most"),
        );
    }
}

/// Where a rule sends to, and what it does on the way there.
fn check_targets(rule: &Node, report: &mut Report) {
    check_backends(rule, report);
    check_filters(rule, report);
    for backend in rule.list("backendRefs") {
        check_filters(&backend, report);
    }
}

fn check_http(spec: &Node, report: &mut Report) {
    check_rule_names(spec, report);
    check_matches(spec, report);
    for rule in spec.list("rules") {
        check_targets(&rule, report);
        let redirects = rule.list("filters").iter().any(|filter| filter.has("requestRedirect"));
        if redirects && !rule.list("backendRefs").is_empty() {
            report.add(Code::ConflictingSettings, &rule, "a rule with RequestRedirect has no backendRefs");
        }
        check_prefix_replacement(&rule, report);
        for condition in rule.list("matches") {
            check_http_match(&condition, report);
        }
        if let Some(timeouts) = rule.get("timeouts") {
            check_timeouts(&timeouts, report);
        }
        check_session(&rule, report);
    }
}

fn check_session(rule: &Node, report: &mut Report) {
    let Some(session) = rule.get("sessionPersistence") else { return };
    let Some(cookie) = session.get("cookieConfig") else { return };
    if session.text("type") == "Header" {
        report.add(Code::ConflictingSettings, &cookie, "a session that a header keeps has no cookie");
    }
    if cookie.text("lifetimeType") == "Permanent" && !session.has("absoluteTimeout") {
        report.add(Code::MissingSetting, &session, "a permanent cookie needs absoluteTimeout");
    }
}

fn check_http_match(condition: &Node, report: &mut Report) {
    if let Some(path) = condition.get("path") {
        let value = or(&path, "value", "/");
        match or(&path, "type", "PathPrefix") {
            "RegularExpression" => check_regex(value, &path, report),
            _ if !value.starts_with('/') => {
                report.add(Code::BadPath, &path, format!("{value:?} does not begin with a slash"));
            }
            _ if pattern::matches("//|/[.]{1,2}/|/[.]{1,2}$|%2[fF]|#", value) => {
                let message =
                    format!("{value:?} has an empty element, one of dots only, a fragment or a slash in disguise");
                report.add(Code::BadPath, &path, message);
            }
            _ if !pattern::matches("^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$", value) => {
                report.add(Code::BadPath, &path, format!("{value:?} has characters that no path has"));
            }
            _ => {}
        }
    }
    check_expressions(condition.list("headers"), report);
    check_expressions(condition.list("queryParams"), report);
}

/// Of headers and query parameters.
fn check_expressions(entries: Vec<Node>, report: &mut Report) {
    for entry in entries {
        if entry.text("type") == "RegularExpression" {
            check_regex(entry.text("value"), &entry, report);
        }
    }
}

fn check_regex(expression: &str, node: &Node, report: &mut Report) {
    if let Err(why) = pattern::check(expression) {
        report.add(Code::BadRegex, node, format!("{expression:.64?} {why}"));
    }
}

/// The field that goes with each type of filter.
const FILTERS: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("ExtensionRef", "extensionRef"),
    ("CORS", "cors"),
];

fn check_filters(holder: &Node, report: &mut Report) {
    let filters = holder.list("filters");
    let count = |kind: &str| filters.iter().filter(|filter| filter.text("type") == kind).count();
    for kind in ["CORS", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"] {
        if count(kind) > 1 {
            report.add_at(Code::DuplicateName, holder.child("filters"), format!("{kind} can be used once"));
        }
    }
    if count("RequestRedirect") > 0 && count("URLRewrite") > 0 {
        let message = "RequestRedirect and URLRewrite exclude each other";
        report.add_at(Code::ConflictingSettings, holder.child("filters"), message);
    }
    for filter in &filters {
        check_union(filter, FILTERS, report);
        for modifier in ["requestHeaderModifier", "responseHeaderModifier"].iter().filter_map(|name| filter.get(name)) {
            check_header_actions(&modifier, report);
        }
        for changed in ["requestRedirect", "urlRewrite"].iter().filter_map(|name| filter.at(&[name, "path"])) {
            let types = &[("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")];
            check_union(&changed, types, report);
        }
        if let Some(mirror) = filter.get("requestMirror") {
            check_mirror(&mirror, report);
        }
        if let Some(cors) = filter.get("cors") {
            for field in ["allowOrigins", "allowMethods", "allowHeaders"] {
                if cors.texts(field).contains(&"*") && cors.list(field).len() > 1 {
                    report.add_at(Code::ConflictingSettings, cors.child(field), "'*' stands alone");
                }
            }
        }
    }
}

/// `type` names the field that has the rest, and no other may be set.
fn check_union(node: &Node, types: &[(&str, &str)], report: &mut Report) {
    let found = node.text("type");
    for (kind, field) in types {
        if *kind == found && !node.has(field) {
            report.add(Code::MissingSetting, node, format!("type {kind} needs {field}"));
        }
        if *kind != found && node.has(field) {
            report.add_at(
                Code::ConflictingSettings,
                node.child(field),
                format!("{field} does not go with type {found}"),
            );
        }
    }
}

/// One action for each header.
fn check_header_actions(modifier: &Node, report: &mut Report) {
    let mut seen = HashSet::new();
    for action in ["set", "add", "remove"] {
        for item in modifier.list(action) {
            let name = item.str().unwrap_or_else(|| item.text("name")).to_ascii_lowercase();
            if !seen.insert(name.clone()) {
                report.add(Code::IgnoredSetting, &item, format!("{name:?} is changed twice; the first action holds"));
            }
        }
    }
}

fn check_mirror(mirror: &Node, report: &mut Report) {
    if mirror.has("percent") && mirror.has("fraction") {
        report.add(Code::ConflictingSettings, mirror, "percent and fraction exclude each other");
    }
    if let Some(backend) = mirror.get("backendRef") {
        check_backend(&backend, report);
    }
    if let Some(fraction) = mirror.get("fraction") {
        let (numerator, denominator) = (fraction.int("numerator"), fraction.int("denominator").unwrap_or(100));
        if numerator.is_some_and(|numerator| numerator > denominator) {
            report.add(Code::BadPercentage, &fraction, "the fraction is more than 1");
        }
    }
}

/// What replaces a prefix needs to know which prefix matched.
fn check_prefix_replacement(rule: &Node, report: &mut Report) {
    let matches = rule.list("matches");
    let by_prefix = match &matches[..] {
        // The default: every path, by the prefix /.
        [] => true,
        [only] => only.get("path").is_none_or(|path| or(&path, "type", "PathPrefix") == "PathPrefix"),
        _ => false,
    };
    let holders = std::iter::once(rule.clone()).chain(rule.list("backendRefs"));
    for filter in holders.flat_map(|holder| holder.list("filters")) {
        for change in ["requestRedirect", "urlRewrite"] {
            if let Some(path) = filter.at(&[change, "path"])
                && path.text("type") == "ReplacePrefixMatch"
                && !by_prefix
            {
                let message = "ReplacePrefixMatch goes with exactly one match, by PathPrefix";
                report.add(Code::ConflictingSettings, &path, message);
            }
        }
    }
}

fn check_timeouts(timeouts: &Node, report: &mut Report) {
    let parse = |field| duration::parse(timeouts.text(field));
    if let (Some(request), Some(attempt)) = (parse("request"), parse("backendRequest"))
        && !request.is_zero()
        && attempt > request
    {
        let message = format!(
            "an attempt ({}) cannot take longer than the request ({})",
            timeouts.text("backendRequest"),
            timeouts.text("request")
        );
        report.add(Code::BadDuration, timeouts, message);
    }
}

fn check_grpc(spec: &Node, report: &mut Report) {
    check_rule_names(spec, report);
    check_matches(spec, report);
    for rule in spec.list("rules") {
        check_targets(&rule, report);
        check_session(&rule, report);
        for condition in rule.list("matches") {
            if let Some(method) = condition.get("method") {
                check_grpc_method(&method, report);
            }
            check_expressions(condition.list("headers"), report);
        }
    }
}

fn check_grpc_method(method: &Node, report: &mut Report) {
    if method.present(&["service", "method"]).is_empty() {
        report.add(Code::EmptySetting, method, "service or method is needed");
    }
    let exact = or(method, "type", "Exact") == "Exact";
    for (field, name) in
        [("service", r"^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$"), ("method", "^[A-Za-z_][A-Za-z_0-9]*$")]
    {
        let Some(node) = method.get(field) else { continue };
        let text = node.str().unwrap_or_default();
        if !exact {
            check_regex(text, &node, report);
        } else if !pattern::matches(name, text) {
            report.add(Code::BadPath, &node, format!("{text:?} is no name of a {field}"));
        }
    }
}

fn check_backend_tls(spec: &Node, report: &mut Report) {
    let targets = spec.list("targetRefs");
    check_sections(
        &targets,
        |target| format!("{:?}", (target.text("group"), target.text("kind"), target.text("name"))),
        report,
    );
    let Some(validation) = spec.get("validation") else { return };
    match (validation.list("caCertificateRefs").is_empty(), validation.text("wellKnownCACertificates").is_empty()) {
        (true, true) => {
            report.add(Code::MissingSetting, &validation, "caCertificateRefs or wellKnownCACertificates is needed");
        }
        (false, false) => {
            let message = "caCertificateRefs and wellKnownCACertificates exclude each other";
            report.add(Code::ConflictingSettings, &validation, message);
        }
        _ => {}
    }
    for name in validation.list("subjectAltNames") {
        check_union(&name, &[("Hostname", "hostname"), ("URI", "uri")], report);
    }
}
