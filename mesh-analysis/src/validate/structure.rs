//! Whether an object is built as its table says. The same that the API server checks by the CRD, in better words; what an API
//! server would drop without a word, an unknown field, is an error here.

use std::collections::HashSet;

use serde_json::Value;

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::schema::{Field, Group, Integer, Item, List, ListKind, Map, Remark, Shape, Text, Type};
use crate::syntax::{duration, pattern};

pub(super) fn check(shape: &Shape, node: &Node, report: &mut Report) {
    let Some(entries) = node.object() else {
        return wrong_type(node, "an object with fields", report);
    };
    for (name, value) in entries {
        if value.is_null() {
            continue;
        }
        match shape.field(name) {
            Some(field) => check_field(field, &Node { value, path: node.child(name) }, report),
            None if shape.open => {}
            None => report.add_at(Code::UnknownField, node.child(name), unknown(name, shape)),
        }
    }
    for field in shape.fields.iter().filter(|field| field.required && !node.has(field.name)) {
        report.add_at(Code::MissingField, node.child(field.name), format!("{} is missing", field.name));
    }
    for group in shape.groups {
        check_group(group, node, report);
    }
}

/// The known word that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= (known.len().min(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn unknown(name: &str, shape: &Shape) -> String {
    match nearest(name, shape.fields.iter().map(|field| field.name)) {
        Some(near) => format!("there is no field {name:?} here; did you mean {near:?}?"),
        None if shape.fields.len() <= FEW => {
            let known: Vec<&str> = shape.fields.iter().map(|field| field.name).collect();
            format!("there is no field {name:?} here; known: {}", known.join(", "))
        }
        None => format!("there is no field {name:?} here"),
    }
}

/// Fields that still make a sentence.
const FEW: usize = 8;

fn check_field(field: &Field, node: &Node, report: &mut Report) {
    match field.remark {
        Some(Remark::Deprecated(instead)) => {
            report.add(Code::DeprecatedField, node, format!("{} is deprecated: use {instead}", field.name));
        }
        Some(Remark::NotCarriedOut(why)) => {
            report.add(Code::WithoutEffect, node, format!("{} has no effect: {why}", field.name));
        }
        None => {}
    }
    check_value(&field.of, node, report);
}

fn check_value(of: &Type, node: &Node, report: &mut Report) {
    match (of, node.value) {
        (Type::Text(text), Value::String(value)) => check_text(text, value, node, report),
        (Type::Text(_), _) => wrong_type(node, "text", report),
        (Type::Choice(values), Value::String(value)) => check_choice(values, value, node, report),
        (Type::Choice(_), _) => wrong_type(node, "text", report),
        (Type::Duration { least_ms }, Value::String(value)) => check_duration(*least_ms, value, node, report),
        (Type::Duration { .. }, _) => wrong_type(node, "a duration as text, such as 30s", report),
        (Type::Integer(integer), Value::Number(_)) => check_integer(integer, node, report),
        (Type::Integer(_), _) => wrong_type(node, "a whole number", report),
        (Type::Number { least, most }, Value::Number(_)) => check_number(*least, *most, node, report),
        (Type::Number { .. }, _) => wrong_type(node, "a number", report),
        (Type::Boolean, Value::Bool(_)) => {}
        (Type::Boolean, _) => wrong_type(node, "true or false", report),
        (Type::Object(shape), _) => check(shape, node, report),
        (Type::List(list), Value::Array(_)) => check_list(list, node, report),
        (Type::List(_), _) => wrong_type(node, "a list", report),
        (Type::Map(map), Value::Object(_)) => check_map(map, node, report),
        (Type::Map(_), _) => wrong_type(node, "an object with entries", report),
        (Type::Opaque, Value::Object(_)) => {}
        (Type::Opaque, _) => wrong_type(node, "an object", report),
        (Type::IntOrString, Value::Number(_) | Value::String(_)) => {}
        (Type::IntOrString, _) => wrong_type(node, "a number or text", report),
    }
}

