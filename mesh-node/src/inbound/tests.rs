//! What a live connection's policies say of it today.

use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch};
use mesh_core::workload::{GatewayAddress, GatewayDestination, PolicyKey, ServiceKey, Uid};

use super::*;
use crate::outbound::route::tests::{port, service, workload};

#[test]
fn strict_revokes_what_is_plain_and_spares_the_node_the_mesh_and_what_goes_out() {
    let s = world(&["strict"], vec![strict()]);
    let plain = facts(&s);
    let end = revoked(&s, &plain).expect("STRICT forbids it");
    assert_eq!((end.reason, end.policy.map(|key| key.to_string())), ("policy_denied", Some("shop/strict".to_owned())));
    let probe = Facts { from_node: true, ..plain.clone() };
    let web = SpiffeId::new("cluster.local", "shop", "web").expect("an identity");
    let meshed = Facts { source_identity: Some(web), security: Security::MutualTls, ..plain.clone() };
    let outbound = Facts { direction: Direction::Outbound, ..plain };
    for spared in [probe, meshed, outbound] {
        assert_eq!(revoked(&s, &spared), None, "{spared:?}");
    }
}

#[test]
fn a_policy_on_its_way_decides_nothing_and_a_deny_that_is_here_does() {
    let nobody = Policy { key: key("nobody"), action: Action::Allow, rules: Vec::new(), ..strict() };
    let s = world(&["nobody", "coming"], vec![nobody.clone()]);
    assert_eq!(revoked(&s, &facts(&s)), None, "an ALLOW may be on its way");
    let s = world(&["nobody"], vec![nobody]);
    assert_eq!(revoked(&s, &facts(&s)).map(|end| end.reason), Some("no_allow_matched"));
    let s = world(&["strict", "coming"], vec![strict()]);
    assert_eq!(revoked(&s, &facts(&s)).map(|end| end.reason), Some("policy_denied"));
    let s = world(&["coming"], Vec::new());
    assert_eq!(revoked(&s, &facts(&s)), None, "a DENY may be on its way");
}

/// What PeerAuthentication STRICT becomes.
fn strict() -> Policy {
    let unproven = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    Policy {
        key: key("strict"),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        dry_run: false,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![unproven] }] }],
    }
}

fn key(name: &str) -> PolicyKey {
    PolicyKey { namespace: "shop".into(), name: name.into() }
}

/// One pod that lists `policies`, and those that have arrived.
fn world(policies: &[&str], arrived: Vec<Policy>) -> Snapshot {
    let mut s = Snapshot::default();
    let mut db = workload("db", "10.0.1.1");
    db.policies = policies.iter().map(|name| key(name)).collect();
    s.upsert_workload(db);
    arrived.into_iter().for_each(|policy| s.upsert_policy(policy));
    s
}

/// A plaintext connection to the pod.
fn facts(s: &Snapshot) -> Facts {
    let to = SocketAddr::from(([10, 0, 1, 1], 7000));
    let mut facts = Facts::new(Direction::Inbound, ([10, 0, 9, 9], 40000).into(), to);
    facts.destination = s.workload(&Uid::pod("c", "shop", "db")).cloned();
    facts.target = Some(PodAddr::new(to));
    facts
}

#[test]
fn a_workload_with_a_waypoint_is_reached_through_it_and_what_was_there_before_lives() {
    let mut s = world(&["strict"], vec![strict()]);
    let mut db = (**s.workload(&Uid::pod("c", "shop", "db")).expect("known")).clone();
    let gate = workload("gate", "10.0.9.9");
    let address = gate.network_addresses().next().expect("one");
    db.waypoint = Some(GatewayAddress { destination: GatewayDestination::Address(address), hbone_port: 15008 });
    s.upsert_workload(gate.clone());
    s.upsert_workload(db.clone());
    let verdict = |s: &Snapshot, db: &Workload, who: Option<SpiffeId>, named: Option<ServiceKey>| {
        let facts = Facts { source_identity: who, named, ..facts(s) };
        decide(s, db, &facts, facts.client.0, facts.target.expect("set").0).verdict.err().map(|denial| denial.reason())
    };
    let web = Some(workload("web", "10.0.1.2").identity);
    assert_eq!(verdict(&s, &db, Some(gate.identity.clone()), None), None);
    assert_eq!(verdict(&s, &db, web.clone(), None), Some("waypoint_required"));
    assert_eq!(verdict(&s, &db, None, None), Some("waypoint_required"));
    assert_eq!(revoked(&s, &facts(&s)), None);

    // A policy that selects the workload is asked about the waypoint of the workload, which has not asked it about the client; of a
    // service's it has.
    let nobody = Policy { key: key("nobody"), action: Action::Allow, rules: Vec::new(), ..strict() };
    s.upsert_policy(nobody);
    let mut service = service("shop", "db.shop.svc", &[], &[(80, 7000)]);
    service.waypoint = db.waypoint.clone();
    db.policies.push(key("nobody"));
    db.services.insert(service.key.clone(), vec![port(80, 7000)]);
    s.upsert_workload(db.clone());
    let named = Some(service.key.clone());
    assert_eq!(verdict(&s, &db, Some(gate.identity.clone()), None), Some("no_allow_matched"));
    assert_eq!(
        verdict(&s, &db, Some(gate.identity.clone()), named.clone()),
        Some("no_allow_matched"),
        "not its waypoint"
    );
    s.upsert_service(service);
    assert_eq!(verdict(&s, &db, Some(gate.identity), named.clone()), None);
    assert_eq!(verdict(&s, &db, web, named), Some("waypoint_required"), "a name alone opens nothing");
}
