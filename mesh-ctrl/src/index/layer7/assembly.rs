//! Rules of several objects as the one list of a port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::l7::Protocol;
use mesh_core::l7::route::{
    Action, Backend, Entry, Fault, Forward, HeaderOps, HttpRoutes, Match, Respond, Retries, Rewrite, Rule, SourceMatch,
};

use super::{Compiler, Port};
use crate::index::cluster::{Age, Name};

/// Rules of one object, or of all routes of a kind that are put in one order.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) age: Age,
    pub(super) name: Name,
    pub(super) clients: Clients,
    /// With the index of the rule.
    pub(super) entries: Vec<(Match, usize)>,
    pub(super) rules: Vec<Rule>,
}

/// Whom rules are for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Clients {
    /// Those of these namespaces, in place of what is for all.
    Of(BTreeSet<Arc<str>>),
    All,
}

impl Compiler<'_> {
    pub(super) fn http(&mut self, port: &Port) -> Option<HttpRoutes> {
        if matches!(port.protocol, Protocol::Tcp | Protocol::Tls) {
            return None;
        }
        let mut all = self.virtual_services(port);
        all.extend(self.routes(port));
        all.retain(|rules| !rules.entries.is_empty());
        if all.is_empty() {
            return None;
        }
        let mut by_clients: BTreeMap<Clients, Vec<Rules>> = BTreeMap::new();
        for rules in all {
            by_clients.entry(rules.clients.clone()).or_default().push(rules);
        }
        let mut routes = HttpRoutes::default();
        let for_all = by_clients.remove(&Clients::All);
        for (clients, rules) in by_clients {
            let Clients::Of(namespaces) = clients else { continue };
            let source = SourceMatch { namespaces, workloads: None };
            let ends = add(&mut routes, rules, Some(&source));
            // What is for all is not for them: what meets no rule of theirs is answered as without any.
            if !ends {
                add_rule(&mut routes, Match { source: Some(source), ..Match::default() }, nothing());
            }
        }
        match for_all {
            Some(rules) => {
                add(&mut routes, rules, None);
            }
            None => {
                let rule = self.unsaid(port.number);
                add_rule(&mut routes, Match::default(), rule);
            }
        }
        Some(routes)
    }

    /// As if nobody had said anything.
    fn unsaid(&self, port: u16) -> Rule {
        let backend = Backend {
            weight: 1,
            to: self.itself(port),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            rewrite: None,
        };
        let forward = Forward { backends: vec![backend], rewrite: Rewrite::default(), otherwise: 503 };
        rule("default".into(), Action::Forward(forward))
    }
}

pub(super) fn rule(origin: Arc<str>, action: Action) -> Rule {
    Rule {
        origin,
        action,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        timeout: None,
        retries: Retries::default(),
        fault: Fault::default(),
        cors: None,
        mirrors: Vec::new(),
        session: None,
    }
}

fn nothing() -> Rule {
    rule("none".into(), Action::Respond(Respond { status: 404, body: Vec::new() }))
}

/// Adds rules, those of the older object first; true if the last of them takes every request.
fn add(routes: &mut HttpRoutes, mut all: Vec<Rules>, source: Option<&SourceMatch>) -> bool {
    all.sort_by(|a, b| (&a.age, &a.name).cmp(&(&b.age, &b.name)));
    for rules in all {
        let base = routes.rules.len();
        routes.rules.extend(rules.rules);
        let entries = rules.entries.into_iter().map(|(matches, rule)| Entry { matches, rule: base + rule });
        routes.entries.extend(entries);
    }
    let everything = Match { source: source.cloned(), ..Match::default() };
    routes.entries.last().is_some_and(|entry| entry.matches == everything)
}

fn add_rule(routes: &mut HttpRoutes, matches: Match, rule: Rule) {
    routes.entries.push(Entry { matches, rule: routes.rules.len() });
    routes.rules.push(rule);
}
