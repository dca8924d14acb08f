//! The same policies say the same of a pair that talks without the agent and of one that the agent carries.

use mesh_core::policy::{Clause, Match, Rule, Scope, ServiceAccount, StringMatch};
use mesh_core::service::Service;
use mesh_core::workload::{GatewayAddress, GatewayDestination, PlaintextPorts, PolicyKey, Tunnel};

use super::*;
use crate::outbound::route::tests::{service, workload};

const WEB: u64 = 1;
const DB: u64 = 2;
const SHELL: u64 = 3;

/// web and db in `shop`, shell in `dev`; db has the policies.
struct World {
    snapshot: Snapshot,
    pods: Vec<Member>,
}

impl World {
    fn new(policies: Vec<Policy>) -> Self {
        let mut this = Self { snapshot: Snapshot::default(), pods: Vec::new() };
        for (cookie, name, namespace, v4, v6) in [
            (WEB, "web", "shop", "10.0.1.1", "fd00:1::1"),
            (DB, "db", "shop", "10.0.1.2", "fd00:1::2"),
            (SHELL, "shell", "dev", "10.0.1.3", "fd00:1::3"),
        ] {
            let mut made = workload(name, v4);
            made.namespace = namespace.into();
            made.tunnel = Tunnel::Hbone;
            made.identity = SpiffeId::new("cluster.local", namespace, name).unwrap();
            made.addresses.push(v6.parse().unwrap());
            let (workload, identity, addresses) = (made.uid.clone(), made.identity.clone(), made.addresses.clone());
            this.pods.push(Member { cookie, workload, identity, addresses });
            this.snapshot.upsert_workload(made);
        }
        this.db(|db| db.policies = policies.iter().map(|policy| policy.key.clone()).collect());
        policies.into_iter().for_each(|policy| this.snapshot.upsert_policy(policy));
        this
    }

    fn db(&mut self, change: impl FnOnce(&mut Workload)) {
        let mut db = Workload::clone(self.snapshot.workload(&self.pods[1].workload).unwrap());
        change(&mut db);
        self.snapshot.upsert_workload(db);
    }

    fn verdicts(&self) -> BTreeMap<VerdictKey, Verdict> {
        let to = |destination| verdicts(&self.snapshot, &network(), &self.pods, destination);
        self.pods.iter().flat_map(to).collect()
    }

    /// Who reaches db directly, by whom, family and port.
    fn direct(&self) -> String {
        let verdicts = self.verdicts();
        let mut found = Vec::new();
        for (source, name) in [(WEB, "web"), (SHELL, "shell")] {
            for family in [4, 6] {
                for port in [80, 5432] {
                    let key = VerdictKey { source, destination: DB, port, family, pad: 0 };
                    if effective(&verdicts, &key) == Verdict::DIRECT {
                        found.push(format!("{name}{family}:{port}"));
                    }
                }
            }
        }
        found.join(" ")
    }
}

const ALL: &str = "web4:80 web4:5432 web6:80 web6:5432 shell4:80 shell4:5432 shell6:80 shell6:5432";

fn network() -> Arc<str> {
    workload("any", "10.0.1.9").network
}

fn policy(action: Action, matches: Match) -> Policy {
    named("p", action, matches)
}

fn named(name: &str, action: Action, matches: Match) -> Policy {
    Policy {
        key: PolicyKey { namespace: "shop".into(), name: name.into() },
        scope: Scope::WorkloadSelector,
        action,
        dry_run: false,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![matches] }] }],
    }
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

