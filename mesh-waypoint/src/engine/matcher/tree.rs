//! Entries by the text of their path: a radix tree over bytes.

use mesh_core::l7::route::PathKind;

use super::condition::{elements, is_boundary};

#[derive(Clone, Debug)]
pub(super) struct Tree {
    ignore_case: bool,
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Bytes between the node above and this one, in lower case where case is ignored.
    label: Box<[u8]>,
    /// By the first byte of their label, ascending.
    below: Vec<(u8, u32)>,
    above: u32,
    /// Length of the text that ends here.
    depth: u32,
    /// Entries whose text ends here, ascending.
    exact: Vec<u32>,
    prefixes: Vec<u32>,
    elements: Vec<u32>,
}

impl Tree {
    pub(super) fn new(ignore_case: bool) -> Self {
        Self { ignore_case, nodes: vec![Node::default()] }
    }

    /// Entries come in ascending order.
    pub(super) fn insert(&mut self, kind: PathKind, text: &str, entry: u32) {
        let text = if kind == PathKind::Elements { elements(text) } else { text };
        let key = if self.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let at = self.place(key.as_bytes());
        let node = &mut self.nodes[at as usize];
        match kind {
            PathKind::Exact => node.exact.push(entry),
            PathKind::Elements => node.elements.push(entry),
            PathKind::Prefix | PathKind::Regex => node.prefixes.push(entry),
        }
    }

    /// Shows the entries whose path holds, in several lists, each of which ascends; those with the longest text first, because
    /// the first to hold is mostly among them.
    pub(super) fn candidates(&self, path: &[u8], mut show: impl FnMut(&[u32])) {
        let (mut at, mut depth) = (0, 0);
        while let Some(next) = path.get(depth).and_then(|first| self.below(at, *first)) {
            let label = &self.nodes[next as usize].label;
            let Some(part) = path.get(depth..depth + label.len()) else { break };
            let same = if self.ignore_case { part.eq_ignore_ascii_case(label) } else { *part == **label };
            if !same {
                break;
            }
            depth += label.len();
            at = next;
        }
        if depth == path.len() {
            show(&self.nodes[at as usize].exact);
        }
        loop {
            let node = &self.nodes[at as usize];
            if is_boundary(&path[node.depth as usize..]) {
                show(&node.elements);
            }
            show(&node.prefixes);
            if at == 0 {
                return;
            }
            at = node.above;
        }
    }

    fn below(&self, at: u32, first: u8) -> Option<u32> {
        let first = if self.ignore_case { first.to_ascii_lowercase() } else { first };
        let below = &self.nodes[at as usize].below;
        below.binary_search_by_key(&first, |(byte, _)| *byte).ok().map(|found| below[found].1)
    }

    /// The node where this text ends, made if there is none.
    fn place(&mut self, text: &[u8]) -> u32 {
        let (mut at, mut rest) = (0, text);
        while let Some(first) = rest.first() {
            let Some(next) = self.below(at, *first) else { return self.hang(at, rest) };
            let label = &self.nodes[next as usize].label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            at = if common < label.len() { self.split(next, common) } else { next };
            rest = &rest[common..];
        }
        at
    }

    fn hang(&mut self, above: u32, label: &[u8]) -> u32 {
        let depth = self.nodes[above as usize].depth + label.len() as u32;
        let new = self.nodes.len() as u32;
        self.nodes.push(Node { label: label.into(), above, depth, ..Node::default() });
        let below = &mut self.nodes[above as usize].below;
        let at = below.partition_point(|(byte, _)| *byte < label[0]);
        below.insert(at, (label[0], new));
        new
    }

    /// Makes a node for the first `common` bytes of a node's label, between it and the one above.
    fn split(&mut self, lower: u32, common: usize) -> u32 {
        let new = self.nodes.len() as u32;
        let node = &mut self.nodes[lower as usize];
        let (first, rest) = node.label.split_at(common);
        let (first, rest): (Box<[u8]>, Box<[u8]>) = (first.into(), rest.into());
        let (above, depth) = (node.above, node.depth - rest.len() as u32);
        let below = vec![(rest[0], lower)];
        node.label = rest;
        node.above = new;
        for (byte, child) in &mut self.nodes[above as usize].below {
            if *byte == first[0] {
                *child = new;
            }
        }
        self.nodes.push(Node { label: first, below, above, depth, ..Node::default() });
        new
    }
}
