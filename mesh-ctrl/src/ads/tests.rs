use std::collections::BTreeMap;

use mesh_core::wire::discovery::{DeltaDiscoveryResponse, Resource, Status as Detail};
use mesh_net::control::Kind;
use mesh_net::grpc::{DIGEST, EVERYTHING, PARTIAL, UNKNOWN};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::index::Change;
use crate::store::PART_BYTES;
use crate::store::tests::{gone, pod, policy, service, world};

fn subscribe(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn ask(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..subscribe(Kind::Address)
    }
}

/// As it goes over the wire.
fn delivered(response: &Response) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse::decode(&response.frames(false).concat()[5..]).unwrap()
}

/// Everything that the session has to say, as `type: +name -name`. The last response says that it is the last.
fn told(session: &mut Session, world: &World) -> Vec<String> {
    let mut all = Vec::new();
    let mut more = false;
    while let Some(response) = session.next(world).unwrap() {
        let response = delivered(&response);
        assert!(more || all.is_empty(), "{all:?} was said to be all");
        more = response.more;
        assert_eq!(session.is_torn(), more);
        let kind = match Kind::of(&response.type_url).unwrap() {
            Kind::Address => "address",
            Kind::Authorization => "policy",
            Kind::Layer7 => "model",
        };
        let names = response.resources.iter().map(|r| format!(" +{}", r.name));
        let removed = response.removed_resources.iter().map(|name| format!(" -{name}"));
        let partial = if response.system_version_info == PARTIAL { " ..." } else { "" };
        all.push(format!("{kind}:{}{partial}", removed.chain(names).collect::<String>()));
    }
    assert!(!more && !session.has_work(world));
    all
}

/// Versions that an agent that was told everything holds.
fn held(world: &World, kind: Kind) -> BTreeMap<String, String> {
    world.of(kind).iter().map(|(name, r)| (name.to_string(), r.version.clone())).collect()
}

#[test]
fn an_agent_is_told_everything_then_only_what_changes_policies_first() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[]), policy("p"), service("web", "10.96.0.1")]);
    let mut session = Session::default();
    assert_eq!(told(&mut session, &world), Vec::<String>::new());
    session.hear(&world, subscribe(Kind::Address)).unwrap();
    session.hear(&world, subscribe(Kind::Authorization)).unwrap();
    assert_eq!(told(&mut session, &world), ["policy: +shop/p", "address: +a +shop/web"]);
    world.apply(vec![pod("b", "10.0.0.2", &[]), gone("a"), policy("q")]);
    assert_eq!(told(&mut session, &world), ["policy: +shop/q", "address: -a +b"]);
}

#[test]
fn what_was_announced_comes_even_if_it_is_nothing_that_the_agent_asked_for() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut session = Session::default();
    session.hear(&world, ask(&["a"])).unwrap();
    session.hear(&world, subscribe(Kind::Authorization)).unwrap();
    assert_eq!(told(&mut session, &world), ["policy:", "address: +a"]);
    world.apply(vec![policy("p"), pod("b", "10.0.0.2", &[])]);
    assert_eq!(told(&mut session, &world), ["policy: +shop/p", "address:"]);
    world.apply(vec![pod("b", "10.0.0.3", &[])]);
    assert_eq!(told(&mut session, &world), Vec::<String>::new());
}

