//! VirtualService: hosts, routes, and what is done to requests on the way.

use super::export::{self, Nobody};
use super::{header, port};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::{is_address_or_block, is_port};
use crate::syntax::grpc_status;
use crate::syntax::host::{covers, is_ip, wildcard_domain};
use crate::syntax::label::{is_dns_label, is_label};
use crate::syntax::pattern;

pub(super) fn check(namespace: &str, spec: &Node, report: &mut Report) {
    let delegate = spec.list("hosts").is_empty();
    if delegate {
        for field in ["gateways", "tls", "tcp"] {
            if !spec.list(field).is_empty() {
                report.add_at(
                    Code::ConflictingSettings,
                    spec.child(field),
                    format!("a VirtualService without hosts is a delegate and has no {field}"),
                );
            }
        }
    }
    check_gateways(spec, report);
    check_hosts(spec, report);
    if ["http", "tls", "tcp"].iter().all(|field| spec.list(field).is_empty()) {
        report.add(Code::MissingSetting, spec, "one of http, tls and tcp is needed");
    }
    let mesh = applies_to_mesh(spec);
    for route in spec.list("http") {
        check_http(&route, delegate, report);
        if mesh {
            check_no_claims(&route, report);
        }
    }
    for route in spec.list("tls") {
        check_tls(&route, spec, report);
    }
    for route in spec.list("tcp") {
        if route.list("route").is_empty() {
            report.add(Code::MissingSetting, &route, "a route is needed");
        }
        for condition in route.list("match") {
            check_connection_match(&condition, report);
        }
        check_destinations(&route, report);
    }
    export::check(namespace, Nobody::Refused, spec, report);
}

/// Without gateways, or with the one called mesh, it is for every workload.
fn applies_to_mesh(spec: &Node) -> bool {
    let gateways = spec.texts("gateways");
    gateways.is_empty() || gateways.contains(&"mesh")
}

fn check_gateways(node: &Node, report: &mut Report) {
    for item in node.list("gateways") {
        let Some(name) = item.str() else { continue };
        match name.split_once('/') {
            Some((namespace, gateway)) => {
                if !is_dns_label(namespace) || !is_dns_label(gateway) {
                    report.add(Code::BadReference, &item, format!("{name:?} is no namespace/name of a Gateway"));
                }
            }
            None if name.contains('.') => {
                let mut parts = name.split('.');
                let (gateway, namespace) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                report.add(Code::LegacyName, &item, format!("{name:?} is meant to be {namespace}/{gateway}"));
                port::check_domain(&item, report);
            }
            None => port::check_domain(&item, report),
        }
    }
}

fn check_hosts(spec: &Node, report: &mut Report) {
    let hosts = spec.list("hosts");
    let mesh = applies_to_mesh(spec);
    for item in &hosts {
        port::check_host_or_address(item, report);
        if mesh && item.str() == Some("*") {
            report.add(Code::BadHost, item, "'*' is for gateways only; within the mesh name the hosts");
        }
    }
    for (index, item) in hosts.iter().enumerate() {
        let Some(host) = item.str() else { continue };
        let before = hosts[..index].iter().filter_map(Node::str);
        if let Some(other) = before.into_iter().find(|other| covers(other, host) || covers(host, other)) {
            report.add(Code::DuplicateName, item, format!("{host:?} and {other:?} are the same host twice"));
        }
    }
}

fn check_http(route: &Node, delegate: bool, report: &mut Report) {
    check_action(route, delegate, report);
    let delegating = delegate || route.has("delegate");
    for condition in route.list("match") {
        check_http_match(&condition, delegating, report);
    }
    if let Some(headers) = route.get("headers") {
        header::check_operations(&headers, report);
    }
    check_authority(route, report);
    if let Some(rewrite) = route.get("rewrite") {
        check_rewrite(&rewrite, report);
    }
    if let Some(redirect) = route.get("redirect") {
        check_redirect(&redirect, report);
    }
    if let Some(response) = route.get("directResponse") {
        check_direct_response(&response, report);
    }
    if let Some(retries) = route.get("retries") {
        check_retries(&retries, report);
    }
    if let Some(fault) = route.get("fault") {
        check_fault(&fault, report);
    }
    if let Some(cors) = route.get("corsPolicy") {
        check_cors(&cors, report);
    }
    check_mirrors(route, report);
    check_destinations(route, report);
}

