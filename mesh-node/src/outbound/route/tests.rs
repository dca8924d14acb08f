use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use mesh_core::service::{IpFamilies, LoadBalancing};
use mesh_core::workload::{
    GatewayAddress, GatewayDestination, Locality, PlaintextPorts, Port, Scope, ServiceKey, Tunnel, Uid, WorkloadKind,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

struct Idle;

impl Experience for Idle {
    fn live(&self, _: &Workload) -> usize {
        0
    }

    fn turn(&self, _: &Target) -> u64 {
        0
    }

    fn ejected(&self, _: &Target) -> BTreeSet<Uid> {
        BTreeSet::new()
    }
}

/// Two pods behind a ClusterIP (one in each zone), a pod outside the mesh, and a client in zone `near`.
fn world() -> Snapshot {
    let mut s = Snapshot::default();
    let web = service("shop", "web.shop.svc.cluster.local", &["10.96.0.7", "fd96::7"], &[(80, 8080)]);
    for (name, ip, zone) in [("web-near", "10.0.1.1", "near"), ("web-far", "10.0.2.1", "far")] {
        let mut w = workload(name, ip);
        w.tunnel = Tunnel::Hbone;
        w.locality.zone = zone.into();
        w.services.insert(web.key.clone(), vec![port(80, 8080)]);
        s.upsert_workload(w);
    }
    s.upsert_service(web);
    s.upsert_workload(workload("plain", "10.0.3.1"));
    let mut client = workload("client", "10.0.1.9");
    client.tunnel = Tunnel::Hbone;
    client.locality.zone = "near".into();
    s.upsert_workload(client);
    s
}

fn check_in(s: &Snapshot, to: &str, unknown: UnknownDestinations, avoid: &[&str], expect: Expect) {
    let network = Arc::from("");
    let client = s.workload(&Uid::pod("c", "shop", "client")).expect("in every world").clone();
    let origin = Origin { network: &network, workload: Some(&client), namespace: "shop", client: client.addresses[0] };
    let avoid: Vec<_> = avoid.iter().map(|n| s.workload(&Uid::pod("c", "shop", n)).expect("known").clone()).collect();
    let to = OrigDst::new(to.parse().expect("an address"));
    let mut rng = SmallRng::seed_from_u64(1);
    let seen: std::collections::BTreeSet<String> = (0..64)
        .map(|_| match route(s, &origin, to, unknown, &avoid, &Idle, &mut rng) {
            Ok(Route::Passthrough(to)) => format!("passthrough {to}"),
            Ok(Route::Endpoint(e)) => match e.carriage {
                Carriage::Plain => format!("plain {} {}", e.workload.name, e.target),
                Carriage::Tunnel { to, expected } => {
                    let expected: Vec<_> = expected.iter().map(|id| id.service_account().to_owned()).collect();
                    format!("tunnel {} {} via {to} as {}", e.workload.name, e.target, expected.join("|"))
                }
            },
            Err(no) => no.reason().to_owned(),
        })
        .collect();
    expect.assert_eq(&seen.into_iter().collect::<Vec<_>>().join("\n"));
}

fn check(s: &Snapshot, to: &str, expect: Expect) {
    check_in(s, to, UnknownDestinations::Allow, &[], expect);
}

#[test]
fn a_destination_decides_the_route() {
    let s = world();
    check(
        &s,
        "10.96.0.7:80",
        expect![[r#"
            tunnel web-far 10.0.2.1:8080 via 10.0.2.1:15008 as web-far
            tunnel web-near 10.0.1.1:8080 via 10.0.1.1:15008 as web-near"#]],
    );
    check(&s, "10.96.0.7:81", expect!["no_such_port"]);
    check(&s, "10.0.1.1:9", expect!["tunnel web-near 10.0.1.1:9 via 10.0.1.1:15008 as web-near"]);
    check(&s, "[::ffff:10.0.1.1]:9", expect!["tunnel web-near 10.0.1.1:9 via 10.0.1.1:15008 as web-near"]);
    check(&s, "10.0.3.1:80", expect!["plain plain 10.0.3.1:80"]);
    check(&s, "192.0.2.1:443", expect!["passthrough 192.0.2.1:443"]);
    check(&s, "10.0.1.9:80", expect!["plain client 10.0.1.9:80"]);
    check_in(&s, "192.0.2.1:443", UnknownDestinations::Refuse, &[], expect!["unknown_destination"]);
}

#[test]
fn an_ipv6_service_address_reaches_ipv4_endpoints() {
    check(
        &world(),
        "[fd96::7]:80",
        expect![[r#"
            tunnel web-far 10.0.2.1:8080 via 10.0.2.1:15008 as web-far
            tunnel web-near 10.0.1.1:8080 via 10.0.1.1:15008 as web-near"#]],
    );
}

#[test]
fn a_failed_endpoint_is_avoided_and_the_last_one_leaves_none() {
    let s = world();
    let allow = UnknownDestinations::Allow;
    let near = expect!["tunnel web-near 10.0.1.1:8080 via 10.0.1.1:15008 as web-near"];
    check_in(&s, "10.96.0.7:80", allow, &["web-far"], near);
    check_in(&s, "10.96.0.7:80", allow, &["web-far", "web-near"], expect!["no_endpoint"]);
}

#[test]
fn locality_prefers_and_falls_back() {
    let mut s = world();
    let web = s.services().next().expect("one").key.clone();
    let prefer = |s: &mut Snapshot, mode, allow_unhealthy| {
        let mut service = (**s.service(&web).expect("known")).clone();
        service.load_balancing = LoadBalancing { routing_preference: vec![Scope::Zone], mode, allow_unhealthy };
        s.upsert_service(service);
    };
    let ill = |s: &mut Snapshot, name: &str| {
        let mut w = (**s.workload(&Uid::pod("c", "shop", name)).expect("known")).clone();
        w.health = Health::Unhealthy;
        s.upsert_workload(w);
    };
    prefer(&mut s, Mode::Failover, false);
    check(&s, "10.96.0.7:80", expect!["tunnel web-near 10.0.1.1:8080 via 10.0.1.1:15008 as web-near"]);
    ill(&mut s, "web-near");
    check(&s, "10.96.0.7:80", expect!["tunnel web-far 10.0.2.1:8080 via 10.0.2.1:15008 as web-far"]);
    prefer(&mut s, Mode::Strict, false);
    check(&s, "10.96.0.7:80", expect!["no_endpoint"]);
    prefer(&mut s, Mode::Strict, true);
    check(&s, "10.96.0.7:80", expect!["tunnel web-near 10.0.1.1:8080 via 10.0.1.1:15008 as web-near"]);
}

#[test]
fn a_disabled_port_is_plain_and_the_others_are_not() {
    let mut s = world();
    let mut w = (**s.workload(&Uid::pod("c", "shop", "web-near")).expect("known")).clone();
    w.plaintext = PlaintextPorts { all: false, ports: [9].into(), except: Default::default() };
    s.upsert_workload(w.clone());
    check(&s, "10.0.1.1:9", expect!["plain web-near 10.0.1.1:9"]);
    check(&s, "10.0.1.1:10", expect!["tunnel web-near 10.0.1.1:10 via 10.0.1.1:15008 as web-near"]);
    w.plaintext = PlaintextPorts { all: true, ports: Default::default(), except: [10].into() };
    s.upsert_workload(w);
    check(&s, "10.0.1.1:9", expect!["plain web-near 10.0.1.1:9"]);
    check(&s, "10.0.1.1:10", expect!["tunnel web-near 10.0.1.1:10 via 10.0.1.1:15008 as web-near"]);
}

/// A waypoint of two instances behind a service, and one that a pod names by its address.
fn with_waypoints(s: &mut Snapshot) -> [GatewayAddress; 2] {
    let front = service("shop", "gate.shop.svc.cluster.local", &["10.96.0.9"], &[(15008, 15008)]);
    for (name, ip) in [("gate-1", "10.0.9.1"), ("gate-2", "10.0.9.2")] {
        let mut w = workload(name, ip);
        w.tunnel = Tunnel::Hbone;
        w.services.insert(front.key.clone(), vec![port(15008, 15008)]);
        s.upsert_workload(w);
    }
    let key = front.key.clone();
    s.upsert_service(front);
    let address = NetworkAddress::new("", "10.0.9.1".parse().expect("an address"));
    [GatewayDestination::Hostname(key), GatewayDestination::Address(address)]
        .map(|destination| GatewayAddress { destination, hbone_port: HBONE_PORT })
}

#[test]
fn what_has_a_waypoint_goes_through_it_as_it_was_asked_for() {
    let mut s = world();
    let [by_name, by_address] = with_waypoints(&mut s);
    let mut web = (**s.services().find(|s| &*s.name == "web").expect("one")).clone();
    web.waypoint = Some(by_name.clone());
    s.upsert_service(web);
    check(
        &s,
        "10.96.0.7:80",
        expect![[r#"
            tunnel gate-1 10.96.0.7:80 via 10.0.9.1:15008 as gate-1
            tunnel gate-2 10.96.0.7:80 via 10.0.9.2:15008 as gate-2"#]],
    );
    // Which ports there are is the waypoint's to say.
    check_in(
        &s,
        "10.96.0.7:81",
        UnknownDestinations::Allow,
        &["gate-1"],
        expect!["tunnel gate-2 10.96.0.7:81 via 10.0.9.2:15008 as gate-2"],
    );
    check(&s, "10.0.1.1:80", expect!["tunnel web-near 10.0.1.1:80 via 10.0.1.1:15008 as web-near"]);
    let mut near = (**s.workload(&Uid::pod("c", "shop", "web-near")).expect("known")).clone();
    near.waypoint = Some(by_address);
    s.upsert_workload(near);
    check(&s, "10.0.1.1:80", expect!["tunnel gate-1 10.0.1.1:80 via 10.0.9.1:15008 as gate-1"]);
    let mut own = (**s.workload(&Uid::pod("c", "shop", "client")).expect("known")).clone();
    own.waypoint = Some(by_name);
    s.upsert_workload(own);
    check(&s, "10.0.1.9:80", expect!["plain client 10.0.1.9:80"]);
}

#[test]
fn what_cannot_be_honoured_is_refused_and_never_bypassed() {
    let mut s = world();
    let nowhere = GatewayDestination::Address(NetworkAddress::new("", "10.0.9.9".parse().expect("an address")));
    let gateway = GatewayAddress { destination: nowhere, hbone_port: HBONE_PORT };
    let mut w = (**s.workload(&Uid::pod("c", "shop", "web-near")).expect("known")).clone();
    w.waypoint = Some(gateway);
    s.upsert_workload(w.clone());
    check(&s, "10.0.1.1:80", expect!["no_waypoint"]);
    let [by_name, _] = with_waypoints(&mut s);
    w.waypoint = Some(by_name);
    s.upsert_workload(w.clone());
    check_in(&s, "10.0.1.1:80", UnknownDestinations::Allow, &["gate-1", "gate-2"], expect!["no_waypoint"]);
    w.waypoint = None;
    w.network = "other".into();
    s.upsert_workload(w);
    check_in(&s, "10.96.0.7:80", UnknownDestinations::Allow, &["web-far"], expect!["other_network"]);
}

#[test]
fn further_names_of_a_service_are_accepted_from_its_endpoints() {
    let mut s = world();
    let key = s.services().next().expect("one").key.clone();
    let mut service = (**s.service(&key).expect("known")).clone();
    service.subject_alt_names = vec!["spiffe://td/ns/shop/sa/alias".into(), "not-an-identity".into()];
    s.upsert_service(service);
    let expect = expect!["tunnel web-near 10.0.1.1:8080 via 10.0.1.1:15008 as web-near|alias"];
    check_in(&s, "10.96.0.7:80", UnknownDestinations::Allow, &["web-far"], expect);
}

pub(crate) fn workload(name: &str, ip: &str) -> Workload {
    Workload {
        uid: Uid::pod("c", "shop", name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![ip.parse().expect("an address")],
        hostname: "".into(),
        network: "".into(),
        tunnel: Tunnel::None,
        identity: SpiffeId::new("td", "shop", name).expect("valid"),
        waypoint: None,
        network_gateway: None,
        node: "n1".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        policies: Vec::new(),
        health: Health::Healthy,
        cluster: "c".into(),
        services: BTreeMap::new(),
        locality: Locality::default(),
        host_network: false,
        capacity: 1,
        plaintext: PlaintextPorts::default(),
        encrypt_always: false,
        pod_uid: "".into(),
    }
}

pub(crate) fn service(namespace: &str, hostname: &str, addresses: &[&str], ports: &[(u16, u16)]) -> Service {
    Service {
        key: ServiceKey { namespace: namespace.into(), hostname: hostname.into() },
        name: hostname.split('.').next().unwrap_or_default().into(),
        addresses: addresses.iter().map(|a| NetworkAddress::new("", a.parse().expect("an address"))).collect(),
        ports: ports.iter().map(|(s, t)| port(*s, *t)).collect(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        traffic: Default::default(),
    }
}

pub(crate) fn port(service_port: u16, target_port: u16) -> Port {
    Port { service_port, target_port, app_protocol: 0 }
}
