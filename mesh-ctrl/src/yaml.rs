//! YAML and JSON text to JSON values that remember their lines.
//!
//! JSON is read by the same parser (it is YAML 1.2), so that findings in both have lines. What a hostile or broken file can
//! cost is bounded: by its size, by depth, and by the number of values that aliases may make.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Bounds on one file.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes. `kubectl get pods -A -o yaml` of 10,000 pods is about 60 MB.
    pub file_bytes: u64,
    /// Nesting. Kubernetes' own API refuses JSON nested deeper than 10,000; real objects stay below 30.
    pub depth: usize,
    /// Values in one file.
    pub nodes: usize,
    /// Values that anchors keep and aliases make, beyond those that stand in the text. Manifests that use them at all
    /// repeat a few labels; the classic bomb makes 10^9 of a kilobyte.
    pub expanded: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 256 << 20, depth: 100, nodes: 20_000_000, expanded: 100_000 }
    }
}

/// A value and the line (from 1) on which it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) line: u32,
    content: Content,
    /// Nodes in this tree, itself included.
    size: usize,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    /// Key, line of the key, value; in the order of the text.
    Map(Vec<(String, u32, Node)>),
}

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Node,
    /// A mistake that is no matter of syntax: the document is refused alone.
    pub(crate) mistake: Option<Mistake>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Reads all documents of a file; empty ones are left out.
///
/// # Errors
/// The text is no YAML, or exceeds a limit.
pub(crate) fn documents(text: &str, limits: &Limits) -> Result<Vec<Document>, Mistake> {
    let mut options = granit_parser::Options::default();
    options.flow_nesting_limit = limits.depth;
    options.block_nesting_limit = limits.depth;
    let mut builder = Builder::new(limits);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            next.map_err(|error| Mistake { line: line(error.marker().line()), message: error.info().to_string() })?;
        builder.event(event, line(span.start.line()))?;
    }
    Ok(builder.documents)
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

struct Builder<'a> {
    limits: &'a Limits,
    documents: Vec<Document>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    mistake: Option<Mistake>,
    nodes: usize,
    expanded: usize,
}

/// A collection whose end has not come yet.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<(String, u32)>,
}