/// A rule either sends requests on, answers them, or leaves them to another VirtualService.
fn check_action(route: &Node, delegate: bool, report: &mut Report) {
    let actions: Vec<&str> = route
        .present(&["redirect", "directResponse"])
        .into_iter()
        .chain((!route.list("route").is_empty()).then_some("route"))
        .collect();
    if let Some(other) = route.get("delegate") {
        if delegate {
            report.add(Code::ConflictingSettings, &other, "a delegate cannot delegate further");
        } else if !actions.is_empty() {
            report.add(
                Code::ConflictingSettings,
                route,
                format!("delegate and {} exclude each other", actions.join(" and ")),
            );
        }
        return;
    }
    match actions[..] {
        [] => report.add(Code::MissingSetting, route, "one of route, redirect and directResponse is needed"),
        ["route"] => {}
        [answer] => {
            for with in route.present(&["fault", "rewrite"]) {
                let why = format!("{answer} and {with} exclude each other");
                report.add_at(Code::ConflictingSettings, route.child(with), why);
            }
        }
        _ => report.add(Code::ConflictingSettings, route, format!("{} exclude each other", actions.join(" and "))),
    }
}

fn check_http_match(condition: &Node, delegating: bool, report: &mut Report) {
    for field in ["uri", "scheme", "method", "authority"] {
        if let Some(text) = condition.get(field) {
            check_text_match(&text, delegating, report);
        }
    }
    for field in ["headers", "withoutHeaders"] {
        for (name, text) in condition.map(field) {
            if !is_claim(name) {
                header::check_name(name, &text, report);
            }
            check_text_match(&text, delegating, report);
        }
    }
    for (_, text) in condition.map("queryParams") {
        check_text_match(&text, delegating, report);
    }
    check_client(condition, report);
}

/// What all three kinds of matches ask of the client and of the port.
fn check_client(condition: &Node, report: &mut Report) {
    if let Some(number) = condition.get("port")
        && number.value.as_i64() != Some(0)
    {
        port::check_number(&number, report);
    }
    port::check_labels(condition, "sourceLabels", report);
    check_gateways(condition, report);
    if let Some(namespace) = condition.get("sourceNamespace")
        && let Some(name) = namespace.str()
        && !name.is_empty()
        && !is_dns_label(name)
    {
        report.add(Code::BadLabel, &namespace, format!("{name:?} is no namespace"));
    }
}

fn check_text_match(text: &Node, delegating: bool, report: &mut Report) {
    if let Some(regex) = text.get("regex") {
        if delegating {
            report.add(Code::ConflictingSettings, &regex, "a rule that is delegated cannot be matched by regex");
        }
        check_regex(&regex, report);
    }
    if let Some(prefix) = text.get("prefix")
        && prefix.str() == Some("")
    {
        report.add(Code::EmptyValue, &prefix, "the prefix is empty: it matches everything");
    }
}

fn check_regex(node: &Node, report: &mut Report) {
    if let Some(expression) = node.str()
        && let Err(why) = pattern::check(expression)
    {
        report.add(Code::BadRegex, node, format!("{expression:.64?} {why}"));
    }
}

/// Claims of tokens are matched by headers of this name, at gateways only.
fn is_claim(name: &str) -> bool {
    name.to_ascii_lowercase().starts_with("@request.auth.claims")
}

fn check_no_claims(route: &Node, report: &mut Report) {
    for condition in route.list("match") {
        for (name, text) in condition.map("headers").into_iter().chain(condition.map("withoutHeaders")) {
            if is_claim(name) {
                report.add(
                    Code::ConflictingSettings,
                    &text,
                    "claims are matched at gateways only, and this is for the mesh",
                );
            }
        }
    }
}

