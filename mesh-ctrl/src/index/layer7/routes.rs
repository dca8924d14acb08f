//! HTTPRoutes and GRPCRoutes of a service or its waypoint, in the Gateway API's order.
//!
//! All of them are one list: the more specific condition first, whichever route it stands in. Exact paths come before prefixes,
//! longer before shorter, regular expressions last.

mod conditions;
mod persistence;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::l7::route::{Action, Backend, Forward, Match, PathKind, Respond, Retries, Rule};

use super::assembly::{Clients, Rules, rule};
use super::backends::object_key;
use super::filters::Filtered;
use super::{Compiler, Port};
use crate::index::Built;
use crate::index::cluster::{Cluster, Name, RouteRef, Topic, attached_to};
use crate::object::http_filter::Filter;
use crate::object::http_route::{Retry, SessionPersistence, Timeouts, WeightedBackend};
use crate::object::reference::{ParentRef, Referent};
use crate::object::virtual_service::ClientMatch;
use crate::object::{Kind, ObjectKey};
use crate::source::{Code, Severity};

/// A rule of either kind.
struct Written<'a> {
    label: String,
    matches: Vec<Match>,
    filters: &'a [Filter],
    backends: &'a [WeightedBackend],
    timeouts: &'a Timeouts,
    retry: Option<&'a Retry>,
    session: Option<&'a SessionPersistence>,
}

