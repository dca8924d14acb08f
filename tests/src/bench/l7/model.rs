//! What Weft's waypoint is told: the world in which `hop` stands, and the models of its two services.

use std::net::IpAddr;

use mesh_core::addr::NetworkAddress;
use mesh_core::l7::authorization::{Action as Verdict, Operation, Policy, Rule as Allowed, Source};
use mesh_core::l7::route::{
    Action, Backend, BackendRef, Entry, Forward, HeaderMatch, HttpRoutes, Match, PathKind, PathMatch, Respond, Rule,
};
use mesh_core::l7::text::TextMatch;
use mesh_core::l7::{Layer7, PortRules, Protocol, Target, WaypointKey};
use mesh_core::service::{IpFamilies, LoadBalancing, Service};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{
    GatewayAddress, GatewayDestination, Health, Locality, PlaintextPorts, Port, ServiceKey, Tunnel, Uid, Workload,
    WorkloadKind,
};

use super::address::{BACKEND, CLIENT, Door, MESHED, MESHED_SERVICE, Role, SERVICE, TUNNEL};
use super::routes::Routes;
use super::talk::{HEADER, Kind};

/// A service with one endpoint.
#[derive(Clone, Copy, Debug)]
struct Pair {
    name: &'static str,
    service: IpAddr,
    endpoint: IpAddr,
    tls: bool,
}

const PAIRS: [Pair; 2] = [
    Pair { name: "web", service: SERVICE, endpoint: BACKEND, tls: false },
    Pair { name: "vault", service: MESHED_SERVICE, endpoint: MESHED, tls: true },
];

/// The Gateway that `hop` carries out.
#[must_use]
pub fn gateway() -> WaypointKey {
    WaypointKey { namespace: "shop".into(), name: "gate".into() }
}

/// The service behind `door`.
#[must_use]
pub fn service(door: Door) -> ServiceKey {
    key(PAIRS[usize::from(door.tls)].name)
}

/// Services, their endpoints and the client, without models.
#[must_use]
pub fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for pair in PAIRS {
        let doors = || Door::ALL.into_iter().filter(move |door| door.tls == pair.tls);
        let port = |door: Door| Port {
            service_port: door.service(),
            target_port: Door { tls: false, ..door }.backend(),
            app_protocol: 0,
        };
        snapshot.upsert_service(Service {
            key: key(pair.name),
            name: pair.name.into(),
            addresses: vec![NetworkAddress::new("", pair.service)],
            ports: doors().map(port).collect(),
            subject_alt_names: Vec::new(),
            waypoint: Some(GatewayAddress {
                destination: GatewayDestination::Hostname(key("gate")),
                hbone_port: TUNNEL,
            }),
            load_balancing: LoadBalancing::default(),
            ip_families: IpFamilies::Automatic,
            canonical: true,
            ingress_use_waypoint: false,
            traffic: Default::default(),
        });
        snapshot.upsert_workload(Workload {
            tunnel: if pair.tls { Tunnel::Hbone } else { Tunnel::None },
            services: [(key(pair.name), doors().map(port).collect())].into(),
            ..workload(pair.name, Role::Backend, pair.endpoint)
        });
    }
    snapshot.upsert_workload(workload("client", Role::Client, CLIENT));
    snapshot
}

