//! What the hook may choose, in shares of a hundred.

use mesh_core::addr::NetworkAddress;
use mesh_core::service::Mode;
use mesh_core::traffic::{Balance, ConnectionPool, LocalityPolicy, OutlierDetection, Rule, TrafficPolicy};
use mesh_core::workload::{GatewayAddress, GatewayDestination, Health, Scope, Tunnel};

use super::*;
use crate::outbound::route::tests::{port, service, workload};

const WEB: u64 = 1;
const DB: [u64; 2] = [2, 3];

/// web, db-1 and db-2 on this node, far elsewhere; the last three are behind 10.96.0.7:80 and fd96::7, and all pairs may talk.
struct World {
    snapshot: Snapshot,
    pods: Vec<Member>,
    in_force: InForce,
    service: Service,
}

impl World {
    fn new() -> Self {
        let service = service("shop", "db.shop.svc.cluster.local", &["10.96.0.7", "fd96::7"], &[(80, 8080)]);
        let mut this = Self { snapshot: Snapshot::default(), pods: Vec::new(), in_force: InForce::new(), service };
        for (number, name) in ["web", "db-1", "db-2", "far"].into_iter().enumerate() {
            let mut made = workload(name, &format!("10.0.1.{number}"));
            made.tunnel = Tunnel::Hbone;
            made.addresses.push(format!("fd00:1::{number}").parse().unwrap());
            if name != "web" {
                made.services.insert(this.service.key.clone(), vec![port(80, 8080)]);
            }
            if name == "far" {
                made.node = "n2".into();
            } else {
                let (workload, identity, addresses) = (made.uid.clone(), made.identity.clone(), made.addresses.clone());
                this.pods.push(Member { cookie: number as u64 + 1, workload, identity, addresses });
            }
            this.snapshot.upsert_workload(made);
        }
        this.snapshot.upsert_service(this.service.clone());
        for (source, destination) in [(WEB, DB[0]), (WEB, DB[1]), (DB[0], DB[1]), (DB[1], DB[0])] {
            for family in [4, 6] {
                let key = VerdictKey { source, destination, port: VerdictKey::OTHER_PORTS, family, pad: 0 };
                this.in_force.entry(destination).or_default().insert(key, Verdict::DIRECT);
            }
        }
        this
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Workload)) {
        let uid = mesh_core::workload::Uid::pod("c", "shop", name);
        let mut changed = Workload::clone(self.snapshot.workload(&uid).unwrap());
        change(&mut changed);
        self.snapshot.upsert_workload(changed);
    }

    fn policy(&mut self, policy: TrafficPolicy) {
        self.service(|service| {
            let rule = Rule { general: policy, ports: Default::default() };
            service.traffic.rules.insert("".into(), Arc::new(rule));
        });
    }

    fn service(&mut self, change: impl FnOnce(&mut Service)) {
        change(&mut self.service);
        self.snapshot.upsert_service(self.service.clone());
    }

    /// The upper ends of the shares of web's choices at the service's address, as `address:port<percent`.
    #[track_caller]
    fn check(&self, source: u64, asked: &str, expected: &str) {
        let service = self.snapshot.service(&self.service.key).unwrap();
        let all = choices(&self.snapshot, &Arc::from(""), &self.pods, &self.in_force, service);
        let asked: SocketAddr = asked.parse().unwrap();
        let key = ServiceKey { source, address: asked.ip().into(), port: asked.port(), pad: [0; 3] };
        let found = all.get(&key).map(|choices| choices.0).unwrap_or_default();
        let percent = |below: u32| (f64::from(below) / 42_949_672.96).round();
        let mut found: Vec<String> = found
            .iter()
            .filter(|choice| choice.below != 0)
            .map(|choice| {
                let at = SocketAddr::new(choice.address.into(), choice.port);
                format!("{at}<{}", percent(choice.below))
            })
            .collect();
        found.sort();
        assert_eq!(found.join(" "), expected);
    }

    fn check_v4(&self, expected: &str) {
        self.check(WEB, "10.96.0.7:80", expected);
    }
}

const BOTH: &str = "10.0.1.1:8080<33 10.0.1.2:8080<67";

