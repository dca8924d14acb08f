//! AuthorizationPolicy: sources, operations, conditions.

use super::selector;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::{is_address_or_block, is_port};
use crate::syntax::label::is_dns_label;
use crate::syntax::pattern;

pub(super) fn check(spec: &Node, report: &mut Report) {
    selector::check(spec, report);
    let action = match spec.text("action") {
        "" => "ALLOW",
        action => action,
    };
    check_action(action, spec, report);
    for rule in spec.list("rules") {
        check_rule(action, &rule, report);
        if action == "CUSTOM" {
            check_custom(&rule, report);
        }
        if !spec.has("targetRef") && !spec.has("targetRefs") {
            check_layer(action, &rule, report);
        }
    }
}

fn check_action(action: &str, spec: &Node, report: &mut Report) {
    let without_rules = spec.list("rules").is_empty();
    if without_rules && ["DENY", "CUSTOM"].contains(&action) && !spec.has("rules") {
        report.add(Code::NeverInForce, spec, format!("{action} without rules never does anything"));
    }
    let provider = spec.get("provider");
    match (action, &provider) {
        ("CUSTOM", None) => report.add(Code::MissingSetting, spec, "CUSTOM needs provider.name"),
        ("CUSTOM", Some(provider)) if provider.text("name").is_empty() => {
            report.add(Code::MissingSetting, provider, "CUSTOM needs provider.name");
        }
        ("CUSTOM", Some(_)) | (_, None) => {}
        (_, Some(provider)) => {
            report.add(
                Code::ConflictingSettings,
                provider,
                format!("a provider goes with CUSTOM, and this is {action}"),
            );
        }
    }
}

fn check_rule(action: &str, rule: &Node, report: &mut Report) {
    for field in ["from", "to"] {
        if let Some(list) = rule.get(field)
            && list.items().is_empty()
        {
            report.add(Code::EmptySetting, &list, format!("{field} is an empty list; leave it out for all"));
        }
    }
    for from in rule.list("from") {
        match from.get("source") {
            Some(source) => check_source(&source, report),
            None => report.add(Code::EmptySetting, &from, "source is missing"),
        }
    }
    for to in rule.list("to") {
        match to.get("operation") {
            Some(operation) => check_operation(&operation, report),
            None => report.add(Code::EmptySetting, &to, "operation is missing"),
        }
    }
    for condition in rule.list("when") {
        check_condition(&condition, report);
    }
    if action == "DENY" {
        check_denied_tcp(rule, report);
    }
}

/// A field and its negation are checked alike.
fn both<'a>(node: &Node<'a>, field: &str) -> Vec<Node<'a>> {
    let mut capital = field.chars();
    let not: String = "not".chars().chain(capital.next().map(|c| c.to_ascii_uppercase())).chain(capital).collect();
    node.list(field).into_iter().chain(node.list(&not)).collect()
}

fn is_empty(node: &Node) -> bool {
    node.object().is_none_or(|fields| fields.values().all(|value| value.as_array().is_none_or(Vec::is_empty)))
}

fn check_source(source: &Node, report: &mut Report) {
    if is_empty(source) {
        report.add(Code::EmptySetting, source, "the source has no fields; leave from out for all");
    }
    check_values(source, report);
    for field in ["ipBlocks", "remoteIpBlocks"] {
        check_blocks(&both(source, field), report);
    }
    for principal in both(source, "principals") {
        check_principal(&principal, report);
    }
    for namespace in both(source, "namespaces") {
        let name = namespace.str().unwrap_or_default();
        if !name.is_empty() && !name.contains('*') && !is_dns_label(name) {
            report.add(Code::NeverMatches, &namespace, format!("{name:?} is no namespace"));
        }
    }
    let accounts = source.present(&["serviceAccounts", "notServiceAccounts"]);
    let others = source.present(&["principals", "notPrincipals", "namespaces", "notNamespaces"]);
    if !accounts.is_empty() && !others.is_empty() {
        let message = format!("{} and {} exclude each other", accounts[0], others.join(" and "));
        report.add(Code::ExcludingFields, source, message);
    }
    check_accounts(&both(source, "serviceAccounts"), report);
}