impl<'a> Builder<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            mistake: None,
            nodes: 0,
            expanded: 0,
        }
    }

    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), Mistake> {
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.mistake = None;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().and_then(|tag| tag.core_suffix());
                let content = Content::Scalar(scalar(&text, style, tag));
                self.complete(Node { line, content, size: 1 }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => self.begin(Content::List(Vec::new()), anchor, line)?,
            Event::MappingStart(_, anchor, _) => self.begin(Content::Map(Vec::new()), anchor, line)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.complete(open.node, open.anchor)?;
                }
            }
            Event::Alias(id) => {
                let Some(size) = self.anchors.get(&id).map(|node| node.size) else {
                    return Err(Mistake { line, message: "an alias inside the value that it stands for".to_owned() });
                };
                // Counted before it is copied: this is what a bomb is made of.
                self.expand(size, line)?;
                if let Some(node) = self.anchors.get(&id).cloned() {
                    self.place(node)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, content: Content, anchor: usize, line: u32) -> Result<(), Mistake> {
        if self.open.len() >= self.limits.depth {
            return Err(Mistake { line, message: format!("nested deeper than {}", self.limits.depth) });
        }
        self.open.push(Open { node: Node { line, content, size: 1 }, anchor, key: None });
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Mistake> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(Mistake { line: node.line, message: format!("more than {} values", self.limits.nodes) });
        }
        if anchor != 0 {
            self.expand(node.size, node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn place(&mut self, node: Node) -> Result<(), Mistake> {
        // Aliases can make a tree deeper than the text is.
        if node.size > 1 && self.open.len() + node.depth() > self.limits.depth {
            return Err(Mistake { line: node.line, message: format!("nested deeper than {}", self.limits.depth) });
        }
        let Some(parent) = self.open.last_mut() else {
            if !matches!(node.content, Content::Scalar(Value::Null)) {
                self.documents.push(Document { root: node, mistake: self.mistake.take() });
            }
            return Ok(());
        };
        let mut mistake = None;
        parent.node.size = parent.node.size.saturating_add(node.size);
        match (&mut parent.node.content, parent.key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Map(_), None) => match node.content {
                Content::Scalar(key) => {
                    let key = match key {
                        Value::String(key) => key,
                        other => other.to_string(),
                    };
                    parent.key = Some((key, node.line));
                }
                _ => {
                    mistake = Some("a key that is no scalar");
                    parent.key = Some((String::new(), node.line));
                }
            },
            (Content::Map(entries), Some((key, _))) if key == "<<" => merge(entries, node, &mut mistake),
            (Content::Map(entries), Some((key, line))) => {
                // Merged entries come last and give way; short maps make a linear search the quick one.
                if entries.iter().any(|(k, l, _)| *k == key && *l != MERGED) {
                    self.mistake.get_or_insert_with(|| Mistake { line, message: format!("key {key:?} stands twice") });
                }
                entries.retain(|(k, l, _)| *k != key || *l != MERGED);
                entries.push((key, line, node));
            }
            (Content::Scalar(_), _) => {}
        }
        if let (Some(message), None) = (mistake, &self.mistake) {
            let line = parent.key.as_ref().map_or(parent.node.line, |(_, line)| *line);
            self.mistake = Some(Mistake { line, message: message.to_owned() });
        }
        Ok(())
    }

    fn expand(&mut self, size: usize, line: u32) -> Result<(), Mistake> {
        self.expanded = self.expanded.saturating_add(size);
        match self.expanded > self.limits.expanded {
            true => Err(Mistake { line, message: format!("aliases make more than {} values", self.limits.expanded) }),
            false => Ok(()),
        }
    }
}

/// Line of a key that came by `<<` and yields to one that is written out.
const MERGED: u32 = 0;

fn merge(entries: &mut Vec<(String, u32, Node)>, node: Node, mistake: &mut Option<&'static str>) {
    match node.content {
        Content::Map(merged) => {
            for (key, _, value) in merged {
                if !entries.iter().any(|(k, ..)| *k == key) {
                    entries.push((key, MERGED, value));
                }
            }
        }
        Content::List(maps) if maps.iter().all(|m| matches!(m.content, Content::Map(_))) => {
            maps.into_iter().for_each(|map| merge(entries, map, mistake));
        }
        _ => *mistake = Some("<< takes a map or a list of maps"),
    }
}

impl Node {
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(key, ..)| key == name).map(|(_, _, node)| node),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> Option<&[Node]> {
        match &self.content {
            Content::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Node::value).collect()),
            Content::Map(entries) => {
                let mut map = Map::new();
                for (key, _, node) in entries {
                    map.entry(key.as_str()).or_insert_with(|| node.value());
                }
                Value::Object(map)
            }
        }
    }

    /// Line of the field at `path` (`spec.rules[0].from`), or of the nearest one around it.
    pub(crate) fn line_of(&self, path: &str) -> u32 {
        let (mut node, mut line, mut rest) = (self, self.line, path);
        while !rest.is_empty() {
            match &node.content {
                // Keys hold dots and brackets themselves: the longest key that the rest of the path begins with.
                Content::Map(entries) => {
                    let found = entries
                        .iter()
                        .filter(|(key, ..)| {
                            rest.strip_prefix(key.as_str())
                                .is_some_and(|tail| tail.is_empty() || tail.starts_with(['.', '[']))
                        })
                        .max_by_key(|(key, ..)| key.len());
                    let Some((key, key_line, child)) = found else { return line };
                    line = if *key_line == MERGED { child.line } else { *key_line };
                    rest = &rest[key.len()..];
                    node = child;
                }
                Content::List(items) => {
                    let index = rest.strip_prefix('[').and_then(|r| r.split_once(']'));
                    let Some((index, tail)) = index else { return line };
                    let Some(child) = index.parse::<usize>().ok().and_then(|i| items.get(i)) else { return line };
                    line = child.line;
                    rest = tail;
                    node = child;
                }
                Content::Scalar(_) => return line,
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
        }
        line
    }

    fn depth(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Content::Map(entries) => 1 + entries.iter().map(|(_, _, n)| n.depth()).max().unwrap_or(0),
        }
    }
}

/// YAML 1.2's core schema. The words yes, no, on and off stay text, as kubectl's own output quotes them.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Value {
    if style != ScalarStyle::Plain || tag == Some("str") {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Number::from);
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let text = text.strip_prefix('+').unwrap_or(text);
        return text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from)).ok();
    }
    if !unsigned.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b)) {
        return None;
    }
    text.parse::<f64>().ok().and_then(Number::from_f64)
}
