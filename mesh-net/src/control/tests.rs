use mesh_core::policy::Action;
use mesh_core::wire::discovery::Resource;
use mesh_core::wire::{AUTHORIZATION_TYPE, security, workload as wire};
use proptest::prelude::*;
use prost_types::Any;

use super::*;

fn resource(kind: Kind, name: &str, version: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any { type_url: kind.type_url().to_owned(), value }),
        aliases: Vec::new(),
    }
}

fn workload(uid: &str, ip: &[u8], version: &str) -> Resource {
    let workload = wire::Workload {
        uid: uid.to_owned(),
        name: uid.to_owned(),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        trust_domain: "td".to_owned(),
        addresses: vec![bytes::Bytes::copy_from_slice(ip)],
        ..wire::Workload::default()
    };
    let message = wire::Address { r#type: Some(wire::address::Type::Workload(workload)) };
    resource(Kind::Address, uid, version, message.encode_to_vec())
}

fn policy(name: &str, action: i32, version: &str) -> Resource {
    let message = security::Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: 1,
        action,
        ..security::Authorization::default()
    };
    resource(Kind::Authorization, &format!("shop/{name}"), version, message.encode_to_vec())
}

fn response(resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn versions(believed: &Believed, kind: Kind) -> BTreeMap<String, String> {
    believed.versions(kind).collect()
}

#[test]
fn a_bad_address_is_named_and_keeps_its_last_good_version_beside_the_good_ones() {
    let mut believed = Believed::default();
    let first = response(vec![workload("a", &[10, 0, 0, 1], "1"), workload("b", &[10, 0, 0, 2], "1")], &[]);
    assert!(believed.apply(Kind::Address, first).refused.is_empty());

    let mixed = response(vec![workload("a", &[1, 2, 3], "2"), workload("b", &[10, 0, 0, 3], "2")], &[]);
    let applied = believed.apply(Kind::Address, mixed);
    assert_eq!(applied.updated, 1);
    assert_eq!(applied.error().unwrap(), "a: addresses of workload a has 3 bytes, not 4 or 16");
    let ips: Vec<String> = ["a", "b"]
        .iter()
        .map(|uid| {
            let uid = mesh_core::workload::Uid((*uid).into());
            believed.snapshot().workload(&uid).unwrap().addresses[0].to_string()
        })
        .collect();
    assert_eq!(ips, ["10.0.0.1", "10.0.0.3"]);
    let held = versions(&believed, Kind::Address);
    assert_eq!((held["a"].as_str(), held["b"].as_str()), ("1", "2"));
}

#[test]
fn a_policy_that_cannot_be_read_denies_and_is_asked_for_again() {
    let mut believed = Believed::default();
    believed.apply(Kind::Authorization, response(vec![policy("p", 0, "1")], &[]));
    let named_otherwise = Resource { name: "shop/p".to_owned(), ..policy("q", 0, "2") };
    let empty = Resource { name: "shop/p".to_owned(), ..Resource::default() };
    let garbage = resource(Kind::Authorization, "shop/p", "2", vec![0xff]);
    for broken in [policy("p", 9, "2"), garbage, named_otherwise, empty] {
        let applied = believed.apply(Kind::Authorization, response(vec![broken], &[]));
        assert!(applied.error().unwrap().starts_with("shop/p: "));
        let snapshot = believed.snapshot();
        let policy = snapshot.policies().next().unwrap();
        assert_eq!(policy.action, Action::Deny);
        assert_eq!(policy.rules.len(), 1);
        assert_eq!(versions(&believed, Kind::Authorization)["shop/p"], "");
    }
    let applied = believed.apply(Kind::Authorization, response(Vec::new(), &["shop/p"]));
    assert_eq!(applied.removed, 1);
    assert_eq!(believed.snapshot().policies().count(), 0);
}

#[test]
fn a_resource_that_is_named_otherwise_inside_is_refused() {
    let mut believed = Believed::default();
    let mut wrong = workload("a", &[10, 0, 0, 1], "1");
    wrong.name = "b".to_owned();
    let applied = believed.apply(Kind::Address, response(vec![wrong], &[]));
    assert_eq!(applied.error().unwrap(), "b: is named \"a\" inside");
    assert_eq!(believed.count(Kind::Address), 0);

    let mut other_type = workload("a", &[10, 0, 0, 1], "1");
    other_type.resource.as_mut().unwrap().type_url = AUTHORIZATION_TYPE.to_owned();
    assert_eq!(believed.apply(Kind::Address, response(vec![other_type], &[])).updated, 0);
    let empty = Resource { name: "x".to_owned(), ..Resource::default() };
    assert_eq!(believed.apply(Kind::Address, response(vec![empty], &[])).refused, ["x: resource has no body"]);
}

#[test]
fn one_response_publishes_one_snapshot_and_an_empty_one_none() {
    let mut believed = Believed::default();
    let (publish, mut seen) = watch::channel(Arc::new(Snapshot::default()));
    let status = ControlStatus::new();
    let mut many = response((0..50).map(|n| workload(&format!("w{n}"), &[10, 0, 0, n], "1")).collect(), &["unknown"]);
    many.type_url = Kind::Address.type_url().to_owned();
    many.nonce = "7".to_owned();
    let ack = receive(many, &mut believed, &publish, &status).unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("7", None));
    assert!(seen.has_changed().unwrap());
    assert_eq!(seen.borrow_and_update().workloads().count(), 50);
    assert!(!status.is_synced());

    let mut empty = response(Vec::new(), &[]);
    empty.type_url = Kind::Authorization.type_url().to_owned();
    receive(empty, &mut believed, &publish, &status).unwrap();
    assert!(!seen.has_changed().unwrap());
    assert!(status.is_synced());
    assert_eq!(status.view().types[Kind::Address.type_url()].resources, 50);
}

