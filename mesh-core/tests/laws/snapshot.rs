//! A snapshot after any history is the one built from what is left, and answers as a look through plain lists does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use expect_test::{Expect, expect};
use mesh_core::addr::NetworkAddress;
use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Policy, Rule, Scope, evaluate};
use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::wire;
use mesh_core::workload::{PolicyKey, Port, ServiceKey, Uid, Workload};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{end, network_address, policy, policy_key, service, service_key, uid, workload};

#[derive(Clone, Debug)]
enum Change {
    Workload(Box<Workload>),
    NoWorkload(Uid),
    Service(Box<Service>),
    NoService(ServiceKey),
    Policy(Policy),
    NoPolicy(PolicyKey),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => workload().prop_map(|w| Change::Workload(Box::new(w))),
        1 => uid().prop_map(Change::NoWorkload),
        3 => service().prop_map(|s| Change::Service(Box::new(s))),
        1 => service_key().prop_map(Change::NoService),
        3 => policy().prop_map(Change::Policy),
        1 => policy_key().prop_map(Change::NoPolicy),
    ]
}

/// Plain lists of what is left, in place of the snapshot's indexes.
#[derive(Clone, Default)]
struct Lists {
    workloads: BTreeMap<Uid, Workload>,
    services: BTreeMap<ServiceKey, Service>,
    policies: BTreeMap<PolicyKey, Policy>,
}

