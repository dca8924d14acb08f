//! Changes of objects and how far agents are, to what is said.

use super::*;
use crate::ads::Progress;
use crate::source::Event;

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::VirtualService, namespace: "shop".into(), name: name.into() }
}

fn standing(generation: i64, version: u64) -> Standing {
    let object = serde_json::json!({
        "apiVersion": "networking.istio.io/v1",
        "metadata": {"generation": generation, "resourceVersion": version.to_string()},
    });
    Standing::of(Kind::VirtualService, &object).unwrap()
}

fn agent(place: u64) -> Progress {
    Progress { places: [place; 3], is_told: true, refusal: None }
}

fn note(marks: &mut Marks, name: &str, generation: i64, version: u64, head: u64) {
    let events = [Event::Standing(key(name), standing(generation, version))];
    marks.note(marks::Seen::of(&events), [head; 3]);
}

fn told(summaries: &[&Summary]) -> Told {
    let mut told = Told::default();
    told.tell(&summaries.iter().map(|summary| Arc::new((*summary).clone())).collect::<Vec<_>>());
    told
}

fn count(have: usize, connected: usize) -> Said {
    Said::Now(Count { have, connected, ..Count::default() })
}

#[test]
fn agents_have_a_generation_once_they_have_acknowledged_all_up_to_it() {
    let mut marks = Marks::default();
    note(&mut marks, "a", 1, 10, 5);
    let begin = Instant::now();
    let said = |summary: &Summary, after: u64| {
        let told = told(&[summary]);
        told.said(&key("a"), &standing(1, 10), false, begin);
        told.said(&key("a"), &standing(1, 10), false, begin + Duration::from_secs(after))
    };
    let some = marks.summary(&[agent(5), agent(4), agent(9)]);
    // Not said before it has had time to settle.
    assert_eq!(said(&some, 4), Said::AsBefore);
    assert_eq!(said(&some, 5), count(2, 3));
    assert_eq!(said(&marks.summary(&[agent(5), agent(5), agent(9)]), 0), count(3, 3));
}

#[test]
fn who_begins_goes_or_refuses_is_counted_as_such() {
    let mut marks = Marks::default();
    note(&mut marks, "a", 1, 10, 5);
    let begin = Instant::now();
    let said = |summary: &Summary| {
        let told = told(&[summary]);
        told.said(&key("a"), &standing(1, 10), false, begin);
        told.said(&key("a"), &standing(1, 10), false, begin + SETTLES)
    };
    let beginner = Progress { is_told: false, ..agent(0) };
    let refuses = Progress { refusal: Some("no such field".to_owned()), ..agent(4) };
    assert_eq!(said(&marks.summary(&[agent(5), beginner])), count(1, 2));
    assert_eq!(
        said(&Marks::default().summary(&[])),
        Said::Nothing,
        "without agents there is nothing to say, whatever is not read"
    );
    note(&mut marks, "a", 2, 10, 5);
    note(&mut marks, "a", 1, 10, 5);
    let expected = Count { have: 1, connected: 2, refuse: 1, why: Some("no such field".to_owned()) };
    assert_eq!(said(&marks.summary(&[agent(5), refuses])), Said::Now(expected));
    assert_eq!(said(&marks.summary(&[agent(5)])), count(1, 1), "who is gone is not counted");
}

#[test]
fn a_replica_that_has_not_read_the_version_has_told_nobody() {
    let (mut first, mut second) = (Marks::default(), Marks::default());
    note(&mut first, "a", 2, 20, 5);
    note(&mut second, "a", 1, 10, 3);
    let (first, behind) = (first.summary(&[agent(5)]), second.summary(&[agent(3), agent(3)]));
    let begin = Instant::now();
    let told = told(&[&first, &behind]);
    assert_eq!(told.said(&key("a"), &standing(2, 20), false, begin), Said::AsBefore);
    assert_eq!(told.settles_in(begin), Some(SETTLES));
    assert_eq!(told.said(&key("a"), &standing(2, 20), false, begin + SETTLES), count(1, 3));
    // Its status, which the leader has written, is no reason to count anew: who has not read that has the generation.
    assert_eq!(told.said(&key("a"), &standing(2, 22), false, begin + SETTLES), count(1, 3));
    assert_eq!(told.settles_in(begin + SETTLES), None, "there is nothing to wait for but what is new");
    // Another generation begins to wait anew.
    assert_eq!(told.said(&key("a"), &standing(3, 21), false, begin + SETTLES), Said::AsBefore);
    // Another object of the kind, which it has read.
    assert_eq!(told.said(&key("b"), &standing(1, 9), false, begin), count(3, 3));
    assert!(told.settles_in(begin + SETTLES).is_some());
    told.retain(|_| false);
    assert!(told.settles_in(begin + SETTLES).is_none());
}

#[test]
fn what_all_had_is_not_said_anew_when_agents_come_and_go() {
    let mut marks = Marks::default();
    note(&mut marks, "a", 1, 10, 5);
    let beginner = Progress { is_told: false, ..agent(0) };
    for agents in [vec![], vec![agent(5)], vec![agent(5), beginner]] {
        let summary = marks.summary(&agents);
        let told = told(&[&summary]);
        let later = Instant::now() + SETTLES;
        assert_eq!(told.said(&key("a"), &standing(1, 10), true, later), Said::AsBefore);
        assert_eq!(told.settles_in(Instant::now()), None);
    }
}

#[test]
fn a_summary_lists_only_so_much_and_says_nothing_of_the_rest() {
    let mut marks = Marks::default();
    for number in 0..600 {
        note(&mut marks, &format!("{number:03}"), 1, 10, 5);
    }
    let summary = marks.summary(&[agent(4)]);
    let told = told(&[&summary]);
    let later = |name: &str| {
        told.said(&key(name), &standing(1, 10), false, Instant::now());
        told.said(&key(name), &standing(1, 10), false, Instant::now() + SETTLES)
    };
    assert_eq!(later("000"), count(0, 1));
    assert_eq!(later("599"), Said::AsBefore);
    let text = serde_json::to_string(&summary).unwrap();
    assert!(text.len() < 64 << 10, "{}", text.len());
    assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
}