fn check_authority(route: &Node, report: &mut Report) {
    let mut places: Vec<String> = Vec::new();
    if let Some(rewrite) = route.get("rewrite")
        && !rewrite.text("authority").is_empty()
    {
        places.push("rewrite.authority".to_owned());
    }
    if let Some(request) = route.at(&["headers", "request"]) {
        for operation in ["set", "add"] {
            let names = request.map(operation).into_iter().filter(|(name, _)| header::is_authority(name));
            places.extend(names.map(|(name, _)| format!("headers.request.{operation}[{name}]")));
        }
    }
    if places.len() > 1 {
        report.add(Code::ConflictingSettings, route, format!("the authority is set by {}", places.join(" and ")));
    }
}

fn check_rewrite(rewrite: &Node, report: &mut Report) {
    let regex = rewrite.get("uriRegexRewrite");
    if !rewrite.text("uri").is_empty() && regex.is_some() {
        report.add(Code::ConflictingSettings, rewrite, "uri and uriRegexRewrite exclude each other");
    }
    if rewrite.text("uri").is_empty() && regex.is_none() && rewrite.text("authority").is_empty() {
        report.add(Code::EmptySetting, rewrite, "one of uri, uriRegexRewrite and authority is needed");
    }
    if let Some(regex) = regex {
        if regex.text("match").is_empty() || regex.text("rewrite").is_empty() {
            report.add(Code::EmptySetting, &regex, "match and rewrite are needed");
        } else if let Some(expression) = regex.get("match") {
            check_regex(&expression, report);
        }
    }
}

fn check_redirect(redirect: &Node, report: &mut Report) {
    if redirect.present(&["uri", "authority", "scheme", "port", "derivePort"]).is_empty() {
        report.add(Code::EmptySetting, redirect, "one of uri, authority, scheme, port and derivePort is needed");
    }
    if let Some(code) = redirect.int("redirectCode")
        && code != 0
        && !(300..400).contains(&code)
    {
        report.add_at(Code::BadStatus, redirect.child("redirectCode"), format!("{code} is no redirect: 300 to 399"));
    }
    if !["", "http", "https"].contains(&redirect.text("scheme")) {
        let message = format!("{:?} is neither http nor https", redirect.text("scheme"));
        report.add_at(Code::ConflictingSettings, redirect.child("scheme"), message);
    }
    if let Some(number) = redirect.get("port") {
        port::check_number(&number, report);
    }
}

fn check_direct_response(response: &Node, report: &mut Report) {
    if let Some(status) = response.get("status") {
        check_http_status(&status, report);
    }
    let Some(body) = response.get("body") else { return };
    let bytes = body.text("string").len().max(body.text("bytes").len() / 4 * 3);
    if bytes > LARGEST_RESPONSE {
        report.add(
            Code::ConflictingSettings,
            &body,
            format!("the body has {bytes} bytes, {LARGEST_RESPONSE} is the most"),
        );
    } else if bytes > LARGE_RESPONSE {
        report.add(Code::LargeResponse, &body, format!("the body has {bytes} bytes"));
    }
}

/// Bytes; as in Istio.
const LARGEST_RESPONSE: usize = 1 << 20;
const LARGE_RESPONSE: usize = 100 << 10;

fn check_http_status(node: &Node, report: &mut Report) {
    if let Some(status) = node.value.as_i64()
        && !(200..600).contains(&status)
    {
        report.add(Code::BadStatus, node, format!("{status} is not from 200 to 599"));
    }
}

