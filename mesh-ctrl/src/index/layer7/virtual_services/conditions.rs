//! The `match` blocks of a VirtualService's rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::l7::route::{HeaderMatch, Match, PathKind, PathMatch, QueryMatch, SourceMatch};
use mesh_core::l7::text::TextMatch;
use mesh_core::workload::Uid;

use crate::index::cluster::{EVERYWHERE, Topic};
use crate::index::layer7::Compiler;
use crate::index::layer7::assembly::Clients;
use crate::object::text::Text;
use crate::object::virtual_service::{ClientMatch, HttpMatch};

impl Compiler<'_> {
    /// What a rule is for on a port, one condition for each block; none: for nothing.
    pub(super) fn conditions(&mut self, blocks: &[HttpMatch], clients: &Clients, port: u16) -> Vec<Match> {
        if blocks.is_empty() {
            let source = self.source(&ClientMatch::default(), clients);
            return source.map(|source| Match { source, ..Match::default() }).into_iter().collect();
        }
        let here = blocks.iter().filter(|block| [0, port].contains(&block.client.port));
        let here = here.filter(|block| block.client.is_for_mesh());
        here.filter_map(|block| Some(Match { source: self.source(&block.client, clients)?, ..of_request(block) }))
            .collect()
    }

    /// What is asked of the client; `None` if nobody can be that.
    pub(in crate::index::layer7) fn source(
        &mut self,
        client: &ClientMatch,
        clients: &Clients,
    ) -> Option<Option<SourceMatch>> {
        let asked = Some(client.source_namespace.clone()).filter(|namespace| !namespace.is_empty());
        let namespaces: BTreeSet<Arc<str>> = match (clients, asked.clone()) {
            (Clients::All, asked) => asked.into_iter().collect(),
            (Clients::Of(namespaces), None) => namespaces.clone(),
            (Clients::Of(namespaces), Some(asked)) if namespaces.contains(&asked) => BTreeSet::from([asked]),
            (Clients::Of(_), Some(_)) => return None,
        };
        let workloads = (!client.source_labels.is_empty()).then(|| self.workloads(client, asked.as_ref()));
        let source = SourceMatch { namespaces, workloads };
        Some(Some(source).filter(|source| *source != SourceMatch::default()))
    }

    fn workloads(&mut self, client: &ClientMatch, namespace: Option<&Arc<str>>) -> BTreeSet<Uid> {
        let scope = namespace.cloned().unwrap_or_else(|| EVERYWHERE.into());
        if let Some((key, value)) = client.source_labels.first_key_value() {
            self.read(Topic::Label(scope.clone(), key.clone(), value.clone()));
        }
        self.cluster.selected(&scope, &client.source_labels).map(|member| self.cluster.uid(member)).collect()
    }
}

fn of_request(block: &HttpMatch) -> Match {
    let text = |text: &Option<Text>| text.clone().map(|text| text.0).filter(|text| *text != TextMatch::Present);
    let header = |inverted: bool| {
        move |(name, value): (&Arc<str>, &Text)| HeaderMatch {
            name: name.to_lowercase().into(),
            value: value.0.clone(),
            inverted,
        }
    };
    let path = block.uri.as_ref().and_then(|uri| {
        let (kind, value) = match &uri.0 {
            TextMatch::Exact(value) => (PathKind::Exact, value),
            TextMatch::Prefix(value) => (PathKind::Prefix, value),
            TextMatch::Regex(value) => (PathKind::Regex, value),
            TextMatch::Suffix(_) | TextMatch::Present => return None,
        };
        Some(PathMatch { kind, value: value.clone(), ignore_case: block.ignore_uri_case })
    });
    Match {
        path,
        method: text(&block.method),
        scheme: text(&block.scheme),
        authority: text(&block.authority),
        headers: block
            .headers
            .iter()
            .map(header(false))
            .chain(block.without_headers.iter().map(header(true)))
            .collect(),
        query: block
            .query_params
            .iter()
            .map(|(name, value)| QueryMatch { name: name.clone(), value: value.0.clone() })
            .collect(),
        source: None,
    }
}