fn check_accounts(accounts: &[Node], report: &mut Report) {
    let is_part = |part: &str| !part.is_empty() && !part.contains(['*', '/']);
    for account in accounts {
        let text = account.str().unwrap_or_default();
        let good = match text.split_once('/') {
            Some((namespace, name)) => is_part(namespace) && is_part(name),
            None => is_part(text),
        };
        if !good && !text.is_empty() {
            report.add(Code::BadFormat, account, format!("{text:?} is neither a name nor namespace/name"));
        }
    }
}

/// Principals are compared without the scheme of the SPIFFE ID.
fn check_principal(principal: &Node, report: &mut Report) {
    let Some(text) = principal.str() else { return };
    if let Some(rest) = text.strip_prefix("spiffe://") {
        return report.add(Code::NeverMatches, principal, format!("{text:?} never matches: write {rest:?}"));
    }
    // With a wildcard at either end only a part of it can be looked at.
    if text.contains('*') || text.is_empty() {
        return;
    }
    let parts: Vec<&str> = text.split('/').collect();
    if !matches!(parts[..], [domain, "ns", namespace, "sa", account] if !domain.is_empty() && !namespace.is_empty() && !account.is_empty())
    {
        let message = format!("{text:?} never matches: it is not trust-domain/ns/namespace/sa/service-account");
        report.add(Code::NeverMatches, principal, message);
    }
}

fn check_operation(operation: &Node, report: &mut Report) {
    if is_empty(operation) {
        report.add(Code::EmptySetting, operation, "the operation has no fields; leave to out for all");
    }
    check_values(operation, report);
    check_port_texts(&both(operation, "ports"), report);
    for path in both(operation, "paths") {
        let text = path.str().unwrap_or_default();
        if is_template(text) && pattern::matches(UNSUPPORTED_TEMPLATE, text) {
            report.add(Code::BadPath, &path, format!("{text:?} is no template: {{*}} and {{**}} are all there is"));
        }
    }
    for method in both(operation, "methods") {
        let text = method.str().unwrap_or_default();
        if text != text.to_ascii_uppercase() {
            report.add(Code::NeverMatches, &method, format!("{text:?} never matches: methods are in upper case"));
        }
    }
}

fn is_template(path: &str) -> bool {
    path.contains("{*}") || path.contains("{**}")
}

/// Beside `{*}` and `{**}`: names in braces, empty braces, stars outside of braces.
const UNSUPPORTED_TEMPLATE: &str = r"\{\w+=\*{1,2}\}|\{\w*\}|/\*{1,2}|\*{1,2}/";

fn check_condition(condition: &Node, report: &mut Report) {
    let key = condition.text("key");
    if key.is_empty() {
        return report.add(Code::BadCondition, condition, "the condition has no key");
    }
    let values = both(condition, "values");
    if values.is_empty() {
        report.add(Code::BadCondition, condition, format!("{key} has neither values nor notValues"));
    }
    check_values(condition, report);
    match key {
        "source.ip" | "remote.ip" | "destination.ip" => check_blocks(&values, report),
        "destination.port" => check_port_texts(&values, report),
        "source.principal" => values.iter().for_each(|value| check_principal(value, report)),
        "source.serviceAccount" => check_accounts(&values, report),
        "source.namespace"
        | "connection.sni"
        | "request.auth.principal"
        | "request.auth.audiences"
        | "request.auth.presenter" => {}
        _ => check_map_key(key, condition, report),
    }
}

/// `request.headers[name]` and the like.
fn check_map_key(key: &str, condition: &Node, report: &mut Report) {
    let known = ["request.headers", "request.auth.claims", "experimental.envoy.filters."];
    if !known.iter().any(|prefix| key.starts_with(prefix)) {
        let message = match key {
            "destination.namespace" => "destination.namespace is the policy's own".to_owned(),
            "destination.user" | "destination.name" => format!("{key} is read by no proxy any more"),
            _ if key.starts_with("destination.labels") => format!("{key} is what the selector is for"),
            _ => format!("{key:?} is no attribute"),
        };
        return report.add(Code::BadCondition, condition, message);
    }
    let open = key.find('[').unwrap_or(0);
    if open == 0 || !key.ends_with(']') || open + 2 >= key.len() {
        report.add(
            Code::BadCondition,
            condition,
            format!("{key:?} needs a name in brackets, as in request.headers[name]"),
        );
    }
}

