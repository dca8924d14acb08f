//! Rules for connections: `tcp` and `tls` of VirtualServices, TCPRoutes and TLSRoutes. Those of the clients' namespaces come
//! first, then the older object's.

use std::sync::Arc;

use mesh_core::l7::Protocol;
use mesh_core::l7::route::{BackendRef, SourceMatch, TcpRoute, TlsRoute};

use super::assembly::Clients;
use super::backends::object_key;
use super::{Compiler, Port};
use crate::index::cluster::{Age, Name};
use crate::object::virtual_service::{ClientMatch, ConnectionMatch, RouteDestination};
use crate::object::{Kind, ObjectKey, StreamRoute};

/// In the order in which rules are looked at.
type Place = (Clients, Age, Name);

impl<'a> Compiler<'a> {
    pub(super) fn tcp(&mut self, port: &Port) -> Vec<TcpRoute> {
        let mut found: Vec<(Place, TcpRoute)> = Vec::new();
        for about in self.about_service() {
            for (i, rule) in about.rules.spec.tcp.iter().enumerate() {
                let Some(sources) = self.sources(&rule.matches, &about.clients, port) else { continue };
                let field = format!("spec.tcp[{i}]");
                let backends = self.stream_destinations(&rule.route, port, &about.object, &field);
                let route = TcpRoute { origin: origin(&about.object, &i.to_string()), sources, backends };
                found.push((about.place(), route));
            }
        }
        for (place, object, route) in self.stream_routes(port, Kind::TcpRoute) {
            found.extend(self.stream_rules(&place.0, &object, route).into_iter().map(|then| (place.clone(), then)));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(_, route)| route).collect()
    }

    pub(super) fn tls(&mut self, port: &Port) -> Vec<TlsRoute> {
        if !matches!(port.protocol, Protocol::Tls | Protocol::Tcp | Protocol::Detect) {
            return Vec::new();
        }
        let mut found: Vec<(Place, TlsRoute)> = Vec::new();
        for about in self.about_service() {
            for (i, rule) in about.rules.spec.tls.iter().enumerate() {
                for block in &rule.matches {
                    let blocks = std::slice::from_ref(block);
                    let Some(sources) = self.sources(blocks, &about.clients, port) else { continue };
                    let field = format!("spec.tls[{i}]");
                    let backends = self.stream_destinations(&rule.route, port, &about.object, &field);
                    let then = TcpRoute { origin: origin(&about.object, &i.to_string()), sources, backends };
                    found.push((about.place(), TlsRoute { sni: lower(&block.sni_hosts), then }));
                }
            }
        }
        for (place, object, route) in self.stream_routes(port, Kind::TlsRoute) {
            let rules = self.stream_rules(&place.0, &object, route).into_iter();
            let rules = rules.map(|then| TlsRoute { sni: lower(&route.spec.hostnames), then });
            found.extend(rules.map(|rule| (place.clone(), rule)));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(_, route)| route).collect()
    }

    fn stream_routes(&mut self, port: &Port, kind: Kind) -> Vec<(Place, ObjectKey, &'a StreamRoute)> {
        let cluster = self.cluster;
        let routes = self.routes_attached(port).into_iter().filter(|(route, _)| route.kind == kind);
        let routes = routes.filter_map(|(route, clients)| {
            let object = object_key(kind, &route.name);
            let found = cluster.layer7.stream_routes.get(&(kind, route.name.clone()))?;
            Some(((clients, route.age, route.name), object, found))
        });
        routes.collect()
    }

    fn stream_rules(&mut self, clients: &Clients, object: &ObjectKey, route: &StreamRoute) -> Vec<TcpRoute> {
        let sources: Vec<_> = self.source(&ClientMatch::default(), clients).flatten().into_iter().collect();
        let rules = route.spec.rules.iter().enumerate().map(|(i, rule)| {
            let label = if rule.name.is_empty() { i.to_string() } else { rule.name.to_string() };
            let backends = rule.backend_refs.iter().enumerate().map(|(j, backend)| {
                let field = format!("spec.rules[{i}].backendRefs[{j}]");
                (backend.weight, self.backend(&backend.backend, object, &field))
            });
            let backends = backends.collect();
            TcpRoute { origin: origin(object, &label), sources: sources.clone(), backends }
        });
        rules.collect()
    }

    /// Clients that a rule is for; empty: all. `None`: it is not for this port, or for nobody.
    fn sources(&mut self, blocks: &[ConnectionMatch], clients: &Clients, port: &Port) -> Option<Vec<SourceMatch>> {
        if blocks.is_empty() {
            return Some(self.source(&ClientMatch::default(), clients)?.into_iter().collect());
        }
        let mut sources = Vec::new();
        let mut holds = false;
        for block in blocks {
            let here = [0, port.number].contains(&block.client.port) && block.client.is_for_mesh();
            if !here || !self.is_within(block) {
                continue;
            }
            match self.source(&block.client, clients) {
                None => {}
                Some(None) => return Some(Vec::new()),
                Some(Some(source)) => {
                    holds = true;
                    sources.push(source);
                }
            }
        }
        holds.then_some(sources)
    }

    /// Whether one of the service's addresses is what the block asks for.
    fn is_within(&self, block: &ConnectionMatch) -> bool {
        let blocks = &block.destination_subnets;
        if blocks.is_empty() {
            return true;
        }
        let Some(claim) = self.cluster.claim(self.service) else { return false };
        match claim.is_entry {
            true => self.cluster.service_entries.get(&claim.name).is_some_and(|entry| {
                entry.addresses.iter().any(|address| blocks.iter().any(|block| block.0.contains(&address.0)))
            }),
            false => self.cluster.services.get(&claim.name).is_some_and(|service| {
                service.addresses.iter().any(|address| blocks.iter().any(|block| block.0.contains(address)))
            }),
        }
    }

    fn stream_destinations(
        &mut self,
        from: &[RouteDestination],
        port: &Port,
        object: &ObjectKey,
        field: &str,
    ) -> Vec<(u32, BackendRef)> {
        let is_only = from.len() == 1;
        let backends = from.iter().enumerate().map(|(i, route)| {
            let field = format!("{field}.route[{i}].destination");
            let weight = if is_only { 1 } else { route.weight };
            (weight, self.led_to(&route.destination, port.number, object, &field))
        });
        backends.collect()
    }
}

fn origin(object: &ObjectKey, label: &str) -> Arc<str> {
    format!("{}/{}/{}#{label}", object.kind.as_str(), object.namespace, object.name).into()
}

fn lower(names: &[Arc<str>]) -> Vec<Arc<str>> {
    names.iter().map(|name| name.to_lowercase().into()).collect()
}