#[test]
fn endpoints_here_get_their_shares_and_no_more() {
    let mut world = World::new();
    world.check_v4(BOTH);
    world.check(WEB, "[fd96::7]:80", "[fd00:1::1]:8080<33 [fd00:1::2]:8080<67");
    world.check(WEB, "10.96.0.7:81", "");
    world.change("far", |far| far.health = Health::Unhealthy);
    world.check_v4("10.0.1.1:8080<50 10.0.1.2:8080<100");
    world.change("db-2", |db| db.capacity = 3);
    world.check_v4("10.0.1.1:8080<25 10.0.1.2:8080<100");
    world.change("db-2", |db| db.services.clear());
    world.check_v4("10.0.1.1:8080<100");
    world.change("db-1", |db| db.health = Health::Unhealthy);
    world.check_v4("");
}

#[test]
fn a_pod_does_not_choose_itself_and_leaves_its_own_share_to_the_agent() {
    World::new().check(DB[0], "10.96.0.7:80", "10.0.1.2:8080<33");
}

#[test]
fn without_a_verdict_for_its_port_and_family_an_endpoint_is_the_agents() {
    let mut world = World::new();
    let key = |port, family| VerdictKey { source: WEB, destination: DB[0], port, family, pad: 0 };
    world.in_force.get_mut(&DB[0]).unwrap().insert(key(8080, 4), Verdict::RELAY);
    world.check_v4("10.0.1.2:8080<33");
    world.check(WEB, "[fd96::7]:80", "[fd00:1::1]:8080<33 [fd00:1::2]:8080<67");
    world.in_force.remove(&DB[1]);
    world.check_v4("");
}

#[test]
fn what_the_agent_would_do_more_than_choose_leaves_all_to_it() {
    let minute = Some(std::time::Duration::from_secs(60));
    let outliers = OutlierDetection {
        consecutive_failures: 1,
        interval: Default::default(),
        base_ejection: Default::default(),
        max_ejection_percent: 100,
        min_health_percent: 0,
    };
    let pool = ConnectionPool::default;
    let plain = TrafficPolicy::default;
    for (policy, expected) in [
        (plain(), BOTH),
        (TrafficPolicy { balance: Balance::Random, ..plain() }, BOTH),
        (TrafficPolicy { balance: Balance::RoundRobin, ..plain() }, ""),
        (TrafficPolicy { balance: Balance::SourceIp, ..plain() }, ""),
        (TrafficPolicy { outliers: Some(outliers), ..plain() }, ""),
        (TrafficPolicy { locality: Some(LocalityPolicy::Distribute(Vec::new())), ..plain() }, ""),
        (TrafficPolicy { pool: ConnectionPool { max_connections: Some(9), ..pool() }, ..plain() }, ""),
        (TrafficPolicy { pool: ConnectionPool { connect_timeout: minute, ..pool() }, ..plain() }, ""),
        (TrafficPolicy { pool: ConnectionPool { keepalive: Some(Default::default()), ..pool() }, ..plain() }, ""),
        (TrafficPolicy { pool: ConnectionPool { idle_timeout: minute, ..pool() }, ..plain() }, ""),
        (TrafficPolicy { pool: ConnectionPool { max_duration: minute, ..pool() }, ..plain() }, ""),
    ] {
        let mut world = World::new();
        world.policy(policy);
        world.check_v4(expected);
    }
    let mut world = World::new();
    let front = NetworkAddress::new("", "10.0.1.9".parse().unwrap());
    let gateway = GatewayAddress { destination: GatewayDestination::Address(front), hbone_port: 15008 };
    world.service(|service| service.waypoint = Some(gateway));
    world.check_v4("");
    let mut world = World::new();
    world.service(|service| service.load_balancing.mode = Mode::Passthrough);
    world.check_v4("");
}

#[test]
fn places_decide_who_shares() {
    let mut world = World::new();
    world.service(|service| {
        service.load_balancing.routing_preference = vec![Scope::Node];
        service.load_balancing.mode = Mode::Strict;
    });
    world.check_v4("10.0.1.1:8080<50 10.0.1.2:8080<100");
    world.service(|service| service.load_balancing.mode = Mode::Failover);
    world.check_v4("10.0.1.1:8080<50 10.0.1.2:8080<100");
    world.change("db-1", |db| db.node = "n2".into());
    world.check_v4("10.0.1.2:8080<100");
}

#[test]
fn an_address_that_is_another_services_is_not_chosen_for() {
    let mut world = World::new();
    let first = service("aaa", "other.aaa.svc.cluster.local", &["10.96.0.7"], &[(80, 1)]);
    world.service(|service| service.canonical = false);
    world.snapshot.upsert_service(first);
    world.check_v4("");
    world.check(WEB, "[fd96::7]:80", "[fd00:1::1]:8080<33 [fd00:1::2]:8080<67");
}
