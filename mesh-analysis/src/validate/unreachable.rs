//! Rules of a VirtualService that no traffic gets to, because one before them takes all that they match.

use serde_json::Value;

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

pub(super) fn check(spec: &Node, report: &mut Report) {
    for protocol in ["http", "tls", "tcp"] {
        check_rules(protocol, &spec.list(protocol), report);
    }
}

fn check_rules(protocol: &str, rules: &[Node], report: &mut Report) {
    // Each with the rule that it is in.
    let mut before: Vec<(usize, Node)> = Vec::new();
    let mut catch_all: Option<usize> = None;
    for (index, rule) in rules.iter().enumerate() {
        if let Some(first) = catch_all {
            let message = format!("rule {first} ({}) takes everything", name(protocol, &rules[first]));
            report.add(Code::UnreachableRule, rule, message);
            continue;
        }
        let matches = rule.list("match");
        if matches.is_empty() {
            catch_all = Some(index);
            continue;
        }
        for condition in &matches {
            if let Some((by, wider)) = before.iter().find(|(_, wider)| covers(protocol, wider, condition)) {
                let place = if *by == index { "a match before it".to_owned() } else { format!("rule {by}") };
                let what = if wider.value == condition.value { "the same" } else { "all of this" };
                report.add(Code::UnreachableRule, condition, format!("{place} ({}) matches {what}", wider.path));
            }
            before.push((index, condition.clone()));
        }
        if matches.iter().any(|condition| is_catch_all(protocol, condition)) {
            catch_all = Some(index);
        }
    }
}

fn name<'a>(protocol: &'a str, rule: &Node<'a>) -> &'a str {
    match rule.text("name") {
        "" => protocol,
        name => name,
    }
}

/// A match without conditions, or by the prefix of every path.
fn is_catch_all(protocol: &str, condition: &Node) -> bool {
    let Some(fields) = condition.object() else { return false };
    fields.iter().filter(|(_, value)| !value.is_null()).all(|(field, value)| match field.as_str() {
        "name" | "statPrefix" | "ignoreUriCase" => true,
        "uri" => protocol == "http" && value.get("prefix").and_then(Value::as_str) == Some("/"),
        _ => false,
    })
}

/// Whether `wider` matches all that `narrower` matches. When that cannot be told, no.
fn covers(protocol: &str, wider: &Node, narrower: &Node) -> bool {
    let Some(conditions) = wider.object() else { return false };
    if wider.is_true("ignoreUriCase") != narrower.is_true("ignoreUriCase") {
        return false;
    }
    conditions.iter().filter(|(_, value)| !value.is_null()).all(|(field, value)| {
        let other = narrower.value.get(field);
        match field.as_str() {
            "name" | "statPrefix" | "ignoreUriCase" => true,
            "uri" | "scheme" | "method" | "authority" => other.is_some_and(|other| text_covers(value, other)),
            "headers" | "queryParams" if protocol == "http" => entries_cover(value, other),
            "sourceLabels" => labels_cover(value, other),
            _ => other == Some(value),
        }
    })
}

/// Whether each text that `narrower` matches is one that `wider` matches.
fn text_covers(wider: &Value, narrower: &Value) -> bool {
    if wider == narrower {
        return true;
    }
    let Some(prefix) = wider.get("prefix").and_then(Value::as_str) else { return false };
    let begins = |how| narrower.get(how).and_then(Value::as_str).is_some_and(|text| text.starts_with(prefix));
    begins("prefix") || begins("exact")
}

/// Every header that the wider match asks for, the narrower one asks for as strictly.
fn entries_cover(wider: &Value, narrower: Option<&Value>) -> bool {
    let Some(wider) = wider.as_object() else { return false };
    wider.iter().all(|(name, value)| {
        let other = narrower.and_then(|narrower| narrower.get(name));
        other.is_some_and(|other| is_presence(value) || text_covers(value, other))
    })
}

/// A header of any value.
fn is_presence(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn labels_cover(wider: &Value, narrower: Option<&Value>) -> bool {
    let Some(wider) = wider.as_object() else { return false };
    wider.iter().all(|(name, value)| narrower.and_then(|narrower| narrower.get(name)) == Some(value))
}
