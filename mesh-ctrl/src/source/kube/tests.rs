use super::*;
use crate::object::{Kind, ObjectKey};

fn row(kind: Kind) -> usize {
    WATCHED.iter().position(|watched| watched.kind == kind).unwrap()
}

fn report(row: usize, listed: bool) -> Report {
    Report { row, events: Vec::new(), listed, findings: Vec::new(), trouble: None }
}

fn is_synced(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::InitialSynced))
}

#[test]
fn the_source_is_synced_when_the_last_kind_is_and_says_so_once() {
    let mut desk = Desk::default();
    let (last, others) = (WATCHED.len() - 1, 0..WATCHED.len() - 1);
    assert!(!is_synced(&desk.gather(others.map(|row| report(row, true)))));
    assert!(!is_synced(&desk.gather([report(last, false)])));
    assert!(is_synced(&desk.gather([report(last, true)])));
    assert!(!is_synced(&desk.gather([report(last, true)])));
}

#[test]
fn a_kind_that_cannot_be_listed_is_a_finding_until_it_can() {
    let mut desk = Desk::default();
    let troubled = Report { trouble: Some("pods is forbidden".into()), ..report(row(Kind::Pod), false) };
    let events = desk.gather([troubled]);
    let [Event::Findings(findings)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        findings[0].to_string(),
        "error unreadable: pods cannot be listed, what was read of them stays in force: pods is forbidden"
    );
    assert!(desk.gather([report(row(Kind::Node), true)]).is_empty(), "the findings are the same");
    let events = desk.gather([report(row(Kind::Pod), true)]);
    assert!(matches!(&events[..], [Event::Findings(findings)] if findings.is_empty()), "{events:?}");
}

#[test]
fn reports_that_wait_become_one_batch_in_their_order() {
    let key = |name: &str| ObjectKey { kind: Kind::Pod, namespace: "shop".into(), name: name.into() };
    let gone = |name| Report { events: vec![Event::Delete(key(name))], ..report(row(Kind::Pod), true) };
    let events = Desk::default().gather([gone("a"), gone("b")]);
    let names: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Delete(key) => key.name.to_string(),
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(names, ["a", "b"]);
}