#[test]
fn the_rest_of_a_change_in_parts_comes_even_if_the_agent_did_not_ask_for_it() {
    // As many names as one response removes.
    let names: Vec<String> = (0..4096).map(|n| format!("p{n}")).collect();
    let mut world = world(names.iter().map(|name| pod(name, "10.0.0.1", &[])).collect());
    let mut session = Session::default();
    session.hear(&world, ask(&names.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    told(&mut session, &world);
    world.apply(names.iter().map(|name| gone(name)).chain([pod("other", "10.0.0.2", &[])]).collect());
    let told = told(&mut session, &world);
    assert!(told.len() == 2 && told[0].ends_with(" ..."), "{} responses", told.len());
    assert_eq!(told[1], "address:");
}

#[test]
fn what_was_begun_goes_on_with_the_next_kind_and_is_not_told_by_then() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut session = Session::default();
    let answer =
        |kind: Kind, nonce: &str| DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..subscribe(kind) };
    let kinds = [Kind::Authorization, Kind::Address];
    kinds.into_iter().for_each(|kind| drop(session.hear(&world, subscribe(kind)).unwrap()));
    told(&mut session, &world);
    kinds
        .into_iter()
        .zip(["1", "2"])
        .for_each(|(kind, nonce)| drop(session.hear(&world, answer(kind, nonce)).unwrap()));
    assert!(session.is_told());
    world.apply(vec![pod("b", "10.0.0.2", &[]), policy("p")]);
    let first = session.next(&world).unwrap().unwrap().head;
    assert_eq!((first.type_url.as_str(), first.more), (Kind::Authorization.type_url(), true));
    assert!(!session.is_told() && session.is_amid());
    session.hear(&world, answer(Kind::Authorization, &first.nonce)).unwrap();
    assert!(session.is_heard() && !session.is_told());
    // Of what came to pass meanwhile it is told when it has the rest.
    let before = world.clone();
    world.apply(vec![policy("q")]);
    let second = delivered(&session.next(&before).unwrap().unwrap());
    assert_eq!((second.type_url.as_str(), second.more), (Kind::Address.type_url(), false));
    assert_eq!(told(&mut session, &world), ["policy: +shop/q"]);
}

#[test]
fn what_changes_often_while_an_agent_is_slow_is_told_once() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut session = Session::default();
    session.hear(&world, subscribe(Kind::Address)).unwrap();
    told(&mut session, &world);
    for n in 2..200 {
        world.apply(vec![pod("a", &format!("10.0.0.{n}"), &[]), pod("brief", "10.0.1.1", &[]), gone("brief")]);
    }
    assert_eq!(told(&mut session, &world), ["address: -brief +a"]);
}

#[test]
fn a_resumption_is_told_differences_and_what_vanished_and_nothing_else() {
    let before = world(vec![pod("same", "10.0.0.1", &[]), pod("other", "10.0.0.2", &[]), pod("lost", "10.0.0.3", &[])]);
    // Another controller, or the same one restarted: its log knows nothing of the removal.
    let after = world(vec![pod("new", "10.0.0.4", &[]), pod("same", "10.0.0.1", &[]), pod("other", "10.0.0.9", &[])]);
    let mut session = Session::default();
    let request =
        DeltaDiscoveryRequest { initial_resource_versions: held(&before, Kind::Address), ..subscribe(Kind::Address) };
    session.hear(&after, request).unwrap();
    assert_eq!(told(&mut session, &after), ["address: -lost +new +other"]);

    let mut session = Session::default();
    let request =
        DeltaDiscoveryRequest { initial_resource_versions: held(&after, Kind::Address), ..subscribe(Kind::Address) };
    session.hear(&after, request).unwrap();
    assert_eq!(told(&mut session, &after), ["address:"], "an answer all the same: now it knows that it is in sync");
}

fn holding(digest: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        initial_resource_versions: [(EVERYTHING.to_owned(), digest.to_owned())].into(),
        ..subscribe(Kind::Address)
    }
}

/// Version of the last response of all that there is to say.
fn last_version(session: &mut Session, world: &World) -> String {
    let mut version = String::new();
    while let Some(response) = session.next(world).unwrap() {
        version = response.head.system_version_info;
    }
    version
}