/// The models of both services.
pub(super) fn models(routes: Routes) -> Vec<Layer7> {
    let allow = Policy {
        name: "shop/client".into(),
        action: Verdict::Allow,
        dry_run: false,
        rules: vec![Allowed {
            from: vec![Source {
                principals: vec![TextMatch::Exact(Role::Client.identity().principal().into())],
                ..Source::default()
            }],
            to: vec![Operation {
                methods: ["GET", "POST"].map(|method| TextMatch::Exact(method.into())).into(),
                ..Operation::default()
            }],
            when: Vec::new(),
        }],
        ports: Vec::new(),
    };
    let model = |pair: Pair| {
        let doors = Door::ALL.into_iter().filter(|door| door.tls == pair.tls);
        let rules = doors.map(|door| (door.service(), rules(pair, door, routes)));
        Layer7 {
            waypoint: gateway(),
            target: Target::Service(key(pair.name)),
            ports: rules.collect(),
            destinations: Default::default(),
            policies: vec![allow.clone()],
            jwt: Vec::new(),
            rate_limits: Default::default(),
            path_normalization: Default::default(),
            telemetry: Default::default(),
        }
    };
    match routes {
        Routes::Few => PAIRS.map(model).into(),
        Routes::Many { .. } => vec![model(PAIRS[0])],
    }
}

fn rules(pair: Pair, door: Door, routes: Routes) -> PortRules {
    let protocol = match door.kind {
        Kind::Http1 | Kind::Large => Protocol::Http,
        Kind::Http2 => Protocol::Http2,
        Kind::Grpc => Protocol::Grpc,
    };
    // Many routes are asked for by HTTP/1.1 alone.
    let routes = if door.kind == Kind::Http1 { routes } else { Routes::Few };
    let mut http = HttpRoutes::default();
    for (at, route) in routes.hosts().into_iter().flat_map(|(_, routes)| routes).enumerate() {
        let (name, value) = HEADER;
        http.entries.push(Entry {
            matches: Match {
                path: Some(PathMatch { kind: PathKind::Prefix, value: route.path.into(), ignore_case: false }),
                authority: Some(TextMatch::Exact(route.host.into())),
                headers: vec![HeaderMatch {
                    name: name.into(),
                    value: TextMatch::Exact(value.into()),
                    inverted: false,
                }],
                ..Match::default()
            },
            rule: at,
        });
        let to = BackendRef::Service { service: key(pair.name), port: door.service(), subset: None };
        let backend = Backend {
            weight: 1,
            to,
            request_headers: Default::default(),
            response_headers: Default::default(),
            rewrite: None,
        };
        http.rules.push(Rule {
            origin: format!("VirtualService/shop/web#{at}").into(),
            action: match route.answer {
                Some(status) => Action::Respond(Respond { status, body: Vec::new() }),
                None => {
                    Action::Forward(Forward { backends: vec![backend], rewrite: Default::default(), otherwise: 503 })
                }
            },
            request_headers: Default::default(),
            response_headers: Default::default(),
            timeout: None,
            retries: Default::default(),
            fault: Default::default(),
            cors: None,
            mirrors: Vec::new(),
            session: None,
        });
    }
    PortRules { protocol, http: Some(http), ..PortRules::default() }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: format!("{name}.shop.svc.cluster.local").into() }
}

fn workload(name: &str, role: Role, at: IpAddr) -> Workload {
    Workload {
        uid: Uid::pod("bench", "shop", name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![at],
        hostname: "".into(),
        network: "".into(),
        tunnel: Tunnel::None,
        identity: role.identity(),
        waypoint: None,
        network_gateway: None,
        node: "bench".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        policies: Vec::new(),
        health: Health::Healthy,
        cluster: "bench".into(),
        services: Default::default(),
        locality: Locality::default(),
        host_network: false,
        capacity: 1,
        plaintext: PlaintextPorts::default(),
        encrypt_always: false,
        pod_uid: "".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_waypoint::world::Compiled;

    use super::*;

    #[test]
    fn models_can_be_carried_out() {
        for routes in [Routes::Few, Routes::Many { status: 418 }] {
            for model in models(routes) {
                let rules = &model.ports[&Door { kind: Kind::Http1, tls: false }.service()];
                let entries = rules.http.as_ref().unwrap().entries.len();
                assert_eq!(entries, if routes == Routes::Few { 20 } else { 10_000 });
                Compiled::new(&Arc::new(model), None).unwrap();
            }
        }
    }
}