/// Where an entry stands: smaller comes first.
type Place = (Reverse<u8>, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

impl<'a> Compiler<'a> {
    pub(super) fn routes(&mut self, port: &Port) -> Vec<Rules> {
        let mut by_clients: BTreeMap<Clients, Vec<RouteRef>> = BTreeMap::new();
        for (route, clients) in self.attached(port) {
            by_clients.entry(clients).or_default().push(route);
        }
        by_clients.into_iter().filter_map(|(clients, routes)| self.in_order(clients, &routes)).collect()
    }

    /// Routes for the same clients as one list, as old as the oldest of them.
    fn in_order(&mut self, clients: Clients, routes: &[RouteRef]) -> Option<Rules> {
        let RouteRef { age, name, .. } = routes.first()?.clone();
        let source = self.source(&ClientMatch::default(), &clients).flatten();
        let (mut entries, mut rules) = (Vec::new(), Vec::new());
        for route in routes {
            let object = object_key(route.kind, &route.name);
            for (i, written) in self.written(route).into_iter().enumerate() {
                let matches = written.matches.iter().map(|matches| Match { source: source.clone(), ..matches.clone() });
                entries.extend(matches.map(|matches| (matches, rules.len())));
                rules.push(self.route_rule(&written, &object, i));
            }
        }
        // What is equally specific keeps the order of age and name, which it came in.
        entries.sort_by_key(|(matches, _)| place(matches));
        Some(Rules { age, name, clients, entries, rules })
    }

    /// Routes for a port of the service, the oldest first, and for whom they are.
    fn attached(&mut self, port: &Port) -> Vec<(RouteRef, Clients)> {
        let routes = self.routes_attached(port);
        routes.into_iter().filter(|(route, _)| matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute)).collect()
    }

    /// Routes of every kind.
    pub(super) fn routes_attached(&mut self, port: &Port) -> Vec<(RouteRef, Clients)> {
        let cluster = self.cluster;
        let mut parents = vec![(Referent::Gateway, self.waypoint.clone())];
        if let Some(claim) = cluster.claim(self.service) {
            let referent = if claim.is_entry { Referent::ServiceEntry } else { Referent::Service };
            parents.push((referent, claim.name.clone()));
        }
        let mut found: BTreeSet<RouteRef> = BTreeSet::new();
        for parent in parents {
            let routes = cluster.layer7.routes_for.get(&parent).into_iter().flatten();
            let here = routes.filter(|route| {
                let (parents, hostnames) = cluster.parents_of(route.kind, &route.name);
                let on_port = |parent_ref: &&ParentRef| {
                    parent.0 == Referent::Gateway
                        || (parent_ref.port.is_none_or(|number| number == port.number)
                            && parent_ref.section_name.as_ref().is_none_or(|name| *name == port.name))
                };
                let named =
                    |parent_ref: &&ParentRef| attached_to(parent_ref, &route.name.namespace).as_ref() == Some(&parent);
                // Of a route for a service they say nothing, as in the reference.
                let for_host = parent.0 != Referent::Gateway || covers(hostnames, &self.service.hostname);
                for_host && parents.iter().filter(named).any(|parent_ref| on_port(&parent_ref))
            });
            found.extend(here.cloned());
            self.built.read(Topic::Routes(parent.0, parent.1));
        }
        let clients = |route: &RouteRef| match self.is_producer(&route.name.namespace) {
            true => Clients::All,
            false => Clients::Of(BTreeSet::from([route.name.namespace.clone()])),
        };
        found.into_iter().map(|route| (route.clone(), clients(&route))).collect()
    }

    fn written(&self, route: &RouteRef) -> Vec<Written<'a>> {
        static NO_TIMEOUTS: Timeouts = Timeouts { request: None, backend_request: None };
        let label = |name: &Arc<str>, i: usize| if name.is_empty() { i.to_string() } else { name.to_string() };
        let objects = &self.cluster.layer7;
        if route.kind == Kind::GrpcRoute {
            let rules = objects.grpc_routes.get(&route.name).into_iter().flat_map(|route| &route.spec.rules);
            let written = rules.enumerate().map(|(i, rule)| Written {
                label: label(&rule.name, i),
                matches: conditions::of_calls(&rule.matches),
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: &NO_TIMEOUTS,
                retry: None,
                session: rule.session_persistence.as_ref(),
            });
            return written.collect();
        }
        let rules = objects.http_routes.get(&route.name).into_iter().flat_map(|route| &route.spec.rules);
        let written = rules.enumerate().map(|(i, rule)| Written {
            label: label(&rule.name, i),
            matches: conditions::of_requests(&rule.matches),
            filters: &rule.filters,
            backends: &rule.backend_refs,
            timeouts: &rule.timeouts,
            retry: rule.retry.as_ref(),
            session: rule.session_persistence.as_ref(),
        });
        written.collect()
    }

    fn route_rule(&mut self, written: &Written<'_>, object: &ObjectKey, at: usize) -> Rule {
        let field = format!("spec.rules[{at}]");
        let filtered = self.filtered(written.filters, object, &format!("{field}.filters"));
        let origin = format!("{}/{}/{}#{}", object.kind.as_str(), object.namespace, object.name, written.label);
        let action = match (&filtered.redirect, filtered.is_unknown) {
            (_, true) => Action::Respond(Respond { status: 500, body: Vec::new() }),
            (Some(redirect), false) => Action::Redirect(redirect.clone()),
            (None, false) => Action::Forward(Forward {
                backends: self.route_backends(written.backends, object, &field),
                rewrite: filtered.rewrite.clone(),
                otherwise: if written.backends.is_empty() { 404 } else { 500 },
            }),
        };
        let retries = Retries {
            per_try_timeout: written.timeouts.backend_request.filter(|timeout| !timeout.is_zero()),
            ..written.retry.map(persistence::retries).unwrap_or_default()
        };
        Rule {
            session: written.session.map(persistence::session),
            request_headers: filtered.request,
            response_headers: filtered.response,
            timeout: written.timeouts.request.filter(|timeout| !timeout.is_zero()),
            retries,
            cors: filtered.cors,
            mirrors: filtered.mirrors,
            ..rule(origin.into(), action)
        }
    }

    fn route_backends(&mut self, from: &[WeightedBackend], object: &ObjectKey, field: &str) -> Vec<Backend> {
        let backends = from.iter().enumerate().map(|(i, backend)| {
            let field = format!("{field}.backendRefs[{i}]");
            let to = self.backend(&backend.backend, object, &field);
            let filtered = self.filtered(&backend.filters, object, &format!("{field}.filters"));
            let to = if filtered.is_unknown || filtered.redirect.is_some() { Filtered::refusal() } else { to };
            let rewrite = Some(filtered.rewrite).filter(|rewrite| *rewrite != mesh_core::l7::route::Rewrite::default());
            let (request_headers, response_headers) = (filtered.request, filtered.response);
            Backend { weight: backend.weight, to, request_headers, response_headers, rewrite }
        });
        backends.collect()
    }
}

/// As the reference sorts, the length of whatever is compared included.
fn place(matches: &Match) -> Place {
    let path = matches.path.as_ref();
    let rank = path.map_or(0, |path| match path.kind {
        PathKind::Exact => 3,
        PathKind::Prefix | PathKind::Elements => 2,
        PathKind::Regex => 1,
    });
    let length = path.map_or(0, |path| path.value.len());
    let (headers, query) = (matches.headers.len(), matches.query.len());
    (Reverse(rank), Reverse(length), Reverse(matches.method.is_some()), Reverse(headers), Reverse(query))
}