#[test]
fn who_returns_with_a_digest_is_told_what_changed_since_also_by_another_controller() {
    let before = || vec![pod("a", "10.0.0.1", &[]), pod("lost", "10.0.0.2", &[]), pod("moved", "10.0.0.3", &[])];
    let mut session = Session::default();
    let mut first = world(before());
    session.hear(&first, subscribe(Kind::Address)).unwrap();
    let digest = last_version(&mut session, &first);
    assert!(digest.starts_with(DIGEST), "{digest}");

    let mut session = Session::default();
    session.hear(&first, holding(&digest)).unwrap();
    assert_eq!(told(&mut session, &first), ["address:"], "an answer all the same");

    // Another one read the same in another order and in more than one batch.
    let mut other = world(before().into_iter().rev().take(1).collect());
    other.apply(before());
    for world in [&mut first, &mut other] {
        world.apply(vec![gone("lost"), pod("moved", "10.0.0.9", &[]), pod("new", "10.0.0.4", &[])]);
        let mut session = Session::default();
        session.hear(world, holding(&digest)).unwrap();
        assert_eq!(told(&mut session, world), ["address: -lost +moved +new"]);
        let mut session = Session::default();
        session.hear(world, holding(&digest)).unwrap();
        let now = last_version(&mut session, world);
        assert!(now.starts_with(DIGEST) && now != digest);
    }
}

#[test]
fn a_digest_that_is_not_known_is_asked_for_names_on_the_same_stream() {
    let world = world(vec![pod("a", "10.0.0.1", &[]), pod("b", "10.0.0.2", &[])]);
    let mut session = Session::default();
    for digest in ["", "weft-sha256-00", world.of(Kind::Authorization).digest().unwrap().as_ref()] {
        session.hear(&world, holding(digest)).unwrap();
        let response = session.next(&world).unwrap().unwrap();
        assert_eq!((response.head.system_version_info.as_str(), response.resources()), (UNKNOWN, 0));
        assert!(session.next(&world).unwrap().is_none() && !session.has_work(&world));
    }
    let mut versions = held(&world, Kind::Address);
    versions.insert("lost".to_owned(), "1".to_owned());
    versions.remove("b");
    let request = DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(Kind::Address) };
    session.hear(&world, request).unwrap();
    assert_eq!(told(&mut session, &world), ["address: -lost +b"]);
}

#[test]
fn who_asks_for_single_names_has_no_digest() {
    let world = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut session = Session::default();
    session.hear(&world, ask(&["/10.0.0.1"])).unwrap();
    assert!(!last_version(&mut session, &world).starts_with(DIGEST));
}

#[test]
fn all_who_begin_share_the_bytes_and_learn_what_vanished_since_they_were_made() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[]), pod("b", "10.0.0.2", &[])]);
    let (mut early, mut late) = (Session::default(), Session::default());
    early.hear(&world, subscribe(Kind::Address)).unwrap();
    world.apply(vec![gone("a"), pod("b", "10.0.0.3", &[]), pod("c", "10.0.0.4", &[])]);
    late.hear(&world, subscribe(Kind::Address)).unwrap();
    let part = |session: &mut Session| session.next(&world).unwrap().unwrap().part.unwrap();
    assert!(Arc::ptr_eq(&part(&mut early), &part(&mut late)));
    for mut session in [early, late] {
        assert_eq!(told(&mut session, &world), ["address: -a +b +c"]);
    }
}

#[test]
fn who_is_told_by_an_earlier_world_is_not_told_a_later_one() {
    let earlier = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut later = earlier.clone();
    later.apply(vec![pod("a", "10.0.0.2", &[])]);
    let kept = later.of(Kind::Address).image();
    assert_eq!((kept.at, earlier.of(Kind::Address).image().at), (2, 1));
}

#[test]
fn what_is_not_acknowledged_is_not_heard() {
    let world = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut session = Session::default();
    assert!(session.is_heard());
    session.hear(&world, subscribe(Kind::Address)).unwrap();
    let nonce = session.next(&world).unwrap().unwrap().head.nonce;
    assert!(!session.is_heard());
    session.hear(&world, DeltaDiscoveryRequest { response_nonce: nonce, ..subscribe(Kind::Address) }).unwrap();
    assert!(session.is_heard());
}