fn check_retries(retries: &Node, report: &mut Report) {
    let attempts = retries.int("attempts").unwrap_or(0);
    if attempts < 0 {
        report.add_at(Code::BadRetry, retries.child("attempts"), format!("{attempts} attempts"));
    }
    let with = retries.present(&["perTryTimeout", "retryOn", "retryRemoteLocalities"]);
    if attempts == 0 && !with.is_empty() {
        report.add(Code::BadRetry, retries, format!("attempts is 0, so that {} means nothing", with.join(" and ")));
    }
    let Some(node) = retries.get("retryOn") else { return };
    for condition in node.str().unwrap_or_default().split(',').filter(|condition| !condition.is_empty()) {
        let is_status = condition.parse::<u16>().is_ok_and(|status| (100..600).contains(&status));
        if !is_status && !RETRY_CONDITIONS.contains(&condition) {
            report.add(Code::BadRetry, &node, format!("{condition:?} is no condition for a retry"));
        }
    }
}

/// What Envoy knows, for HTTP and for gRPC.
const RETRY_CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

fn check_fault(fault: &Node, report: &mut Report) {
    if fault.present(&["abort", "delay"]).is_empty() {
        report.add(Code::EmptySetting, fault, "abort or delay is needed");
    }
    if let Some(abort) = fault.get("abort") {
        check_percentage(&abort, report);
        if let Some(status) = abort.get("httpStatus") {
            check_http_status(&status, report);
        } else if let Some(status) = abort.get("grpcStatus") {
            let name = status.str().unwrap_or_default();
            if grpc_status::parse(name).is_none() {
                report.add(Code::BadStatus, &status, format!("{name:?} is no status of gRPC"));
            }
        } else if let Some(error) = abort.get("http2Error") {
            report.add(Code::ConflictingSettings, &error, "requests cannot be answered with an HTTP/2 error");
        } else {
            report.add(Code::IgnoredSetting, &abort, "no status is given, so that nothing is aborted");
        }
    }
    if let Some(delay) = fault.get("delay") {
        check_percentage(&delay, report);
        if let Some(exponential) = delay.get("exponentialDelay") {
            report.add(Code::ConflictingSettings, &exponential, "requests can be delayed by fixedDelay only");
        }
        if let Some(percent) = delay.int("percent")
            && !(0..=100).contains(&percent)
        {
            report.add_at(Code::BadPercentage, delay.child("percent"), format!("{percent} is not from 0 to 100"));
        }
    }
}

/// `percentage` of something: a proxy counts in millionths.
fn check_percentage(node: &Node, report: &mut Report) {
    if let Some(percentage) = node.get("percentage")
        && let Some(value) = percentage.float("value")
        && (!(0.0..=100.0).contains(&value) || (value > 0.0 && value < 0.0001))
    {
        report.add(Code::BadPercentage, &percentage, format!("{value} is neither 0 nor from 0.0001 to 100"));
    }
}

fn check_cors(cors: &Node, report: &mut Report) {
    for origin in cors.list("allowOrigins") {
        let value = ["exact", "prefix", "regex"].into_iter().map(|how| origin.text(how)).find(|text| !text.is_empty());
        if value.is_none() {
            report.add(Code::EmptyValue, &origin, "one of exact, prefix and regex is needed");
        }
        if let Some(regex) = origin.get("regex") {
            check_regex(&regex, report);
        }
    }
    for item in cors.list("allowMethods") {
        let method = item.str().unwrap_or_default();
        if !METHODS.contains(&method) {
            report.add(Code::UnknownValue, &item, format!("{method:?} is no method of HTTP"));
        }
    }
    for item in cors.list("allowHeaders").into_iter().chain(cors.list("exposeHeaders")) {
        match item.str().unwrap_or_default() {
            "*" => {}
            name => header::check_name(name, &item, report),
        }
    }
    if let Some(age) = cors.get("maxAge")
        && let Some(duration) = age.str().and_then(crate::syntax::duration::parse)
        && duration.subsec_nanos() != 0
    {
        report.add(Code::BadDuration, &age, "maxAge is in whole seconds");
    }
}

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

