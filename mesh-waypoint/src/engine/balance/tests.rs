use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::l7::destination::{HashBy, Outliers};
use mesh_core::service::{IpFamilies, LoadBalancing, Mode};
use mesh_core::traffic::{Distribution, LocalityPolicy, Place};
use mesh_core::workload::{Locality, PlaintextPorts, Port, Scope, ServiceKey, Tunnel, WorkloadKind};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::engine::outliers::Outcome;

/// `name@region/zone`, `name*3` with a capacity.
fn endpoint(text: &str) -> Endpoint {
    Endpoint { workload: Arc::new(workload(text)), port: 8080 }
}

fn workload(text: &str) -> Workload {
    let (text, place) = text.split_once('@').unwrap_or((text, ""));
    let (name, capacity) = text.split_once('*').unwrap_or((text, "1"));
    let (region, zone) = place.split_once('/').unwrap_or((place, ""));
    Workload {
        uid: uid(name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, 1].into()],
        hostname: "".into(),
        network: "".into(),
        tunnel: Tunnel::Hbone,
        identity: SpiffeId::new("td", "shop", "web").expect("an identity"),
        waypoint: None,
        network_gateway: None,
        node: "n".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        policies: Vec::new(),
        health: Health::Healthy,
        cluster: "c".into(),
        services: BTreeMap::from([(key(), vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }])]),
        locality: Locality { region: region.into(), zone: zone.into(), subzone: "".into() },
        host_network: false,
        capacity: capacity.parse().expect("a capacity"),
        plaintext: PlaintextPorts::default(),
        encrypt_always: false,
        pod_uid: "".into(),
    }
}

fn uid(name: &str) -> Uid {
    Uid::pod("c", "shop", name)
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: "web".into() }
}

fn service() -> Service {
    Service {
        key: key(),
        name: "web".into(),
        addresses: Vec::new(),
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        traffic: Default::default(),
    }
}

fn by(balance: Balance) -> Policy {
    Policy { balance, ..Policy::default() }
}

const OUTLIERS: Outliers = Outliers {
    consecutive_5xx: 1,
    consecutive_gateway: 0,
    split_local: false,
    consecutive_local: 0,
    interval: Duration::from_secs(10),
    base_ejection: Duration::from_secs(30),
    max_ejection_percent: 100,
    min_health_percent: 0,
};