#[test]
fn a_large_mesh_comes_in_parts_and_changes_meanwhile_are_not_lost() {
    let many: Vec<Change> = (0..30_000).map(|n| pod(&format!("w{n}"), "10.0.0.1", &["web"])).collect();
    let mut world = world(many);
    let mut session = Session::default();
    session.hear(&world, subscribe(Kind::Address)).unwrap();
    let first = session.next(&world).unwrap().unwrap();
    assert_eq!(first.head.system_version_info, PARTIAL);
    assert!(first.frames(false).concat().len() < PART_BYTES * 5 / 4);
    let last = "w29999";
    world.apply(vec![gone("w0"), gone(last), pod("w1", "10.0.0.2", &[])]);
    let mut agent: BTreeMap<String, Resource> = BTreeMap::new();
    let mut take = |response: Response| {
        let response = delivered(&response);
        for name in &response.removed_resources {
            agent.remove(name);
        }
        agent.extend(response.resources.into_iter().map(|r| (r.name.clone(), r)));
        response.system_version_info
    };
    take(first);
    let mut version = String::new();
    while let Some(response) = session.next(&world).unwrap() {
        version = take(response);
    }
    assert_ne!(version, PARTIAL);
    let versions: BTreeMap<_, _> = agent.into_iter().map(|(name, r)| (name, r.version)).collect();
    assert_eq!(versions, held(&world, Kind::Address));
}

#[test]
fn on_demand_names_bring_what_they_stand_for_and_follow_it() {
    let mut world = world(vec![
        service("web", "10.96.0.1"),
        pod("a", "10.0.0.1", &["web"]),
        pod("b", "10.0.0.2", &[]),
        pod("c", "10.0.0.3", &[]),
    ]);
    let mut session = Session::default();
    let start = DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["*".to_owned()], ..subscribe(Kind::Address) };
    session.hear(&world, start).unwrap();
    assert_eq!(told(&mut session, &world), ["address:"]);

    session.hear(&world, ask(&["/10.0.0.2", "/10.9.9.9"])).unwrap();
    assert_eq!(told(&mut session, &world), ["address: -/10.9.9.9 +b"]);
    session.hear(&world, ask(&["/10.96.0.1"])).unwrap();
    assert_eq!(told(&mut session, &world), ["address: +a +shop/web"]);

    world.apply(vec![pod("c", "10.0.0.33", &[]), pod("new", "10.0.0.4", &["web"]), pod("late", "10.9.9.9", &[])]);
    assert_eq!(told(&mut session, &world), ["address: +new +late"]);
    world.apply(vec![gone("a"), gone("c")]);
    assert_eq!(told(&mut session, &world), ["address: -a"]);

    let stop =
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["/10.96.0.1".to_owned()], ..subscribe(Kind::Address) };
    session.hear(&world, stop).unwrap();
    world.apply(vec![pod("new", "10.0.0.5", &["web"]), pod("b", "10.0.0.2", &["web"])]);
    assert_eq!(told(&mut session, &world), ["address: +b"]);
}

#[test]
fn an_on_demand_agent_that_returns_is_told_only_differences() {
    let world = world(vec![pod("a", "10.0.0.1", &[]), pod("b", "10.0.0.2", &[])]);
    let mut session = Session::default();
    let mut initial = held(&world, Kind::Address);
    initial.insert("lost".to_owned(), "1".to_owned());
    initial.insert("b".to_owned(), "old".to_owned());
    let request = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["*".to_owned()],
        initial_resource_versions: initial,
        ..ask(&["/10.0.0.1", "/10.0.0.2"])
    };
    session.hear(&world, request).unwrap();
    assert_eq!(told(&mut session, &world), ["address: -lost +b"]);
}

