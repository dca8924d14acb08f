use std::net::IpAddr;

use mesh_core::addr::NetworkAddress;
use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Policy, Scope};
use mesh_core::service::{IpFamilies, LoadBalancing, Service};
use mesh_core::workload::PolicyKey;
use mesh_core::workload::{Health, Locality, PlaintextPorts, Port, ServiceKey, Tunnel, Uid, Workload, WorkloadKind};

use super::*;

/// A pod `name` at `ip`, an endpoint of each of `services`.
pub(crate) fn pod(name: &str, ip: &str, services: &[&str]) -> Change {
    let ip: IpAddr = ip.parse().unwrap();
    let port = Port { service_port: 80, target_port: 8080, app_protocol: 0 };
    let workload = Workload {
        uid: Uid(name.into()),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![ip],
        hostname: "".into(),
        network: "".into(),
        tunnel: Tunnel::Hbone,
        identity: SpiffeId::new("td", "shop", "web").unwrap(),
        waypoint: None,
        network_gateway: None,
        node: "a".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        policies: Vec::new(),
        health: Health::Healthy,
        cluster: "c".into(),
        services: services.iter().map(|s| (service_key(s), vec![port])).collect(),
        locality: Locality::default(),
        host_network: false,
        capacity: 1,
        plaintext: PlaintextPorts::default(),
        encrypt_always: false,
        pod_uid: "".into(),
    };
    Change { name: name.into(), resource: index::Resource::Address(Some(Address::Workload(workload))) }
}

fn service_key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: name.into() }
}

pub(crate) fn service(name: &str, vip: &str) -> Change {
    let service = Service {
        key: service_key(name),
        name: name.into(),
        addresses: vec![NetworkAddress::new("", vip.parse().unwrap())],
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::default(),
        canonical: true,
        ingress_use_waypoint: false,
        traffic: Default::default(),
    };
    Change { name: format!("shop/{name}").into(), resource: index::Resource::Address(Some(Address::Service(service))) }
}

pub(crate) fn gone(name: &str) -> Change {
    Change { name: name.into(), resource: index::Resource::Address(None) }
}

pub(crate) fn policy(name: &str) -> Change {
    let key = PolicyKey { namespace: "shop".into(), name: name.into() };
    let policy = Policy { key, scope: Scope::Namespace, action: Action::Deny, dry_run: false, rules: Vec::new() };
    Change { name: format!("shop/{name}").into(), resource: index::Resource::Authorization(Some(policy)) }
}

pub(crate) fn world(changes: Vec<Change>) -> World {
    let mut world = World { synced: true, ..World::default() };
    world.apply(changes);
    world
}

fn names(world: &World, place: u64) -> Vec<String> {
    let since = world.of(Kind::Address).since(place);
    since.map(|(_, name, resource)| format!("{}{name}", if resource.is_some() { "+" } else { "-" })).collect()
}

#[test]
fn the_log_has_one_place_a_name_that_of_its_latest_change() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[]), pod("b", "10.0.0.2", &[])]);
    assert_eq!(names(&world, 0), ["+a", "+b"]);
    for n in 3..9 {
        world.apply(vec![pod("a", &format!("10.0.0.{n}"), &[])]);
    }
    assert_eq!(names(&world, 0), ["+b", "+a"]);
    world.apply(vec![gone("b")]);
    assert_eq!(names(&world, 2), ["+a", "-b"]);
    assert_eq!(world.of(Kind::Address).len(), 1);
    world.apply(vec![pod("b", "10.0.0.2", &[])]);
    assert_eq!(names(&world, 2), ["+a", "+b"]);
}