fn check_values(node: &Node, report: &mut Report) {
    for field in node.object().into_iter().flat_map(serde_json::Map::keys) {
        for item in node.list(field).iter().filter(|item| item.str() == Some("")) {
            report.add(Code::EmptyValue, item, format!("an empty value in {field}"));
        }
    }
}

fn check_blocks(nodes: &[Node], report: &mut Report) {
    for node in nodes {
        if let Some(text) = node.str()
            && !text.is_empty()
            && !is_address_or_block(text)
        {
            report.add(Code::BadAddress, node, format!("{text:?} is neither an address nor a block"));
        }
    }
}

fn check_port_texts(nodes: &[Node], report: &mut Report) {
    for node in nodes {
        if let Some(text) = node.str()
            && !text.is_empty()
            && !text.parse().is_ok_and(is_port)
        {
            report.add(Code::BadPort, node, format!("{text:?} is no port"));
        }
    }
}

/// A server that is asked by CUSTOM knows nothing of peers and tokens.
fn check_custom(rule: &Node, report: &mut Report) {
    for source in rule.list("from").iter().filter_map(|from| from.get("source")) {
        for field in
            ["namespaces", "notNamespaces", "principals", "notPrincipals", "requestPrincipals", "notRequestPrincipals"]
        {
            if !source.list(field).is_empty() {
                report.add_at(
                    Code::ConflictingSettings,
                    source.child(field),
                    format!("{field} does not go with CUSTOM"),
                );
            }
        }
    }
    for condition in rule.list("when") {
        let key = condition.text("key");
        if ["source.namespace", "source.principal"].contains(&key) || key.starts_with("request.auth.") {
            report.add(Code::ConflictingSettings, &condition, format!("{key} does not go with CUSTOM"));
        }
    }
}

/// What a connection without HTTP cannot be asked: the fields of a rule, as paths.
fn http_attributes(rule: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut collect = |parts: Vec<Node>, fields: &[&str]| {
        for part in parts {
            let present = part.present(fields);
            found.extend(present.into_iter().map(|field| part.child(field)));
        }
    };
    collect(
        rule.list("from").iter().filter_map(|from| from.get("source")).collect(),
        &["requestPrincipals", "notRequestPrincipals"],
    );
    collect(
        rule.list("to").iter().filter_map(|to| to.get("operation")).collect(),
        &["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"],
    );
    found.extend(
        rule.list("when")
            .into_iter()
            .filter(|condition| condition.text("key").starts_with("request."))
            .map(|condition| condition.path),
    );
    found
}

/// A DENY that asks for nothing but HTTP denies what is no HTTP.
fn check_denied_tcp(rule: &Node, report: &mut Report) {
    let part = |list: &str, part: &str, tcp: &[&str]| -> (bool, bool) {
        let parts: Vec<Node> = rule.list(list).iter().filter_map(|item| item.get(part)).collect();
        (!parts.is_empty(), parts.iter().any(|part| !part.present(tcp).is_empty()))
    };
    let (from, tcp_from) = part(
        "from",
        "source",
        &[
            "principals",
            "notPrincipals",
            "namespaces",
            "notNamespaces",
            "serviceAccounts",
            "notServiceAccounts",
            "ipBlocks",
            "notIpBlocks",
            "remoteIpBlocks",
            "notRemoteIpBlocks",
        ],
    );
    let (to, tcp_to) = part("to", "operation", &["ports", "notPorts"]);
    if (from && !to && !tcp_from) || (to && !tcp_to) {
        report.add(
            Code::DeniesTcp,
            rule,
            "the rule asks for HTTP only, and TCP that is no HTTP is denied by it as a whole",
        );
    }
}

/// Agents carry out policies for workloads, and see no HTTP.
fn check_layer(action: &str, rule: &Node, report: &mut Report) {
    let attributes = http_attributes(rule);
    if let Some(first) = attributes.first() {
        let what = match action {
            "DENY" => "the rule denies without regard to it",
            "CUSTOM" => "the policy denies all that it would ask about",
            _ => "the rule is dropped",
        };
        let field = first.rsplit('.').next().unwrap_or(first);
        report.add_at(
            Code::FailsClosed,
            first.clone(),
            format!("agents see no HTTP, so that {field} cannot be asked for: {what}"),
        );
    }
}