fn check_mirrors(route: &Node, report: &mut Report) {
    if let Some(percent) = route.int("mirrorPercent").filter(|percent| *percent > 100) {
        report.add_at(Code::BadPercentage, route.child("mirrorPercent"), format!("{percent} is more than 100"));
    }
    let percentages = route.get("mirrorPercentage").into_iter();
    for percentage in percentages.chain(route.list("mirrors").iter().filter_map(|mirror| mirror.get("percentage"))) {
        if let Some(value) = percentage.float("value")
            && !(0.0..=100.0).contains(&value)
        {
            report.add(Code::BadPercentage, &percentage, format!("{value} is not from 0 to 100"));
        }
    }
    if route.has("mirror") && !route.list("mirrors").is_empty() {
        report.add_at(Code::ConflictingSettings, route.child("mirror"), "mirror and mirrors exclude each other");
    }
    let mirrored = route.get("mirror").into_iter();
    for destination in mirrored.chain(route.list("mirrors").iter().filter_map(|mirror| mirror.get("destination"))) {
        check_destination(&destination, report);
    }
}

fn check_destinations(route: &Node, report: &mut Report) {
    let destinations = route.list("route");
    let mut total = 0;
    for entry in &destinations {
        let weight = entry.int("weight").unwrap_or(0);
        if weight < 0 {
            report.add_at(Code::BadWeight, entry.child("weight"), format!("{weight} is negative"));
        }
        total += weight;
        if let Some(destination) = entry.get("destination") {
            check_destination(&destination, report);
        }
        if let Some(headers) = entry.get("headers") {
            header::check_operations(&headers, report);
        }
    }
    if destinations.len() > 1 && total == 0 {
        report.add_at(
            Code::BadWeight,
            route.child("route"),
            "there are several destinations, and their weights add up to 0",
        );
    }
}

pub(super) fn check_destination(destination: &Node, report: &mut Report) {
    if let Some(host) = destination.get("host") {
        match host.str() {
            Some("*") => report.add(Code::BadHost, &host, "'*' is no destination"),
            _ => port::check_host_or_address(&host, report),
        }
    }
    if let Some(subset) = destination.get("subset")
        && let Some(name) = subset.str()
        && !name.is_empty()
        && !is_label(name)
    {
        report.add(Code::BadLabel, &subset, format!("{name:?} is no name of a subset"));
    }
    if let Some(selector) = destination.get("port")
        && !is_port(selector.int("number").unwrap_or(0))
    {
        let number = selector.int("number").unwrap_or(0);
        report.add(Code::BadPort, &selector, format!("{number} is no port"));
    }
}

fn check_tls(route: &Node, spec: &Node, report: &mut Report) {
    if route.has("match") && route.list("match").is_empty() {
        report.add(Code::MissingSetting, route, "a match is needed");
    }
    for condition in route.list("match") {
        if condition.has("sniHosts") && condition.list("sniHosts").is_empty() {
            report.add(Code::MissingSetting, &condition, "a name in sniHosts is needed");
        }
        for name in condition.list("sniHosts") {
            check_sni(&name, spec, report);
        }
        check_connection_match(&condition, report);
    }
    if route.list("route").is_empty() {
        report.add(Code::MissingSetting, route, "a route is needed");
    }
    check_destinations(route, report);
}

fn check_sni(node: &Node, spec: &Node, report: &mut Report) {
    let Some(name) = node.str() else { return };
    if is_ip(name) {
        report.add(Code::NeverMatches, node, format!("{name} is an address, and clients send names"));
    } else if wildcard_domain(name).is_err() {
        port::check_host(node, report);
    } else if !spec.texts("hosts").iter().any(|host| covers(host, name)) {
        let hosts = spec.texts("hosts").join(", ");
        report.add(Code::ConflictingSettings, node, format!("{name:?} is within none of the hosts {hosts}"));
    }
}

fn check_connection_match(condition: &Node, report: &mut Report) {
    for subnet in condition.list("destinationSubnets") {
        if let Some(text) = subnet.str()
            && !is_address_or_block(text)
        {
            report.add(Code::BadAddress, &subnet, format!("{text:?} is neither an address nor a block"));
        }
    }
    check_client(condition, report);
}