#[test]
fn what_changed_together_is_in_force_together_also_if_the_stream_ends_amid() {
    let mut believed = Believed::default();
    let (publish, mut seen) = watch::channel(Arc::new(Snapshot::default()));
    let status = ControlStatus::new();
    let mut told = |kind: Kind, resources, more| {
        let response =
            DeltaDiscoveryResponse { type_url: kind.type_url().to_owned(), more, ..response(resources, &[]) };
        receive(response, &mut believed, &publish, &status).unwrap();
        let news = seen.has_changed().unwrap();
        let snapshot = seen.borrow_and_update();
        (news, snapshot.policies().count(), snapshot.workloads().count())
    };
    assert_eq!(told(Kind::Authorization, vec![policy("p", 0, "1")], true), (false, 0, 0));
    assert_eq!(told(Kind::Address, vec![workload("a", &[10, 0, 0, 1], "1")], true), (false, 0, 0));
    assert_eq!(told(Kind::Address, vec![workload("b", &[10, 0, 0, 2], "1")], false), (true, 1, 2));
    // The next stream has nothing to add to what the last one began to say.
    assert_eq!(told(Kind::Authorization, vec![policy("q", 0, "1")], true), (false, 1, 2));
    assert_eq!(told(Kind::Address, Vec::new(), false), (true, 2, 2));
    assert_eq!(told(Kind::Address, Vec::new(), false), (false, 2, 2));
}

#[test]
fn a_digest_stands_for_what_is_held_only_if_nothing_was_refused() {
    let digest = |n: u8| format!("{DIGEST}{n}");
    let told = |version: String, resources| DeltaDiscoveryResponse {
        system_version_info: version,
        ..response(resources, &[])
    };
    let mut believed = Believed::default();
    let held = |believed: &Believed| believed.digest(Kind::Address).map(str::to_owned);
    believed.apply(Kind::Address, told(PARTIAL.to_owned(), vec![workload("a", &[10, 0, 0, 1], "1")]));
    assert_eq!(held(&believed), None);
    believed.apply(Kind::Address, told(digest(1), vec![workload("b", &[10, 0, 0, 2], "1")]));
    assert_eq!(held(&believed), Some(digest(1)));
    // On the way from one to the other.
    believed.apply(Kind::Address, told(PARTIAL.to_owned(), vec![workload("c", &[10, 0, 0, 3], "1")]));
    assert_eq!(held(&believed), None);
    believed.apply(Kind::Address, told(digest(2), vec![workload("d", &[1], "1")]));
    believed.apply(Kind::Address, told(digest(3), vec![workload("e", &[10, 0, 0, 5], "1")]));
    assert_eq!(held(&believed), None, "d is missing");
    // The next stream begins with names, and what was refused is told again.
    believed.forget_digest(Kind::Address);
    believed.apply(Kind::Address, told(digest(3), vec![workload("d", &[10, 0, 0, 4], "1")]));
    assert_eq!(held(&believed), Some(digest(3)));
    believed.apply(Kind::Address, told("7".to_owned(), Vec::new()));
    assert_eq!(held(&believed), None, "another's version is no digest");
}