#[test]
fn every_field_says_what_evaluate_says() {
    let none = Match::default;
    let fields = [
        Match { namespaces: exact("shop"), ..none() },
        Match { not_namespaces: exact("shop"), ..none() },
        Match { principals: exact("cluster.local/ns/dev/sa/shell"), ..none() },
        Match { principals: vec![StringMatch::Presence], ..none() },
        Match { not_principals: vec![StringMatch::Suffix("/sa/web".into())], ..none() },
        Match { service_accounts: vec![ServiceAccount { namespace: "shop".into(), name: "web".into() }], ..none() },
        Match { source_ips: vec!["10.0.1.1/32".parse().unwrap()], ..none() },
        Match { source_ips: vec!["fd00::/16".parse().unwrap()], ..none() },
        Match { not_source_ips: vec!["::ffff:10.0.1.0/120".parse().unwrap()], ..none() },
        Match { destination_ips: vec!["10.0.1.2/32".parse().unwrap()], ..none() },
        Match { not_destination_ips: vec!["10.0.0.0/8".parse().unwrap()], ..none() },
        Match { destination_ports: vec![80], ..none() },
        Match { not_destination_ports: vec![80, 443], ..none() },
        Match { namespaces: exact("shop"), destination_ports: vec![5432], ..none() },
        none(),
    ];
    let mut seen = BTreeSet::new();
    for action in [Action::Allow, Action::Deny] {
        for field in &fields {
            let world = World::new(vec![policy(action, field.clone())]);
            let verdicts = world.verdicts();
            let (source_pods, destination) = ([&world.pods[0], &world.pods[2]], &world.pods[1]);
            let db = world.snapshot.workload(&destination.workload).unwrap();
            for source in source_pods {
                for (from, to) in source.addresses.iter().zip(&destination.addresses) {
                    for port in [1, 79, 80, 81, 443, 5432, u16::MAX] {
                        let connection = Connection {
                            source: Some(&source.identity),
                            source_ip: *from,
                            destination_ip: *to,
                            destination_port: port,
                            from_node: false,
                            way: mesh_core::policy::Way::Direct,
                        };
                        let allowed = evaluate(world.snapshot.policies_for(db), &connection).verdict.is_ok();
                        let family = if to.is_ipv4() { 4 } else { 6 };
                        let key =
                            VerdictKey { source: source.cookie, destination: destination.cookie, port, family, pad: 0 };
                        let direct = effective(&verdicts, &key) == Verdict::DIRECT;
                        assert_eq!(direct, allowed, "{action:?} {field:?}: {from} to {to} port {port}");
                        seen.insert(direct);
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), 2, "some are allowed and some are not");
}

#[test]
fn without_policies_all_talk_to_all_and_nobody_to_itself() {
    let verdicts = World::new(Vec::new()).verdicts();
    let rest = verdicts.iter().filter(|(key, _)| key.port == VerdictKey::OTHER_PORTS);
    assert_eq!(rest.filter(|(key, verdict)| key.source != key.destination && **verdict == Verdict::DIRECT).count(), 12);
    assert_eq!(verdicts.len(), 12, "{verdicts:#?}");
    let tunnel = VerdictKey { source: WEB, destination: DB, port: HBONE_PORT, family: 4, pad: 0 };
    assert_eq!(effective(&verdicts, &tunnel), Verdict::RELAY, "tunnels to a pod are the agent's");
}

#[test]
fn only_what_a_verdict_depends_on_makes_it_be_asked_again() {
    let mut world = World::new(vec![policy(Action::Allow, Match { namespaces: exact("shop"), ..Match::default() })]);
    let basis = |world: &World| Basis::of(&world.snapshot, &network(), &world.pods, 1, &world.pods[1]);
    let before = basis(&world);
    world.snapshot.upsert_workload(workload("elsewhere", "10.0.2.1"));
    world
        .snapshot
        .upsert_policy(Policy { scope: Scope::WorkloadSelector, ..named("other", Action::Deny, Match::default()) });
    assert_eq!(before, basis(&world));
    let changes: [&dyn Fn(&mut World); 5] = [
        &|world| world.db(|db| db.encrypt_always = true),
        &|world| world.db(|_| {}),
        &|world| world.snapshot.upsert_policy(policy(Action::Allow, Match::default())),
        &|world| {
            world
                .snapshot
                .upsert_policy(Policy { scope: Scope::Global, ..named("all", Action::Deny, Match::default()) })
        },
        &|world| drop(world.snapshot.remove_workload(&world.pods[0].workload.clone())),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = World { snapshot: world.snapshot.clone(), pods: world.pods.clone() };
        change(&mut other);
        assert_ne!(before, basis(&other), "change {number}");
    }
    assert_ne!(before, Basis::of(&world.snapshot, &network(), &world.pods, 2, &world.pods[1]));
}

#[test]
fn what_only_the_agent_can_do_is_left_to_it() {
    let gateway = || {
        let destination = GatewayDestination::Address(NetworkAddress::new(network(), "10.0.9.9".parse().unwrap()));
        Some(GatewayAddress { destination, hbone_port: HBONE_PORT })
    };
    let changed = |change: &dyn Fn(&mut Workload)| {
        let mut world = World::new(Vec::new());
        world.db(change);
        world.direct()
    };
    assert_eq!(changed(&|_| {}), ALL);
    assert_eq!(changed(&|db| db.waypoint = gateway()), "");
    assert_eq!(changed(&|db| db.encrypt_always = true), "");
    assert_eq!(changed(&|db| db.tunnel = Tunnel::None), "");
    assert_eq!(changed(&|db| db.identity = SpiffeId::new("cluster.local", "shop", "other").unwrap()), "");
    assert_eq!(changed(&|db| db.addresses = vec!["10.0.1.2".parse().unwrap()]), "");
    assert_eq!(changed(&|db| db.network = "elsewhere".into()), "");
    assert_eq!(changed(&|db| db.policies = vec![PolicyKey { namespace: "shop".into(), name: "coming".into() }]), "");
    let plain = |all, ports: &[u16], except: &[u16]| PlaintextPorts {
        all,
        ports: ports.iter().copied().collect(),
        except: except.iter().copied().collect(),
    };
    let other_port = "web4:80 web6:80 shell4:80 shell6:80";
    assert_eq!(changed(&|db| db.plaintext = plain(false, &[5432], &[])), other_port);
    assert_eq!(changed(&|db| db.plaintext = plain(true, &[], &[80])), other_port);

    let recorded = |change: &dyn Fn(&mut Policy)| {
        let mut of_nobody = policy(Action::Deny, Match { namespaces: exact("nobody"), ..Match::default() });
        change(&mut of_nobody);
        World::new(vec![of_nobody]).direct()
    };
    assert_eq!(recorded(&|_| {}), ALL);
    assert_eq!(recorded(&|policy| policy.dry_run = true), "");
    assert_eq!(recorded(&|policy| policy.action = Action::Audit), "");

    let many = Match { destination_ports: (1000..1100).collect(), ..Match::default() };
    assert_eq!(World::new(vec![policy(Action::Deny, many)]).direct(), "", "too many ports");
}

#[test]
fn an_address_that_others_claim_is_left_to_the_agent() {
    let mut world = World::new(Vec::new());
    let mut twin = workload("twin", "10.0.1.2");
    twin.identity = world.pods[1].identity.clone();
    world.snapshot.upsert_workload(twin);
    assert_eq!(world.direct(), "");
    let mut world = World::new(Vec::new());
    let at = |ip: &str| NetworkAddress::new(network(), ip.parse().unwrap());
    let claimed: Service = service("shop", "claims.shop.svc", &[], &[(80, 80)]);
    world.snapshot.upsert_service(Service { addresses: vec![at("fd00:1::2")], ..claimed });
    assert_eq!(world.direct(), "");
}

#[test]
fn a_source_is_let_in_by_all_of_its_addresses_or_left_to_the_agent() {
    let of_first = Match { source_ips: vec!["10.0.1.1/32".parse().unwrap()], ..Match::default() };
    let mut world = World::new(vec![policy(Action::Allow, of_first)]);
    assert_eq!(world.direct(), "web4:80 web4:5432");
    world.pods[0].addresses.push("10.0.7.1".parse().unwrap());
    assert_eq!(world.direct(), "");
}

#[test]
fn no_step_lets_in_what_neither_end_lets_in() {
    let rules = [
        vec![],
        vec![policy(Action::Deny, Match { destination_ports: vec![5432], ..Match::default() })],
        vec![policy(Action::Allow, Match { destination_ports: vec![5432], ..Match::default() })],
        vec![policy(
            Action::Allow,
            Match { namespaces: exact("shop"), destination_ports: vec![80], ..Match::default() },
        )],
        vec![policy(Action::Deny, Match::default())],
        vec![named("q", Action::Deny, Match { not_destination_ports: vec![80, 443], ..Match::default() })],
    ];
    let all: Vec<_> = rules.into_iter().map(|policies| World::new(policies).verdicts()).collect();
    for from in &all {
        for to in &all {
            let mut now = from.clone();
            let [narrower, wider, silent] = steps(from, to);
            let done = |now: &mut BTreeMap<VerdictKey, Verdict>, (key, verdict): (VerdictKey, Option<Verdict>)| {
                match verdict {
                    Some(verdict) => now.insert(key, verdict),
                    None => now.remove(&key),
                };
            };
            let lets_in = |verdicts: &BTreeMap<VerdictKey, Verdict>, source, port, family| {
                let key = VerdictKey { source, destination: DB, port, family, pad: 0 };
                effective(verdicts, &key) == Verdict::DIRECT
            };
            let count = narrower.len();
            for (number, step) in narrower.into_iter().chain(wider).chain(silent).enumerate() {
                done(&mut now, step);
                for (source, port, family) in
                    [WEB, SHELL].into_iter().flat_map(|s| [80, 443, 5432, 7].map(|p| [(s, p, 4), (s, p, 6)])).flatten()
                {
                    let (before, after) = (lets_in(from, source, port, family), lets_in(to, source, port, family));
                    let between = lets_in(&now, source, port, family);
                    assert!(!between || before || after, "step {number}: {source} to {port}");
                    assert!(!between || after || number + 1 < count, "step {number}: still lets {source} in to {port}");
                }
            }
            assert_eq!(now, *to);
        }
    }
}
