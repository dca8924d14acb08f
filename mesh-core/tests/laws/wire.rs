//! What peers send: it never panics, what we write we can read, and a policy that cannot be read denies.

use std::net::IpAddr;

use expect_test::{Expect, expect};
use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Connection, Match, Policy, Scope, evaluate};
use mesh_core::service::Service;
use mesh_core::wire::{self, Address, read_authorization};
use mesh_core::workload::Workload;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost::Message;

use crate::generate::{end, policies, policy, service, workload};

proptest! {
    #![proptest_config(crate::cases(1000))]

    #[test]
    fn workload_survives_the_wire(workload in workload()) {
        let bytes = wire::workload::Workload::from(&workload).encode_to_vec();
        let back = wire::workload::Workload::decode(&bytes[..]).expect("what was encoded");
        prop_assert_eq!(Workload::try_from(back), Ok(workload));
    }

    #[test]
    fn service_survives_the_wire(service in service()) {
        let bytes = wire::workload::Service::from(&service).encode_to_vec();
        let back = wire::workload::Service::decode(&bytes[..]).expect("what was encoded");
        prop_assert_eq!(Service::try_from(back), Ok(service));
    }

    #[test]
    fn address_survives_the_wire_under_its_name(workload in workload(), service in service()) {
        for address in [Address::Workload(workload), Address::Service(service)] {
            let bytes = wire::workload::Address::from(&address).encode_to_vec();
            let back = wire::workload::Address::decode(&bytes[..]).expect("what was encoded");
            let back = Address::try_from(back).expect("what was a model");
            prop_assert_eq!(back.name(), address.name());
            prop_assert_eq!(back, address);
        }
    }

    #[test]
    fn policy_survives_the_wire(mut policy in policy()) {
        // The wire has no word for a clause without matches, which the generator does not make; and an ALLOW's match that
        // says nothing is read as one that never holds.
        if policy.action == Action::Allow {
            policy.rules.retain(|r| r.clauses.iter().all(|c| c.matches.iter().all(|m| *m != Match::default())));
        }
        let bytes = wire::security::Authorization::from(&policy).encode_to_vec();
        let back = wire::security::Authorization::decode(&bytes[..]).expect("what was encoded");
        prop_assert_eq!(read_authorization(back), Ok((policy, None)));
    }

    #[test]
    fn agent_that_does_not_know_audit_is_not_harmed_by_it(policy in policy(), end in end()) {
        let audit = Policy { action: Action::Audit, dry_run: false, ..policy };
        let mut sent = wire::security::Authorization::from(&audit);
        sent.audit = false;
        let (read, error) = read_authorization(sent).expect("it has a name");
        prop_assert_eq!(error, None);
        prop_assert!(evaluate([&read], &end.connection()).verdict.is_ok());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..256)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        workload in workload(), service in service(), policy in policy(), pick in 0..4u8, damage in damage(),
    ) {
        let mut bytes = match pick {
            0 => wire::workload::Address::from(&Address::Workload(workload)).encode_to_vec(),
            1 => wire::workload::Address::from(&Address::Service(service)).encode_to_vec(),
            2 => wire::security::Authorization::from(&policy).encode_to_vec(),
            _ => pod_added("uid", "name", "dev", "web").encode_to_vec(),
        };
        for (place, byte) in &damage.0 {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
        }
        if let Some(end) = damage.1 {
            bytes.truncate(end.index(bytes.len() + 1));
        }
        read_as_everything(&bytes);
        read_as_everything(&response_with(&bytes).encode_to_vec());
    }

    #[test]
    fn policy_out_of_range_is_read_or_denies(sent in authorization(), end in end()) {
        let named = !sent.name.is_empty();
        match read_authorization(sent.clone()) {
            Err(_) => prop_assert!(!named),
            Ok((policy, None)) => prop_assert_eq!(policy.dry_run, sent.dry_run && policy.action != Action::Audit),
            Ok((policy, Some(_))) => {
                let evaluated = evaluate([&policy], &end.connection());
                prop_assert_eq!(evaluated.verdict.is_err(), !sent.dry_run);
                prop_assert_eq!(evaluated.dry_run.is_some(), sent.dry_run);
            }
        }
    }

    #[test]
    fn unreadable_policy_denies_among_any_others(
        others in policies(), policy in policy(), place: usize, end in end(),
    ) {
        let mut all = others;
        all.insert(place % (all.len() + 1), Policy::unreadable(policy.key, policy.scope));
        prop_assert!(evaluate(&all, &end.connection()).verdict.is_err());
    }

    #[test]
    fn pod_names_of_any_kind_are_an_identity_or_an_error(namespace in ".{0,8}", account in ".{0,8}") {
        let request = pod_added("uid", "name", &namespace, &account);
        let back = wire::zds::WorkloadRequest::decode(&request.encode_to_vec()[..]).expect("what was encoded");
        let Some(wire::zds::workload_request::Payload::Add(add)) = back.payload else { panic!("an add") };
        let info = add.workload_info.expect("as sent");
        if let Ok(id) = SpiffeId::new("td", &info.namespace, &info.service_account) {
            prop_assert_eq!(id.namespace(), namespace);
            prop_assert_eq!(id.service_account(), account);
        }
    }
}