#[test]
fn an_answer_to_a_digest_tells_who_the_controller_is() {
    let heard = |kind: Kind, version: &str, offered: &mut BTreeSet<Kind>| {
        let mut response = response(Vec::new(), &[]);
        (response.type_url, response.system_version_info) = (kind.type_url().to_owned(), version.to_owned());
        resumption(&response, offered)
    };
    let both = || BTreeSet::from([Kind::Address, Kind::Authorization]);
    let digest = format!("{DIGEST}1");
    assert_eq!(heard(Kind::Address, UNKNOWN, &mut both()), Resumption::Unknown(Kind::Address));
    assert_eq!(heard(Kind::Address, PARTIAL, &mut both()), Resumption::GoesOn);
    assert_eq!(heard(Kind::Address, &digest, &mut both()), Resumption::GoesOn);
    assert_eq!(heard(Kind::Authorization, "2026-01-01T00:00:00Z/12", &mut both()), Resumption::Ignored);
    // Only the first answer is one.
    let mut offered = both();
    heard(Kind::Address, &digest, &mut offered);
    assert_eq!(heard(Kind::Address, "12", &mut offered), Resumption::GoesOn);
    assert_eq!(heard(Kind::Address, "12", &mut BTreeSet::new()), Resumption::GoesOn);
}

#[test]
fn a_part_of_a_large_answer_is_not_the_whole() {
    let (mut believed, status) = (Believed::default(), ControlStatus::new());
    let (publish, _seen) = watch::channel(Arc::new(Snapshot::default()));
    for (kind, version, synced) in
        [(Kind::Authorization, "1", false), (Kind::Address, PARTIAL, false), (Kind::Address, "2", true)]
    {
        let part = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            system_version_info: version.to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        receive(part, &mut believed, &publish, &status);
        assert_eq!(status.is_synced(), synced);
    }
}

#[test]
fn waits_double_up_to_the_longest_and_never_agree() {
    let backoff = Backoff::default();
    let millis = |n| backoff.wait(n).as_millis();
    assert!((50..=100).contains(&millis(0)));
    assert!((400..=800).contains(&millis(3)));
    assert!((7500..=15000).contains(&millis(60)));
    assert!((0..20).map(|_| millis(60)).collect::<std::collections::BTreeSet<_>>().len() > 1);
}

#[test]
fn addresses_of_controllers_are_told_from_other_text() {
    let target =
        |address: &str| Target { address: address.to_owned(), server_name: None, roots: "roots".into(), token: None };
    let seen = |address: &str| target(address).authority().map_err(|e| e.reason());
    let is = |url: &str, name: &str| Ok((url.to_owned(), name.to_owned()));
    assert_eq!(seen("ctrl:15012"), is("https://ctrl:15012", "ctrl"));
    assert_eq!(seen("https://ctrl.example:1/"), is("https://ctrl.example:1", "ctrl.example"));
    assert_eq!(seen("[::1]:15012"), is("https://[::1]:15012", "::1"));
    for bad in ["", "ctrl", "http://ctrl:1", "ctrl:99999", "a@ctrl:1", ":1", "c t:1"] {
        assert_eq!(seen(bad), Err("address"), "{bad}");
    }
}

#[test]
fn the_status_names_istio_metrics_as_istio_does() {
    let status = ControlStatus::new();
    let applied = believed::Applied::default();
    status.applied(Kind::Address, "1", 10, 3, &applied, true);
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(Box::new(status));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let url = "{url=\"type.googleapis.com/istio.workload.Address\"}";
    for line in [
        format!("istio_xds_message_total{url} 1"),
        format!("istio_xds_message_bytes_total{url} 10"),
        format!("weft_control_resources{url} 3"),
        "weft_control_connected 0".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_of_a_controller_panic(
        body in prop::collection::vec(any::<u8>(), 0..300),
        name in "\\PC{0,20}",
        address in any::<bool>(),
    ) {
        let kind = if address { Kind::Address } else { Kind::Authorization };
        let mut believed = Believed::default();
        let _ = believed.apply(kind, response(vec![resource(kind, &name, "1", body.clone())], &[&name]));
        if let Ok(response) = DeltaDiscoveryResponse::decode(body.as_slice()) {
            let _ = believed.apply(kind, response);
        }
    }

    /// Bytes that are nearly right reach further than random ones.
    #[test]
    fn no_damaged_resource_panics(at in 0_usize..200, with in any::<u8>(), cut in 0_usize..200) {
        let mut believed = Believed::default();
        for (kind, mut damaged) in [
            (Kind::Address, workload("a", &[10, 0, 0, 1], "1")),
            (Kind::Authorization, policy("p", 1, "1")),
        ] {
            let value = &mut damaged.resource.as_mut().unwrap().value;
            let length = value.len();
            value[at % length] = with;
            value.truncate(1 + cut % length);
            let _ = believed.apply(kind, response(vec![damaged], &[]));
        }
    }
}