#[test]
fn what_an_agent_acknowledged_and_refused_is_known() {
    let mut world = world(vec![pod("a", "10.0.0.1", &[])]);
    let mut session = Session::default();
    session.hear(&world, subscribe(Kind::Address)).unwrap();
    let first = session.next(&world).unwrap().unwrap().head.nonce;
    let answer = |nonce: &str, error: Option<&str>| DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: error.map(|message| Detail { code: 3, message: message.to_owned() }),
        ..subscribe(Kind::Address)
    };
    let heard = session.hear(&world, answer(&first, None)).unwrap();
    assert_eq!(heard, Heard::Acknowledged { kind: Kind::Address });
    assert_eq!(session.subscription(Kind::Address).acknowledged, 1);

    world.apply(vec![pod("a", "10.0.0.2", &[])]);
    let second = session.next(&world).unwrap().unwrap().head.nonce;
    let heard = session.hear(&world, answer(&second, Some("a: bad"))).unwrap();
    assert_eq!(heard, Heard::Refused { kind: Kind::Address, message: "a: bad".to_owned() });
    let subscription = session.subscription(Kind::Address);
    assert_eq!((subscription.acknowledged, subscription.nacks), (1, 1));
    assert_eq!(subscription.last_nack.as_deref(), Some("a: bad"));
    assert_eq!(told(&mut session, &world), Vec::<String>::new(), "a refusal is no reason to send it again");

    for stale in [first.as_str(), "", "x", "99"] {
        assert_eq!(session.hear(&world, answer(stale, None)).unwrap(), Heard::Subscribed { kind: Kind::Address });
    }
}

#[test]
fn other_types_and_endless_lists_end_the_stream() {
    let world = world(Vec::new());
    let mut session = Session::default();
    let other = DeltaDiscoveryRequest { type_url: "x".to_owned(), ..DeltaDiscoveryRequest::default() };
    assert_eq!(session.hear(&world, other), Err(SessionError::Type("x".to_owned())));
    let names: Vec<String> = (0..=100_000).map(|n| n.to_string()).collect();
    let many = DeltaDiscoveryRequest { resource_names_subscribe: names, ..subscribe(Kind::Address) };
    assert_eq!(session.hear(&world, many), Err(SessionError::TooManyNames));
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u8),
    Remove(u8),
    Read,
    Return,
    ReturnByDigest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..12, 0_u8..4).prop_map(|(name, ip)| Step::Set(name, ip)),
        3 => (0_u8..12).prop_map(Step::Remove),
        2 => Just(Step::Read),
        1 => Just(Step::Return),
        2 => Just(Step::ReturnByDigest),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// However an agent reads, leaves and returns, it ends with what the world holds.
    #[test]
    fn an_agent_always_ends_with_the_world(steps in steps()) {
        let mut world = world(Vec::new());
        let mut session = Session::default();
        session.hear(&world, subscribe(Kind::Address)).unwrap();
        let mut agent: BTreeMap<String, String> = BTreeMap::new();
        let mut digest = None;
        let read = |session: &mut Session, world: &World, agent: &mut BTreeMap<String, String>| {
            let mut digest = None;
            while let Some(response) = session.next(world).unwrap() {
                let response = delivered(&response);
                digest = Some(response.system_version_info.clone());
                for name in response.removed_resources {
                    agent.remove(&name);
                }
                for resource in response.resources {
                    agent.insert(resource.name, resource.version);
                }
            }
            digest
        };
        for step in steps {
            match step {
                Step::Set(name, ip) => {
                    world.apply(vec![pod(&format!("p{name}"), &format!("10.0.0.{ip}"), &[])]);
                }
                Step::Remove(name) => {
                    world.apply(vec![gone(&format!("p{name}"))]);
                }
                Step::Read => digest = read(&mut session, &world, &mut agent).or(digest),
                Step::ReturnByDigest => {
                    if let Some(digest) = &digest {
                        session = Session::default();
                        session.hear(&world, holding(digest)).unwrap();
                    }
                }
                Step::Return => {
                    session = Session::default();
                    let request = DeltaDiscoveryRequest {
                        initial_resource_versions: agent.clone(),
                        ..subscribe(Kind::Address)
                    };
                    session.hear(&world, request).unwrap();
                }
            }
        }
        read(&mut session, &world, &mut agent);
        prop_assert_eq!(agent, held(&world, Kind::Address));
    }

    #[test]
    fn no_bytes_of_an_agent_panic(requests in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
        let world = world(vec![pod("a", "10.0.0.1", &[])]);
        let mut session = Session::default();
        for bytes in requests {
            if let Ok(mut request) = DeltaDiscoveryRequest::decode(bytes.as_slice()) {
                request.type_url = Kind::Address.type_url().to_owned();
                let _ = session.hear(&world, request);
                let _ = session.next(&world);
            }
        }
    }
}