/// Hashes are all over the place.
fn spread(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Chooses again and again, and remembers.
struct Bench {
    endpoints: Vec<Endpoint>,
    own: Workload,
    service: Service,
    policy: Policy,
    experience: Arc<Experience>,
    now: Instant,
    rng: SmallRng,
}

impl Bench {
    fn new(policy: Policy, endpoints: &[&str]) -> Self {
        Self {
            endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
            own: workload("waypoint@eu/a"),
            service: service(),
            policy,
            experience: Arc::default(),
            now: Instant::now(),
            rng: SmallRng::seed_from_u64(7),
        }
    }

    fn choose(&mut self, hash: Option<u64>, tried: &[&str]) -> Option<String> {
        let tried: Vec<_> = tried.iter().map(|name| uid(name)).collect();
        let asker = Asker { own: Some(&self.own), service: &self.service, policy: &self.policy, hash, tried: &tried };
        match choose(&self.endpoints, &asker, &self.experience, self.now, &mut self.rng)? {
            Choice::Endpoint(endpoint) => Some(endpoint.workload.name.to_string()),
            Choice::Original => Some("original".to_owned()),
        }
    }

    fn eject(&mut self, names: &[&str]) {
        for name in names {
            self.experience.record(&uid(name), Outcome::Failed, &self.policy, self.endpoints.len(), self.now);
        }
    }

    /// Percent of the choices.
    fn shares(&mut self, tried: &[&str]) -> BTreeMap<String, u32> {
        let mut seen = BTreeMap::new();
        for i in 0..4000 {
            let chosen = self.choose(Some(spread(i)), tried).unwrap_or("none".to_owned());
            *seen.entry(chosen).or_default() += 1;
        }
        seen.values_mut().for_each(|count| *count = (*count + 20) / 40);
        seen
    }

    #[track_caller]
    fn expect(&mut self, tried: &[&str], expected: &[(&str, u32)]) {
        let seen = self.shares(tried);
        let close = |(name, share): &(&str, u32)| seen.get(*name).is_some_and(|got| got.abs_diff(*share) <= 2);
        assert!(seen.len() == expected.len() && expected.iter().all(close), "{seen:?}, not {expected:?}");
    }
}

fn sticky() -> Balance {
    Balance::Hash(HashBy::SourceIp)
}

fn all() -> [Balance; 4] {
    [Balance::LeastRequest, Balance::RoundRobin, Balance::Random, sticky()]
}

#[test]
fn equal_endpoints_get_equal_shares_and_capacity_weighs() {
    for balance in all() {
        Bench::new(by(balance.clone()), &["a", "b", "c", "d"])
            .expect(&[], &[("a", 25), ("b", 25), ("c", 25), ("d", 25)]);
        Bench::new(by(balance.clone()), &["a", "b*3"]).expect(&[], &[("a", 25), ("b", 75)]);
        Bench::new(by(balance.clone()), &["a"]).expect(&["a"], &[("a", 100)]);
        Bench::new(by(balance), &[]).expect(&[], &[("none", 100)]);
    }
}

#[test]
fn only_endpoints_that_serve_the_port_and_are_ready_come_into_question() {
    let mut snapshot = Snapshot::default();
    let mut add = |text: &str, change: &dyn Fn(&mut Workload)| {
        let mut w = workload(text);
        change(&mut w);
        snapshot.upsert_workload(w);
    };
    add("good", &|_| {});
    add("other", &|_| {});
    add("sick", &|w| w.health = Health::Unhealthy);
    add("drained*0", &|_| {});
    add("elsewhere", &|w| w.services.values_mut().for_each(|ports| ports[0].target_port = 0));
    let mut service = service();
    let names = |service: &Service, port, subset: Option<&Subset>| {
        let found = endpoints(&snapshot, service, port, subset);
        found.iter().map(|e| format!("{}:{}", e.workload.name, e.port)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&service, 80, None), "good:8080 other:8080");
    assert_eq!(names(&service, 81, None), "");
    let subset = Subset { members: [uid("other"), uid("gone"), uid("sick")].into(), policy: None };
    assert_eq!(names(&service, 80, Some(&subset)), "other:8080");
    service.load_balancing.allow_unhealthy = true;
    assert_eq!(names(&service, 80, None), "good:8080 other:8080 sick:8080");
}

#[test]
fn the_busier_of_two_is_not_chosen() {
    let mut bench = Bench::new(by(Balance::LeastRequest), &["a", "b", "c*2"]);
    let experience = bench.experience.clone();
    let a = experience.begin(&uid("a"));
    let c: Vec<_> = (0..3).map(|_| experience.begin(&uid("c"))).collect();
    let seen = bench.shares(&[]);
    assert!(!seen.contains_key("c") && seen["b"] > seen["a"], "{seen:?}");
    drop((a, c));
    bench.expect(&[], &[("a", 25), ("b", 25), ("c", 50)]);
}

#[test]
fn round_robin_goes_round_in_the_order_of_names() {
    let mut bench = Bench::new(by(Balance::RoundRobin), &["c", "a", "b"]);
    let seen: String = (0..7).filter_map(|_| bench.choose(None, &[])).collect();
    assert_eq!(seen, "abcabca");
}

#[test]
fn passthrough_is_where_the_client_asked_for() {
    Bench::new(by(Balance::Passthrough), &["a"]).expect(&[], &[("original", 100)]);
    Bench::new(by(Balance::Passthrough), &[]).expect(&[], &[("original", 100)]);
}

#[test]
fn what_sticks_moves_only_with_its_endpoint() {
    let of = |endpoints: &[&str]| {
        let mut bench = Bench::new(by(sticky()), endpoints);
        (0..1000).map(|hash| bench.choose(Some(hash), &[]).expect("an endpoint")).collect::<Vec<_>>()
    };
    let before = of(&["a", "b", "c", "d"]);
    assert_eq!(before, of(&["d", "c", "b", "a"]));
    for (before, after) in before.iter().zip(of(&["a", "b", "c"])).filter(|(before, _)| *before != "d") {
        assert_eq!(*before, after);
    }
    for (before, after) in before.iter().zip(of(&["a", "b", "c", "d", "e"])).filter(|(_, after)| after != "e") {
        assert_eq!(*before, after);
    }
    // A retry goes to the same one, and what has nothing to stick to goes anywhere.
    let mut bench = Bench::new(by(sticky()), &["a", "b", "c", "d"]);
    for hash in 0..100 {
        let first = bench.choose(Some(hash), &[]).expect("an endpoint");
        assert_eq!(bench.choose(Some(hash), &[&first]), Some(first));
    }
    let anywhere: std::collections::BTreeSet<_> = (0..100).filter_map(|_| bench.choose(None, &[])).collect();
    assert_eq!(anywhere.len(), 4);
}

#[test]
fn what_sticks_does_so_also_where_a_part_goes_elsewhere() {
    let mut policy = Policy { outliers: Some(OUTLIERS), ..failover(&[]) };
    policy.balance = sticky();
    let mut bench = Bench::new(policy, &WORLD);
    bench.eject(&["near1"]);
    for hash in 0..200 {
        let first = bench.choose(Some(spread(hash)), &[]);
        assert_eq!(bench.choose(Some(spread(hash)), &[]), first);
    }
}

fn failover(regions: &[(&str, &str)]) -> Policy {
    let locality = LocalityPolicy::Failover {
        scopes: vec![Scope::Region, Scope::Zone],
        regions: regions.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect(),
    };
    Policy { locality: Some(locality), outliers: Some(OUTLIERS), balance: Balance::Random, ..Policy::default() }
}

const WORLD: [&str; 6] = ["near1@eu/a", "near2@eu/a", "zone@eu/b", "us@us/a", "ap1@ap/a", "ap2@ap/b"];

#[test]
fn the_nearest_tier_serves_and_the_next_takes_what_it_cannot() {
    let mut bench = Bench::new(failover(&[("eu", "ap")]), &WORLD);
    bench.expect(&[], &[("near1", 50), ("near2", 50)]);
    // Half of the tier is gone: 1.4 x 50 % stay.
    bench.eject(&["near1"]);
    bench.expect(&[], &[("near2", 70), ("zone", 30)]);
    bench.eject(&["near2"]);
    bench.expect(&[], &[("zone", 100)]);
    bench.eject(&["zone"]);
    bench.expect(&[], &[("ap1", 50), ("ap2", 50)]);
    bench.eject(&["ap1", "ap2"]);
    bench.expect(&[], &[("us", 100)]);
    // There is no panic.
    bench.eject(&["us"]);
    bench.expect(&[], &[("none", 100)]);
    bench.now += Duration::from_secs(30);
    bench.expect(&[], &[("near1", 50), ("near2", 50)]);
}

#[test]
fn a_waypoint_without_a_place_prefers_none() {
    let mut bench = Bench::new(failover(&[]), &WORLD);
    bench.own.locality = Locality::default();
    assert_eq!(bench.shares(&[]).len(), WORLD.len());
}

#[test]
fn the_services_own_preference_holds_where_the_policy_has_none() {
    let mut bench = Bench::new(by(Balance::Random), &["near@eu/a", "zone@eu/b", "us@us/a"]);
    let preference =
        |mode| LoadBalancing { routing_preference: vec![Scope::Region, Scope::Zone], mode, allow_unhealthy: false };
    bench.service.load_balancing = preference(Mode::Strict);
    bench.expect(&[], &[("near", 100)]);
    bench.service.load_balancing = preference(Mode::Failover);
    bench.expect(&[], &[("near", 100)]);
    bench.own.locality.zone = "c".into();
    bench.expect(&[], &[("near", 50), ("zone", 50)]);
    bench.service.load_balancing = preference(Mode::Strict);
    bench.expect(&[], &[("none", 100)]);
}

#[test]
fn shares_go_where_they_are_told_to() {
    let place = |text: &str| Place(text.into());
    let to = vec![(place("eu/*"), 60), (place("eu/b"), 10), (place("us"), 30)];
    let rules = vec![
        Distribution { from: place("*"), to: vec![(place("ap"), 100)] },
        Distribution { from: place("eu/a/*"), to },
    ];
    let policy = Policy { locality: Some(LocalityPolicy::Distribute(rules)), ..failover(&[]) };
    let mut bench = Bench::new(policy, &WORLD);
    bench.expect(&[], &[("near1", 30), ("near2", 30), ("zone", 10), ("us", 30)]);
    bench.eject(&["us"]);
    bench.expect(&[], &[("near1", 43), ("near2", 43), ("zone", 14)]);
    bench.own.locality.region = "us".into();
    bench.expect(&[], &[("ap1", 50), ("ap2", 50)]);
}

#[test]
fn with_too_few_left_the_ejected_ones_serve_as_well() {
    let outliers = Some(Outliers { min_health_percent: 50, ..OUTLIERS });
    let mut bench = Bench::new(Policy { outliers, ..by(Balance::Random) }, &["a", "b"]);
    bench.eject(&["a"]);
    bench.expect(&[], &[("b", 100)]);
    // Of all: that a retry has only a bad one left is no reason.
    bench.expect(&["b"], &[("b", 100)]);
    bench.eject(&["b"]);
    bench.expect(&[], &[("a", 50), ("b", 50)]);
}

#[test]
fn a_retry_goes_where_it_has_not_failed_first_nearby_then_elsewhere_then_again() {
    let mut bench = Bench::new(failover(&[]), &WORLD);
    bench.expect(&["near1"], &[("near2", 100)]);
    bench.expect(&["near1", "near2"], &[("zone", 100)]);
    let tried = ["near1", "near2", "zone", "us", "ap1", "ap2"];
    bench.expect(&tried, &[("near1", 50), ("near2", 50)]);
    bench.expect(&tried[..5], &[("ap2", 100)]);
}

#[test]
fn a_new_endpoint_gets_its_share_by_and_by() {
    let slow_start = Some(SlowStart { window: Duration::from_secs(100), minimum_percent: 10, aggression: 1000 });
    for balance in [Balance::LeastRequest, Balance::RoundRobin] {
        let mut bench = Bench::new(Policy { slow_start, ..by(balance) }, &["old"]);
        bench.expect(&[], &[("old", 100)]);
        bench.now += Duration::from_secs(100);
        bench.endpoints.push(endpoint("new"));
        bench.expect(&[], &[("old", 91), ("new", 9)]);
        bench.now += Duration::from_secs(50);
        bench.expect(&[], &[("old", 67), ("new", 33)]);
        bench.now += Duration::from_secs(50);
        bench.expect(&[], &[("old", 50), ("new", 50)]);
        // Those that begin together share alike.
        let mut bench = Bench::new(Policy { slow_start, ..bench.policy }, &["a", "b"]);
        bench.expect(&[], &[("a", 50), ("b", 50)]);
    }
    let steep = Some(SlowStart { window: Duration::from_secs(100), minimum_percent: 10, aggression: 2000 });
    let mut bench = Bench::new(Policy { slow_start: steep, ..by(Balance::RoundRobin) }, &["old"]);
    bench.expect(&[], &[("old", 100)]);
    bench.now += Duration::from_secs(100);
    bench.endpoints.push(endpoint("new"));
    bench.expect(&[], &[("old", 91), ("new", 9)]);
    bench.now += Duration::from_secs(25);
    bench.expect(&[], &[("old", 67), ("new", 33)]);
}

proptest! {
    #[test]
    fn arbitrary_worlds_never_panic_and_choose_one_that_is_there(
        pods in prop::collection::btree_set("[a-e]", 0..5),
        capacity in prop::collection::vec(0u32..4, 5),
        ejected in prop::collection::vec("[a-e]", 0..5),
        tried in prop::collection::vec("[a-e]", 0..5),
        hash in prop::option::of(any::<u64>()),
        balance in prop::sample::select(all().to_vec()),
        has_locality: bool,
    ) {
        let texts: Vec<_> = pods.iter().zip(&capacity).map(|(name, c)| format!("{name}*{c}@eu/{name}")).collect();
        let texts: Vec<_> = texts.iter().map(|text| &**text).collect();
        let policy = Policy { balance, ..if has_locality { failover(&[]) } else { by(Balance::Random) } };
        let mut bench = Bench::new(policy, &texts);
        bench.endpoints.retain(|endpoint| endpoint.workload.capacity > 0);
        let there: Vec<_> = ejected.iter().filter(|name| bench.endpoints.iter().any(|e| *e.workload.name == ***name)).collect();
        bench.eject(&there.iter().map(|name| &***name).collect::<Vec<_>>());
        let tried: Vec<_> = tried.iter().map(|name| &**name).collect();
        let is_left = |e: &Endpoint| !has_locality || !ejected.iter().any(|name| **name == *e.workload.name);
        let left: Vec<_> = bench.endpoints.iter().filter(|e| is_left(e)).map(|e| e.workload.name.to_string()).collect();
        match bench.choose(hash, &tried) {
            Some(name) => prop_assert!(left.contains(&name)),
            None => prop_assert!(left.is_empty()),
        }
    }
}