/// What a policy that one thing is wrong with becomes, and why.
fn check(spoil: impl FnOnce(&mut wire::security::Authorization), expect: Expect) {
    let mut sent = wire::security::Authorization {
        name: "web".into(),
        namespace: "prod".into(),
        scope: 0,
        action: 0,
        rules: vec![wire::security::Rule {
            clauses: vec![wire::security::Clause {
                matches: vec![wire::security::Match { not_destination_ports: vec![1], ..Default::default() }],
            }],
        }],
        dry_run: false,
        audit: false,
    };
    spoil(&mut sent);
    expect.assert_eq(&match read_authorization(sent) {
        Err(error) => format!("nothing: {error}"),
        Ok((policy, error)) => {
            let Policy { key, scope, action, dry_run, .. } = &policy;
            let connection = Connection {
                source: None,
                source_ip: IpAddr::from([10, 0, 0, 1]),
                destination_ip: IpAddr::from([10, 0, 0, 9]),
                destination_port: 80,
                from_node: false,
                way: mesh_core::policy::Way::Direct,
            };
            let verdict = match evaluate([&policy], &connection).verdict {
                Ok(_) => "allows".to_owned(),
                Err(denial) => denial.to_string(),
            };
            let error = error.map_or("read".to_owned(), |error| error.to_string());
            format!("{key} {scope:?} {action:?} dry_run={dry_run}: {verdict}: {error}")
        }
    });
}

fn field(m: &mut wire::security::Authorization) -> &mut wire::security::Match {
    &mut m.rules[0].clauses[0].matches[0]
}

#[test]
fn unreadable_policy_denies_its_scope_and_says_why() {
    let net = |address: &[u8], length| wire::security::Address { address: address.to_vec().into(), length };
    let nothing = || wire::security::StringMatch { match_type: None };
    check(|_| {}, expect!["prod/web Global Allow dry_run=false: allows: read"]);
    check(
        |a| *field(a) = wire::security::Match::default(),
        expect!["prod/web Global Allow dry_run=false: denied: ALLOW policies apply and none matched: read"],
    );
    check(|a| a.name.clear(), expect!["nothing: policy without a name"]);
    check(|a| a.scope = 1, expect!["prod/web Namespace Allow dry_run=false: allows: read"]);
    check(|a| a.scope = 2, expect!["prod/web WorkloadSelector Allow dry_run=false: allows: read"]);
    check(
        |a| a.scope = 3,
        expect![
            "prod/web Namespace Deny dry_run=false: denied by prod/web: scope 3 of policy prod/web is not one this version \
             knows"
        ],
    );
    check(
        |a| a.scope = -1,
        expect![
            "prod/web Namespace Deny dry_run=false: denied by prod/web: scope -1 of policy prod/web is not one this version \
             knows"
        ],
    );
    check(
        |a| (a.scope, a.action) = (2, 2),
        expect![
            "prod/web WorkloadSelector Deny dry_run=false: denied by prod/web: action 2 of policy prod/web is not one this \
             version knows"
        ],
    );
    check(
        |a| a.rules[0].clauses[0].matches.clear(),
        expect!["prod/web Global Deny dry_run=false: denied by prod/web: a clause of policy prod/web has no matches"],
    );
    check(
        |a| field(a).not_principals.push(nothing()),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: not_principals of policy prod/web has a match of no \
             known type"
        ],
    );
    check(
        |a| field(a).namespaces.push(nothing()),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: namespaces of policy prod/web has a match of no known \
             type"
        ],
    );
    check(
        |a| field(a).source_ips.push(net(&[10, 0, 0], 8)),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: source_ips of policy prod/web is not a network: 3 \
             bytes, prefix length 8"
        ],
    );
    check(
        |a| field(a).not_source_ips.push(net(&[], 0)),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: not_source_ips of policy prod/web is not a network: 0 \
             bytes, prefix length 0"
        ],
    );
    check(
        |a| field(a).destination_ips.push(net(&[10, 0, 0, 1], 33)),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: destination_ips of policy prod/web is not a network: 4 \
             bytes, prefix length 33"
        ],
    );
    check(
        |a| field(a).not_destination_ips.push(net(&[0; 16], 256)),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: not_destination_ips of policy prod/web is not a \
             network: 16 bytes, prefix length 256"
        ],
    );
    check(
        |a| field(a).destination_ports.push(65536),
        expect!["prod/web Global Deny dry_run=false: denied by prod/web: port 65536 of policy prod/web is above 65535"],
    );
    check(
        |a| field(a).not_destination_ports.push(u32::MAX),
        expect![
            "prod/web Global Deny dry_run=false: denied by prod/web: port 4294967295 of policy prod/web is above 65535"
        ],
    );
}

