//! A value within an object that knows its path, so that whoever finds fault with it can say where it is.

use serde_json::{Map, Value};

/// `null` is absent, as it is in protobuf's JSON and in the API server's pruning.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> Node<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Node<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Node { value, path: self.child(name) })
    }

    /// A field of a field, and so on.
    pub(crate) fn at(&self, names: &[&str]) -> Option<Node<'a>> {
        names.iter().try_fold(self.clone(), |node, name| node.get(name))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Which of these fields are set.
    pub(crate) fn present<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        names.iter().copied().filter(|name| self.has(name)).collect()
    }

    /// Items of a list; nothing for anything else.
    pub(crate) fn items(&self) -> Vec<Node<'a>> {
        let Value::Array(items) = self.value else { return Vec::new() };
        let item = |(index, value)| Node { value, path: format!("{}[{index}]", self.path) };
        items.iter().enumerate().filter(|(_, value)| !value.is_null()).map(item).collect()
    }

    /// Items of a list in a field.
    pub(crate) fn list(&self, name: &str) -> Vec<Node<'a>> {
        self.get(name).map(|list| list.items()).unwrap_or_default()
    }

    /// Entries of a map; nothing for anything else.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Node<'a>)> {
        let Value::Object(entries) = self.value else { return Vec::new() };
        let entry = |(key, value): (&'a String, &'a Value)| {
            (key.as_str(), Node { value, path: format!("{}[{key}]", self.path) })
        };
        entries.iter().filter(|(_, value)| !value.is_null()).map(entry).collect()
    }

    /// Entries of a map in a field.
    pub(crate) fn map(&self, name: &str) -> Vec<(&'a str, Node<'a>)> {
        self.get(name).map(|map| map.entries()).unwrap_or_default()
    }

    pub(crate) fn object(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    pub(crate) fn str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Text in a field; empty if it is missing or no text.
    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.value.get(name).and_then(Value::as_i64)
    }

    pub(crate) fn float(&self, name: &str) -> Option<f64> {
        self.value.get(name).and_then(Value::as_f64)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// All text in a list in a field.
    pub(crate) fn texts(&self, name: &str) -> Vec<&'a str> {
        self.list(name).iter().filter_map(Node::str).collect()
    }

    pub(crate) fn child(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }
}