impl Lists {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Workload(w) => drop(self.workloads.insert(w.uid.clone(), *w)),
            Change::NoWorkload(uid) => drop(self.workloads.remove(&uid)),
            Change::Service(s) => drop(self.services.insert(s.key.clone(), *s)),
            Change::NoService(key) => drop(self.services.remove(&key)),
            Change::Policy(p) => drop(self.policies.insert(p.key.clone(), p)),
            Change::NoPolicy(key) => drop(self.policies.remove(&key)),
        }
    }

    fn workloads_at(&self, address: &NetworkAddress) -> Vec<&Workload> {
        self.workloads.values().filter(|w| w.network_addresses().any(|a| a == *address)).collect()
    }

    fn workload_at(&self, address: &NetworkAddress) -> Option<&Workload> {
        match self.workloads_at(address).into_iter().filter(|w| !w.host_network).collect::<Vec<_>>()[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    fn service_at(&self, address: &NetworkAddress) -> Option<&Service> {
        let claims = || self.services.values().filter(|s| s.addresses.contains(address));
        claims().find(|s| s.canonical).or_else(|| claims().next())
    }

    fn endpoints(&self, service: &ServiceKey) -> Vec<&Workload> {
        self.workloads.values().filter(|w| w.services.contains_key(service)).collect()
    }

    fn policies_for(&self, w: &Workload) -> Vec<&Policy> {
        let applies = |p: &&Policy| match p.scope {
            Scope::Global => true,
            Scope::Namespace => p.key.namespace == w.namespace || w.policies.contains(&p.key),
            Scope::WorkloadSelector => w.policies.contains(&p.key),
        };
        self.policies.values().filter(applies).collect()
    }

    fn rebuild(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.policies.values().cloned().for_each(|p| snapshot.upsert_policy(p));
        self.services.values().cloned().for_each(|s| snapshot.upsert_service(s));
        self.workloads.values().cloned().for_each(|w| snapshot.upsert_workload(w));
        snapshot
    }
}

fn apply(snapshot: &mut Snapshot, change: Change) {
    match change {
        Change::Workload(w) => snapshot.upsert_workload(*w),
        Change::NoWorkload(uid) => drop(snapshot.remove_workload(&uid)),
        Change::Service(s) => snapshot.upsert_service(*s),
        Change::NoService(key) => drop(snapshot.remove_service(&key)),
        Change::Policy(p) => snapshot.upsert_policy(p),
        Change::NoPolicy(key) => drop(snapshot.remove_policy(&key)),
    }
}

/// Asks `snapshot` everything that can be asked and compares the answers with a look through `lists`.
fn agree(snapshot: &Snapshot, lists: &Lists, addresses: &[NetworkAddress], services: &[ServiceKey]) {
    let mut workloads: Vec<_> = snapshot.workloads().map(Arc::as_ref).collect();
    workloads.sort_by_key(|w| &w.uid);
    assert_eq!(workloads, lists.workloads.values().collect::<Vec<_>>());
    let mut all: Vec<_> = snapshot.services().map(Arc::as_ref).collect();
    all.sort_by_key(|s| &s.key);
    assert_eq!(all, lists.services.values().collect::<Vec<_>>());
    let mut policies: Vec<_> = snapshot.policies().map(Arc::as_ref).collect();
    policies.sort_by_key(|p| &p.key);
    assert_eq!(policies, lists.policies.values().collect::<Vec<_>>());

    for address in addresses {
        assert_eq!(snapshot.workload_at(address).map(Arc::as_ref), lists.workload_at(address), "{address}");
        assert_eq!(snapshot.service_at(address).map(Arc::as_ref), lists.service_at(address), "{address}");
        let seen: Vec<_> = snapshot.workloads_at(&address.network, address.ip).map(Arc::as_ref).collect();
        assert_eq!(seen, lists.workloads_at(address), "{address}");
    }
    for key in services {
        assert_eq!(snapshot.endpoints(key).map(Arc::as_ref).collect::<Vec<_>>(), lists.endpoints(key), "{key}");
        assert_eq!(snapshot.service(key).map(Arc::as_ref), lists.services.get(key));
    }
    for w in lists.workloads.values() {
        assert_eq!(snapshot.workload(&w.uid).map(Arc::as_ref), Some(w));
        let mut seen: Vec<_> = snapshot.policies_for(w).collect();
        seen.sort_by_key(|p| &p.key);
        assert_eq!(seen, lists.policies_for(w), "{}", w.uid);
        let missing: Vec<_> = w.policies.iter().filter(|key| !lists.policies.contains_key(key)).collect();
        assert_eq!(snapshot.missing_policies(w).collect::<Vec<_>>(), missing);
        assert!(w.policies.iter().all(|key| snapshot.policy(key).map(Arc::as_ref) == lists.policies.get(key)));
    }
}

proptest! {
    #![proptest_config(crate::cases(500))]

    #[test]
    fn any_history_ends_where_a_rebuild_does(
        before in vec(change(), 0..20), after in vec(change(), 0..20),
        addresses in vec(network_address(), 8), services in vec(service_key(), 4),
    ) {
        let (mut snapshot, mut lists) = (Snapshot::default(), Lists::default());
        for change in before {
            apply(&mut snapshot, change.clone());
            lists.apply(change);
        }
        let (published, then) = (snapshot.clone(), lists.clone());
        for change in after {
            apply(&mut snapshot, change.clone());
            lists.apply(change);
        }
        agree(&snapshot, &lists, &addresses, &services);
        agree(&lists.rebuild(), &lists, &addresses, &services);
        // What was published stays as it was.
        agree(&published, &then, &addresses, &services);
    }

    #[test]
    fn nothing_stays_behind_when_all_is_removed(changes in vec(change(), 0..30)) {
        let (mut snapshot, mut lists) = (Snapshot::default(), Lists::default());
        for change in changes {
            apply(&mut snapshot, change.clone());
            lists.apply(change);
        }
        for (uid, w) in &lists.workloads {
            assert_eq!(snapshot.remove_workload(uid).as_deref(), Some(w));
            prop_assert!(snapshot.remove_workload(uid).is_none());
        }
        for (key, s) in &lists.services {
            assert_eq!(snapshot.remove_service(key).as_deref(), Some(s));
        }
        for (key, p) in &lists.policies {
            assert_eq!(snapshot.remove_policy(key).as_deref(), Some(p));
        }
        prop_assert_eq!(format!("{snapshot:?}"), format!("{:?}", Snapshot::default()));
    }

    #[test]
    fn listing_an_implied_policy_changes_no_verdict(
        policies in vec(policy(), 0..6), mut workload in workload(), end in end(),
    ) {
        let mut snapshot = Snapshot::default();
        policies.iter().cloned().for_each(|p| snapshot.upsert_policy(p));
        let plain = evaluate(snapshot.policies_for(&workload), &end.connection());
        let implied: Vec<_> = snapshot.policies_for(&workload).map(|p| p.key.clone()).collect();
        workload.policies.extend(implied);
        prop_assert_eq!(evaluate(snapshot.policies_for(&workload), &end.connection()), plain);
    }
}

#[test]
fn policies_for_a_workload_are_of_the_mesh_its_namespace_and_its_list_each_once() {
    let check = |namespace: &str, lists: &[&str], expect: Expect| {
        let mut snapshot = Snapshot::default();
        for (text, scope) in [
            ("root/all", Scope::Global),
            ("dev/own", Scope::Namespace),
            ("prod/own", Scope::Namespace),
            ("dev/some", Scope::WorkloadSelector),
            ("root/strict", Scope::WorkloadSelector),
        ] {
            snapshot.upsert_policy(audit(text, scope));
        }
        let mut workload = pod(namespace, "web", "10.0.0.1");
        workload.policies = lists.iter().map(|text| policy_named(text)).collect();
        let seen: Vec<_> = snapshot.policies_for(&workload).map(|p| p.key.to_string()).collect();
        let missing: Vec<_> = snapshot.missing_policies(&workload).map(ToString::to_string).collect();
        expect.assert_eq(&format!("{}; missing {}", seen.join(" "), missing.join(" ")));
    };
    check("test", &[], expect!["root/all; missing "]);
    check("dev", &[], expect!["root/all dev/own; missing "]);
    check("dev", &["dev/some"], expect!["root/all dev/own dev/some; missing "]);
    check("dev", &["root/strict", "dev/some"], expect!["root/all dev/own root/strict dev/some; missing "]);
    check("dev", &["dev/own"], expect!["root/all dev/own; missing "]);
    check("dev", &["root/all", "dev/own", "dev/some"], expect!["root/all dev/own dev/some; missing "]);
    check("dev", &["dev/some", "dev/some"], expect!["root/all dev/own dev/some; missing "]);
    check("dev", &["prod/own"], expect!["root/all dev/own prod/own; missing "]);
    check("dev", &["dev/late", "dev/some"], expect!["root/all dev/own dev/some; missing dev/late"]);
    check("root", &[], expect!["root/all; missing "]);
}

#[test]
fn policy_that_is_listed_and_of_the_namespace_is_audited_once() {
    let mut snapshot = Snapshot::default();
    snapshot.upsert_policy(audit("dev/all", Scope::Namespace));
    let mut workload = pod("dev", "web", "10.0.0.1");
    workload.policies = vec![policy_named("dev/all"), policy_named("dev/all")];
    let connection = mesh_core::policy::Connection {
        source: None,
        source_ip: IpAddr::from([10, 0, 0, 2]),
        destination_ip: IpAddr::from([10, 0, 0, 1]),
        destination_port: 80,
        from_node: false,
        way: mesh_core::policy::Way::Direct,
    };
    let evaluated = evaluate(snapshot.policies_for(&workload), &connection);
    assert_eq!(evaluated.audited, [policy_named("dev/all")]);
}

#[test]
fn policy_that_changes_its_scope_leaves_the_old_one() {
    let mut snapshot = Snapshot::default();
    let (here, there) = (pod("dev", "web", "10.0.0.1"), pod("prod", "web", "10.0.0.2"));
    let applies = |snapshot: &Snapshot| [&here, &there].map(|w| snapshot.policies_for(w).count());
    for (scope, expected) in [
        (Scope::Global, [1, 1]),
        (Scope::Namespace, [1, 0]),
        (Scope::WorkloadSelector, [0, 0]),
        (Scope::Namespace, [1, 0]),
        (Scope::Global, [1, 1]),
    ] {
        snapshot.upsert_policy(audit("dev/p", scope));
        assert_eq!(applies(&snapshot), expected, "{scope:?}");
    }
    snapshot.remove_policy(&policy_named("dev/p"));
    assert_eq!(applies(&snapshot), [0, 0]);
}

#[test]
fn host_network_pods_share_their_nodes_address() {
    let at = NetworkAddress::new("", IpAddr::from([192, 0, 2, 1]));
    let name = |snapshot: &Snapshot| snapshot.workload_at(&at).map(|w| w.name.to_string());
    let sharing = |snapshot: &Snapshot| snapshot.workloads_at(&at.network, at.ip).count();
    let host = |name: &str| Workload { host_network: true, ..pod("dev", name, "192.0.2.1") };

    let mut snapshot = Snapshot::default();
    snapshot.upsert_workload(host("proxy"));
    assert_eq!((name(&snapshot), sharing(&snapshot)), (None, 1));
    snapshot.upsert_workload(host("cni"));
    assert_eq!((name(&snapshot), sharing(&snapshot)), (None, 2));
    snapshot.upsert_workload(pod("dev", "web", "192.0.2.1"));
    assert_eq!((name(&snapshot), sharing(&snapshot)), (Some("web".into()), 3));
    snapshot.upsert_workload(pod("dev", "twin", "192.0.2.1"));
    assert_eq!((name(&snapshot), sharing(&snapshot)), (None, 4));
    snapshot.remove_workload(&Uid::pod("c", "dev", "web"));
    assert_eq!((name(&snapshot), sharing(&snapshot)), (Some("twin".into()), 3));
    snapshot.upsert_workload(pod("dev", "twin", "192.0.2.2"));
    assert_eq!((name(&snapshot), sharing(&snapshot)), (None, 2));
}

#[test]
fn addresses_of_other_networks_are_other_addresses() {
    let mut snapshot = Snapshot::default();
    snapshot.upsert_workload(Workload { network: "east".into(), ..pod("dev", "east", "10.0.0.1") });
    snapshot.upsert_workload(Workload { network: "west".into(), ..pod("dev", "west", "10.0.0.1") });
    let at = |network: &str, ip: &str| {
        let ip = ip.parse().expect("an address");
        snapshot.workload_at(&NetworkAddress::new(network, ip)).map(|w| w.name.to_string())
    };
    assert_eq!(at("east", "10.0.0.1").as_deref(), Some("east"));
    assert_eq!(at("west", "10.0.0.1").as_deref(), Some("west"));
    assert_eq!(at("west", "::ffff:10.0.0.1").as_deref(), Some("west"));
    assert_eq!(at("", "10.0.0.1"), None);
}

#[test]
fn endpoints_wait_for_their_service() {
    let key = ServiceKey { namespace: "dev".into(), hostname: "web.local".into() };
    let mut snapshot = Snapshot::default();
    let mut serving = pod("dev", "web", "10.0.0.1");
    serving.services.insert(key.clone(), vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }]);
    let names = |snapshot: &Snapshot| snapshot.endpoints(&key).map(|w| w.name.to_string()).collect::<Vec<_>>();

    snapshot.upsert_workload(serving.clone());
    assert_eq!((snapshot.service(&key).is_some(), names(&snapshot)), (false, vec!["web".to_owned()]));
    let arrived =
        wire::workload::Service { hostname: "web.local".into(), namespace: "dev".into(), ..Default::default() };
    snapshot.upsert_service(arrived.try_into().expect("a service"));
    assert_eq!((snapshot.service(&key).is_some(), names(&snapshot)), (true, vec!["web".to_owned()]));
    snapshot.remove_service(&key);
    assert_eq!((snapshot.service(&key).is_some(), names(&snapshot)), (false, vec!["web".to_owned()]));
    serving.services.clear();
    snapshot.upsert_workload(serving);
    assert_eq!(names(&snapshot), Vec::<String>::new());
}

fn pod(namespace: &str, name: &str, ip: &str) -> Workload {
    let ip: IpAddr = ip.parse().expect("an address");
    let octets = match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let sent = wire::workload::Workload {
        uid: Uid::pod("c", namespace, name).to_string(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        addresses: vec![octets.into()],
        ..Default::default()
    };
    let workload = Workload::try_from(sent).expect("a workload");
    assert_eq!(workload.identity, SpiffeId::new("cluster.local", namespace, "default").expect("an identity"));
    workload
}

fn audit(text: &str, scope: Scope) -> Policy {
    Policy { key: policy_named(text), scope, action: Action::Audit, dry_run: false, rules: vec![Rule::default()] }
}

fn policy_named(text: &str) -> PolicyKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    PolicyKey { namespace: namespace.into(), name: name.into() }
}