#[test]
fn unreadable_dry_run_forbids_nothing() {
    check(
        |a| (a.dry_run, a.action) = (true, 7),
        expect!["prod/web Global Deny dry_run=true: allows: action 7 of policy prod/web is not one this version knows"],
    );
    check(
        |a| (a.dry_run, a.scope) = (true, 7),
        expect![
            "prod/web Namespace Deny dry_run=true: allows: scope 7 of policy prod/web is not one this version knows"
        ],
    );
    check(
        |a| {
            (a.dry_run, a.audit, a.action) = (true, true, 1);
            field(a).destination_ports.push(70000);
        },
        expect!["prod/web Global Deny dry_run=true: allows: port 70000 of policy prod/web is above 65535"],
    );
}

#[test]
fn workload_that_cannot_be_read_says_why_and_what_is_left_out_has_its_default() {
    let check = |spoil: fn(&mut wire::workload::Workload), expect: Expect| {
        let mut sent = wire::workload::Workload { uid: "u".into(), namespace: "dev".into(), ..Default::default() };
        spoil(&mut sent);
        expect.assert_eq(&match Workload::try_from(sent) {
            Err(error) => error.to_string(),
            Ok(w) => {
                let waypoint = w.waypoint.map(|g| g.hbone_port);
                format!("{} capacity={} {:?} {:?} waypoint={waypoint:?}", w.identity, w.capacity, w.health, w.tunnel)
            }
        });
    };
    check(|_| {}, expect!["spiffe://cluster.local/ns/dev/sa/default capacity=1 Healthy None waypoint=None"]);
    check(
        |w| {
            let destination = wire::workload::gateway_address::Destination::Hostname(Default::default());
            w.waypoint = Some(wire::workload::GatewayAddress { destination: Some(destination), hbone_mtls_port: 0 });
        },
        expect!["spiffe://cluster.local/ns/dev/sa/default capacity=1 Healthy None waypoint=Some(15008)"],
    );
    check(
        |w| (w.status, w.capacity) = (9, Some(0)),
        expect!["spiffe://cluster.local/ns/dev/sa/default capacity=0 Unhealthy None waypoint=None"],
    );
    check(|w| w.uid.clear(), expect!["uid is missing in workload dev/"]);
    check(|w| w.namespace.clear(), expect!["identity of workload u"]);
    check(|w| w.service_account = "a/b".into(), expect!["identity of workload u"]);
    check(|w| w.trust_domain = "T".into(), expect!["identity of workload u"]);
    check(|w| w.tunnel_protocol = 2, expect!["tunnel_protocol 2 of workload u is not one this version knows"]);
    check(|w| w.addresses = vec![vec![1; 5].into()], expect!["addresses of workload u has 5 bytes, not 4 or 16"]);
    check(|w| w.waypoint = Some(Default::default()), expect!["gateway destination is missing in workload u"]);
    check(
        |w| w.authorization_policies = vec!["strict".into()],
        expect![[r#"authorization_policies "strict" of workload u is not namespace/name"#]],
    );
    check(
        |w| drop(w.services.insert("dev/".into(), Default::default())),
        expect![[r#"services "dev/" of workload u is not namespace/name"#]],
    );
    check(
        |w| {
            let port = wire::workload::Port { service_port: 80, target_port: 65536, app_protocol: 0 };
            w.services.insert("dev/web".into(), wire::workload::PortList { ports: vec![port] });
        },
        expect!["port 65536 of workload u is above 65535"],
    );
}

/// Reads `bytes` as each message of the wire, and converts what can be read.
fn read_as_everything(bytes: &[u8]) {
    if let Ok(address) = wire::workload::Address::decode(bytes) {
        let _ = Address::try_from(address).map(|address| address.name());
    }
    if let Ok(workload) = wire::workload::Workload::decode(bytes) {
        let _ = Workload::try_from(workload).map(|w| w.network_addresses().count());
    }
    if let Ok(service) = wire::workload::Service::decode(bytes) {
        let _ = Service::try_from(service).map(|s| s.port(80).copied());
    }
    if let Ok(authorization) = wire::security::Authorization::decode(bytes) {
        let _ = read_authorization(authorization);
    }
    if let Ok(request) = wire::zds::WorkloadRequest::decode(bytes)
        && let Some(wire::zds::workload_request::Payload::Add(add)) = request.payload
    {
        let info = add.workload_info.unwrap_or_default();
        let _ = SpiffeId::new("td", &info.namespace, &info.service_account);
    }
    if let Ok(response) = wire::discovery::DeltaDiscoveryResponse::decode(bytes) {
        for any in response.resources.into_iter().filter_map(|r| r.resource) {
            if let Ok(address) = wire::workload::Address::decode(&any.value[..]) {
                let _ = Address::try_from(address);
            }
            if let Ok(authorization) = wire::security::Authorization::decode(&any.value[..]) {
                let _ = read_authorization(authorization);
            }
        }
    }
}

fn response_with(bytes: &[u8]) -> wire::discovery::DeltaDiscoveryResponse {
    wire::discovery::DeltaDiscoveryResponse {
        resources: vec![wire::discovery::Resource {
            resource: Some(prost_types::Any { type_url: wire::ADDRESS_TYPE.to_owned(), value: bytes.to_vec() }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn pod_added(uid: &str, name: &str, namespace: &str, account: &str) -> wire::zds::WorkloadRequest {
    wire::zds::WorkloadRequest {
        payload: Some(wire::zds::workload_request::Payload::Add(wire::zds::AddWorkload {
            uid: uid.to_owned(),
            workload_info: Some(wire::zds::WorkloadInfo {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
            }),
        })),
    }
}

/// Bytes put over others, and a place to cut.
fn damage() -> impl Strategy<Value = (Vec<(Index, u8)>, Option<Index>)> {
    (vec((any::<Index>(), any::<u8>()), 0..4), option::weighted(0.3, any::<Index>()))
}

/// Policies as the wire can carry them, in range or not.
fn authorization() -> impl Strategy<Value = wire::security::Authorization> {
    let numbers = (select(vec![-1, 0, 1, 2, 3, i32::MAX]), select(vec![-1, 0, 1, 2, i32::MAX]));
    let clause = vec(wire_match(), 0..3).prop_map(|matches| wire::security::Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| wire::security::Rule { clauses });
    (select(vec!["", "a", "b"]), numbers, vec(rule, 0..3), any::<bool>(), any::<bool>()).prop_map(
        |(name, (scope, action), rules, dry_run, audit)| wire::security::Authorization {
            name: name.to_owned(),
            namespace: "prod".to_owned(),
            scope,
            action,
            rules,
            dry_run,
            audit,
        },
    )
}

fn wire_match() -> impl Strategy<Value = wire::security::Match> {
    let string = option::weighted(0.8, Just(wire::security::string_match::MatchType::Prefix("d".to_owned())))
        .prop_map(|match_type| wire::security::StringMatch { match_type });
    let net = (select(vec![0, 3, 4, 4, 16, 16, 17]), select(vec![0, 8, 32, 33, 128, 129, 256, u32::MAX]))
        .prop_map(|(len, length)| wire::security::Address { address: vec![10; len].into(), length });
    let port = select(vec![0, 80, 65535, 65536, u32::MAX]);
    (vec(string, 0..2), vec(net, 0..2), vec(port, 0..2), any::<bool>()).prop_map(|(strings, nets, ports, not)| {
        let empty = wire::security::Match::default();
        match not {
            false => wire::security::Match { principals: strings, source_ips: nets, destination_ports: ports, ..empty },
            true => wire::security::Match {
                not_namespaces: strings,
                not_destination_ips: nets,
                not_destination_ports: ports,
                ..empty
            },
        }
    })
}

#[test]
fn scope_of_an_unreadable_policy_is_kept() {
    for (number, scope) in [(0, Scope::Global), (1, Scope::Namespace), (2, Scope::WorkloadSelector)] {
        let sent = wire::security::Authorization { name: "a".into(), scope: number, action: 9, ..Default::default() };
        let (policy, error) = read_authorization(sent).expect("it has a name");
        assert_eq!((policy.scope, error.is_some()), (scope, true));
    }
}