#[test]
fn the_same_content_is_the_same_version_and_no_change() {
    let mut one = world(vec![pod("a", "10.0.0.1", &["web"])]);
    assert!(!one.apply(vec![pod("a", "10.0.0.1", &["web"])]));
    assert!(!one.apply(vec![gone("never")]));
    let other = world(vec![pod("x", "10.0.0.9", &[]), pod("a", "10.0.0.1", &["web"])]);
    let version = |w: &World| w.of(Kind::Address).get("a").unwrap().version.clone();
    assert_eq!(version(&one), version(&other));
    assert!(one.apply(vec![pod("a", "10.0.0.2", &["web"])]));
    assert_ne!(version(&one), version(&other));
}

#[test]
fn addresses_and_services_lead_to_what_is_there() {
    let mut world = world(vec![
        service("web", "10.96.0.1"),
        pod("a", "10.0.0.1", &["web"]),
        pod("b", "10.0.0.2", &["web", "db"]),
        pod("c", "fd00::3", &[]),
    ]);
    let found = |world: &World, asked: &str| {
        world.of(Kind::Address).resolve(asked).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found(&world, "/10.0.0.1"), "a");
    assert_eq!(found(&world, "/fd00::3"), "c");
    assert_eq!(found(&world, "/10.96.0.1"), "a b shop/web");
    assert_eq!(found(&world, "shop/web"), "a b shop/web");
    assert_eq!(found(&world, "a"), "a");
    assert_eq!(found(&world, "/10.9.9.9"), "");
    world.apply(vec![pod("a", "10.0.0.7", &[]), gone("b")]);
    assert_eq!(found(&world, "/10.0.0.1"), "");
    assert_eq!(found(&world, "/10.0.0.7"), "a");
    assert_eq!(found(&world, "shop/web"), "shop/web");
}

#[test]
fn a_world_that_was_handed_out_does_not_change() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[])]);
    let before = world.clone();
    world.apply(vec![gone("a"), pod("b", "10.0.0.2", &[])]);
    assert_eq!(names(&before, 0), ["+a"]);
}

#[test]
fn removals_are_forgotten_in_the_end_and_the_floor_says_so() {
    let mut collection = Collection::default();
    collection.put("stays".into(), Some(Arc::new(Resource::new(Kind::Address, "stays", Vec::new()))));
    for n in 0..MAX_REMOVALS + 10 {
        collection.put(format!("gone-{n}").into(), None);
    }
    assert_eq!(collection.len(), 1);
    assert_eq!(collection.floor(), 11);
    assert_eq!(collection.since(0).count(), MAX_REMOVALS + 1);
}

#[test]
fn a_digest_is_of_the_content_alone() {
    let digest = |world: &World| world.of(Kind::Address).digest().unwrap().clone();
    let empty = digest(&world(Vec::new()));
    let all = world(vec![pod("a", "10.0.0.1", &[]), pod("b", "10.0.0.2", &[])]);
    let mut other = world(vec![pod("b", "10.0.0.9", &[])]);
    let mut seen = vec![empty.clone(), digest(&all), digest(&other)];
    other.apply(vec![pod("c", "10.0.0.3", &[]), pod("a", "10.0.0.1", &[])]);
    seen.push(digest(&other));
    other.apply(vec![gone("c"), pod("b", "10.0.0.2", &[])]);
    assert_eq!(digest(&other), digest(&all));
    assert_ne!(all.of(Kind::Authorization).digest(), world(Vec::new()).of(Kind::Address).digest(), "another kind");
    other.apply(vec![gone("a"), gone("b")]);
    assert_eq!(digest(&other), empty);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_place_is_known_by_its_digest_for_some_thousand_changes() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[])]);
    let first = world.of(Kind::Address).digest().unwrap().clone();
    assert_eq!(world.of(Kind::Address).place_of(&first), Some(1));
    for n in 0..5000 {
        world.apply(vec![pod("b", &format!("10.{}.{}.1", n / 250, n % 250), &[])]);
    }
    let all = world.of(Kind::Address);
    assert_eq!(all.place_of(&first), None);
    assert_eq!(all.place_of(all.digest().unwrap()), Some(all.head()));
}