fn wrong_type(node: &Node, wanted: &str, report: &mut Report) {
    let found = match node.value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the text {value:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    report.add(Code::WrongType, node, format!("{wanted} is expected here, found {found}"));
}

fn check_text(text: &Text, value: &str, node: &Node, report: &mut Report) {
    let length = value.chars().count();
    if length < text.least as usize {
        let message = match text.least {
            1 => "the text is empty".to_owned(),
            least => format!("{value:?} has {length} characters, {least} is the least"),
        };
        report.add(Code::BadFormat, node, message);
    } else if let Some(most) = text.most.filter(|most| length > *most as usize) {
        let message = match most {
            0 => format!("{value:?} cannot be set here"),
            most => format!("the text has {length} characters, {most} is the most"),
        };
        report.add(Code::BadFormat, node, message);
    } else if let Some(pattern) = text.pattern
        && !pattern::matches(pattern, value)
    {
        report.add(Code::BadFormat, node, format!("{value:?} does not match {pattern}"));
    }
}

fn check_choice(values: &[&str], value: &str, node: &Node, report: &mut Report) {
    if !values.contains(&value) {
        let meant = nearest(value, values.iter().copied());
        let end = meant.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        report.add(Code::UnknownValue, node, format!("{value:?} is none of {}{end}", values.join(", ")));
    }
}

fn check_duration(least_ms: u32, value: &str, node: &Node, report: &mut Report) {
    match duration::parse(value) {
        None => report.add(Code::BadDuration, node, format!("{value:?} is no duration")),
        Some(duration) if duration.as_nanos() < u128::from(least_ms) * 1_000_000 => {
            report.add(Code::BadDuration, node, format!("{value} is shorter than {least_ms}ms"));
        }
        // Istio refuses what it would have to round.
        Some(duration) if duration.subsec_nanos() % 1_000_000 != 0 => {
            report.add(Code::BadDuration, node, format!("{value} is no whole number of milliseconds"));
        }
        Some(_) => {}
    }
}

fn check_integer(integer: &Integer, node: &Node, report: &mut Report) {
    let Some(value) = whole(node.value) else {
        return wrong_type(node, "a whole number", report);
    };
    if !integer.choices.is_empty() {
        if !integer.choices.contains(&value) {
            let choices: Vec<String> = integer.choices.iter().map(i64::to_string).collect();
            report.add(Code::OutOfRange, node, format!("{value} is none of {}", choices.join(", ")));
        }
    } else if value < integer.least {
        report.add(Code::OutOfRange, node, format!("{value} is less than {}", integer.least));
    } else if value > integer.most {
        report.add(Code::OutOfRange, node, format!("{value} is more than {}", integer.most));
    }
}

/// `1.0` is a whole number to an API server; what does not fit 64 bits is out of every range.
fn whole(value: &Value) -> Option<i64> {
    if let Some(value) = value.as_i64() {
        return Some(value);
    }
    if value.as_u64().is_some() {
        return Some(i64::MAX);
    }
    value.as_f64().filter(|value| value.fract() == 0.0).map(|value| value as i64)
}

fn check_number(least: Option<f64>, most: Option<f64>, node: &Node, report: &mut Report) {
    let Some(value) = node.value.as_f64() else { return };
    if let Some(least) = least.filter(|least| value < *least) {
        report.add(Code::OutOfRange, node, format!("{value} is less than {least}"));
    } else if let Some(most) = most.filter(|most| value > *most) {
        report.add(Code::OutOfRange, node, format!("{value} is more than {most}"));
    }
}

fn check_list(list: &List, node: &Node, report: &mut Report) {
    let items = node.items();
    // In a list a place that is left empty is no place that is left out.
    if node.value.as_array().is_some_and(|all| all.len() > items.len()) {
        report.add(Code::WrongType, node, "the list has an item that is null");
    }
    count("items", items.len(), list.least, list.most, node, report);
    let mut seen = HashSet::new();
    for item in &items {
        check_item(list.item, item, report);
        if let Some(key) = key(list.kind, item)
            && !seen.insert(key.clone())
        {
            report.add(Code::DuplicateEntry, item, format!("{key} is in the list already"));
        }
    }
}

/// What an entry is told apart by.
fn key(kind: ListKind, item: &Node) -> Option<String> {
    match kind {
        ListKind::Plain | ListKind::Atomic => None,
        ListKind::Set => Some(item.value.to_string()),
        ListKind::Map(keys) => {
            let value = |key: &&str| item.value.get(*key).map(Value::to_string).unwrap_or_default();
            Some(keys.iter().map(value).collect())
        }
    }
}

fn check_map(map: &Map, node: &Node, report: &mut Report) {
    let entries = node.entries();
    count("entries", entries.len(), map.least, map.most, node, report);
    for (_, entry) in &entries {
        check_item(map.value, entry, report);
    }
}

fn check_item(item: Item, node: &Node, report: &mut Report) {
    match item {
        Item::Of(of) => check_value(of, node, report),
        Item::Object(shape) => check(shape, node, report),
    }
}

fn count(what: &str, found: usize, least: u32, most: Option<u32>, node: &Node, report: &mut Report) {
    if found < least as usize {
        report.add(Code::WrongCount, node, format!("{found} {what}, {least} is the least"));
    } else if let Some(most) = most.filter(|most| found > *most as usize) {
        report.add(Code::WrongCount, node, format!("{found} {what}, {most} is the most"));
    }
}

fn check_group(group: &Group, node: &Node, report: &mut Report) {
    let (fields, needed) = match group {
        Group::AtMostOne(fields) => (fields, false),
        Group::ExactlyOne(fields) => (fields, true),
    };
    let present = node.present(fields);
    if present.len() > 1 {
        report.add(Code::ExcludingFields, node, format!("{} exclude each other", present.join(" and ")));
    } else if needed && present.is_empty() {
        report.add(Code::MissingField, node, format!("one of {} is needed", fields.join(", ")));
    }
}