fn covers(hostnames: &[Arc<str>], hostname: &str) -> bool {
    let covers = |host: &Arc<str>| match host.strip_prefix('*') {
        Some(end) => hostname.ends_with(end),
        None => **host == *hostname,
    };
    hostnames.is_empty() || hostnames.iter().any(covers)
}

impl Cluster {
    /// What a route is attached to, and the hostnames that it names.
    pub(in crate::index) fn parents_of(&self, kind: Kind, name: &Name) -> (&[ParentRef], &[Arc<str>]) {
        let objects = &self.layer7;
        match kind {
            Kind::HttpRoute => objects.http_routes.get(name).map(|r| (&*r.spec.parent_refs, &*r.spec.hostnames)),
            Kind::GrpcRoute => objects.grpc_routes.get(name).map(|r| (&*r.spec.parent_refs, &*r.spec.hostnames)),
            // The hostnames of a TLSRoute are names in a handshake.
            _ => objects.stream_routes.get(&(kind, name.clone())).map(|r| (&*r.spec.parent_refs, &[][..])),
        }
        .unwrap_or_default()
    }

    /// Says where a route is attached to what it cannot be in force for.
    pub(in crate::index) fn check_route(&self, kind: Kind, name: &Name, built: &mut Built) {
        let object = object_key(kind, name);
        let (parents, _) = self.parents_of(kind, name);
        for (i, parent) in parents.iter().enumerate() {
            let field = Some(format!("spec.parentRefs[{i}]"));
            let mut say = |severity, code, message: String| {
                built.finding(severity, code, object.clone(), field.clone(), message);
            };
            let Some((referent, parent_name)) = attached_to(parent, &name.namespace) else {
                say(Severity::Warning, Code::NoEffect, format!("routes are not attached to a {}", parent.kind));
                continue;
            };
            let shown = format!("{} {}/{}", parent.kind, parent_name.namespace, parent_name.name);
            match self.is_in_force_at(referent, &parent_name, built) {
                Some(true) => {}
                Some(false) => {
                    let message = format!("no waypoint serves {shown}; the route is not in force for it");
                    built.finding(Severity::Warning, Code::NoEffect, object.clone(), field, message);
                }
                None => {
                    let message = format!("there is no {shown}");
                    built.finding(Severity::Warning, Code::Unresolved, object.clone(), field, message);
                }
            }
        }
        for (i, session) in self.sessions_of(kind, name).into_iter().enumerate() {
            if session.is_some_and(|session| session.idle_timeout.is_some()) {
                let field = Some(format!("spec.rules[{i}].sessionPersistence.idleTimeout"));
                let message = "a session ends by absoluteTimeout alone".to_owned();
                built.finding(Severity::Info, Code::NoEffect, object.clone(), field, message);
            }
        }
    }

    /// By rule.
    fn sessions_of(&self, kind: Kind, name: &Name) -> Vec<Option<&SessionPersistence>> {
        let objects = &self.layer7;
        let http = objects.http_routes.get(name).filter(|_| kind == Kind::HttpRoute);
        let http = http.into_iter().flat_map(|route| &route.spec.rules).map(|rule| rule.session_persistence.as_ref());
        let grpc = objects.grpc_routes.get(name).filter(|_| kind == Kind::GrpcRoute);
        let grpc = grpc.into_iter().flat_map(|route| &route.spec.rules).map(|rule| rule.session_persistence.as_ref());
        http.chain(grpc).collect()
    }

    /// Whether a waypoint carries out what is attached to something; `None` if that is not there.
    pub(super) fn is_in_force_at(&self, referent: Referent, name: &Name, built: &mut Built) -> Option<bool> {
        match referent {
            Referent::Gateway => {
                built.read(Topic::Gateway(name.clone()));
                self.layer7.gateways.get(name).map(|_| self.waypoint_gateway(name, built).is_some())
            }
            Referent::GatewayClass => {
                Some(name.namespace == self.config.root_namespace && Self::is_waypoint_class(&name.name))
            }
            Referent::Service => {
                let host = self.hostname(name);
                built.read(Topic::Host(host.clone()));
                self.services.get(name).map(|_| self.is_at_waypoint(&host, built))
            }
            Referent::ServiceEntry => {
                built.read(Topic::Services(name.namespace.clone()));
                let entry = self.service_entries.get(name)?;
                Some(entry.hosts.iter().any(|host| self.is_at_waypoint(host, built)))
            }
        }
    }
}
