use std::cell::RefCell;
use std::collections::HashMap;

use mesh_core::l7::route::{Match, PathMatch};
use mesh_core::l7::text::TextMatch;
use proptest::prelude::*;

use super::*;
use crate::engine::sample::{Asked, entry, forward, rule};

fn matcher(entries: &[&str]) -> Result<Matcher, BadEntry> {
    let entries = entries.iter().map(|text| entry(text, 0)).collect();
    let rule = rule("VirtualService/default/v#0", mesh_core::l7::route::Action::Forward(forward(&[(1, "a")])));
    Matcher::new(&HttpRoutes { entries, rules: vec![rule] })
}

/// Each request and the index of the entry that it takes, alone and at the end of a table that is long enough for an index.
#[track_caller]
fn check(entries: &[&str], requests: &[(&str, Option<usize>)]) {
    let others: Vec<String> = (0..30).map(|n| format!("exact:/other/{n}")).collect();
    let long: Vec<&str> = entries.iter().copied().chain(others.iter().map(String::as_str)).collect();
    for matcher in [matcher(entries).unwrap(), matcher(&long).unwrap()] {
        for (request, expected) in requests {
            let asked = Asked::new(request);
            let request_ = asked.request();
            let found = matcher.first(&request_.head, &request_.client).map(|matched| matched.entry);
            assert_eq!(found, *expected, "{request} among {entries:?}");
        }
    }
}

#[test]
fn the_first_entry_wins_over_a_more_specific_later_one() {
    check(&["prefix:/api", "exact:/api/x"], &[("GET a/api/x", Some(0)), ("GET a/apx", None)]);
    check(&["exact:/api/x", ""], &[("GET a/api/x", Some(0)), ("GET a/api", Some(1))]);
    check(&["", "exact:/api"], &[("GET a/api", Some(0))]);
    check(&["regex:/.*", "exact:/api"], &[("GET a/api", Some(0))]);
    check(&["exact:/api", "regex:/.*"], &[("GET a/api", Some(0)), ("GET a/x", Some(1))]);
}

#[test]
fn a_prefix_is_of_bytes_and_elements_are_elements() {
    check(&["prefix:/api"], &[("GET a/apifoo", Some(0)), ("GET a/api", Some(0)), ("GET a/ap", None)]);
    check(&["elements:/v2"], &[("GET a/v2foo", None), ("GET a/v2", Some(0)), ("GET a/v2/", Some(0))]);
    check(&["elements:/v3/"], &[("GET a/v3", Some(0)), ("GET a/v3/x", Some(0)), ("GET a/v3x", None)]);
    check(&["elements:/"], &[("GET a/", Some(0)), ("GET a/x", Some(0))]);
}

#[test]
fn a_regex_holds_for_the_whole_path_and_ignoring_case_does_nothing_to_it() {
    check(&["regex:/v[0-9]+"], &[("GET a/v1", Some(0)), ("GET a/v1/", None), ("GET a/x/v1", None)]);
    check(&["iregex:/API"], &[("GET a/API", Some(0)), ("GET a/api", None)]);
    check(&["iprefix:/API", "iexact:/X"], &[("GET a/apI/x", Some(0)), ("GET a/x", Some(1)), ("GET a/x/", None)]);
}

#[test]
fn the_query_is_no_part_of_the_path_but_parameters_are() {
    check(&["exact:/a"], &[("GET a/a?b=1", Some(0)), ("GET a/a;v=1", None)]);
    check(&["prefix:/a;v"], &[("GET a/a;v=1", Some(0))]);
}

#[test]
fn authority_is_compared_as_it_was_sent() {
    check(&["authority=reviews"], &[("GET reviews/", Some(0)), ("GET reviews:80/", None), ("GET REVIEWS/", None)]);
    check(&["header.:authority=reviews"], &[("GET reviews/", Some(0)), ("GET x/", None)]);
    check(&["header.host=reviews"], &[("GET reviews/", Some(0)), ("GET x/ host=reviews", None)]);
}

#[test]
fn a_header_is_there_also_when_it_is_empty() {
    check(&["header.x"], &[("GET a/ x=", Some(0)), ("GET a/ x=1", Some(0)), ("GET a/", None)]);
    check(&["!header.x"], &[("GET a/ x=", None), ("GET a/", Some(0))]);
    check(&["!header.x=1"], &[("GET a/ x=1", None), ("GET a/ x=2", Some(0)), ("GET a/", Some(0))]);
}

#[test]
fn one_value_of_a_header_that_was_sent_twice_is_enough() {
    check(&["header.x=2"], &[("GET a/ x=1 x=2", Some(0)), ("GET a/ x=1,2", None)]);
    check(&["!header.x=2"], &[("GET a/ x=1 x=2", None), ("GET a/ x=1 x=3", Some(0))]);
    check(&["header.x~v[0-9]"], &[("GET a/ x=v1", Some(0)), ("GET a/ x=v12", None)]);
}

#[test]
fn the_first_parameter_counts_as_it_was_sent() {
    check(&["query.q=1"], &[("GET a/?q=1&q=2", Some(0)), ("GET a/?q=2&q=1", None), ("GET a/?Q=1", None)]);
    check(&["query.q="], &[("GET a/?q", Some(0)), ("GET a/?x&q=", Some(0)), ("GET a/?q=1", None), ("GET a/", None)]);
    check(&["query.q=a"], &[("GET a/?q=%61", None)]);
    check(&["query.q~[0-9]"], &[("GET a/?q=1", Some(0)), ("GET a/?q=12", None)]);
    check(&["query.q"], &[("GET a/?q=1", Some(0)), ("GET a/?p=q", None)]);
}

#[test]
fn what_an_entry_says_has_to_hold_together() {
    check(
        &["prefix:/a method=GET header.x=1", "prefix:/a method~GET|PUT"],
        &[("GET h/a x=1", Some(0)), ("GET h/a", Some(1)), ("PUT h/a x=1", Some(1)), ("POST h/a x=1", None)],
    );
    check(&["scheme=http"], &[("GET a/", Some(0))]);
    check(&["scheme=https"], &[("GET a/", None)]);
}

#[test]
fn a_source_is_the_client_that_the_tunnel_attests() {
    check(&["ns:team"], &[("GET a/ @team", Some(0)), ("GET a/ @other", None), ("GET a/", None)]);
    check(&["uid:p ns:team"], &[("GET a/ @team/p", Some(0)), ("GET a/ @team/q", None), ("GET a/ @x/p", None)]);
    check(&["uid:p"], &[("GET a/ @team", None), ("GET a/ @x/p", Some(0))]);
}

#[test]
fn nothing_holds_for_the_asterisk_of_options() {
    let asked = Asked::new("OPTIONS a").with_path("*");
    let request = asked.request();
    let matcher = matcher(&["", "prefix:/", "elements:/", "prefix:", "exact:*", "regex:.*"]).unwrap();
    assert_eq!(matcher.first(&request.head, &request.client), None);
}

#[test]
fn what_the_path_match_took_is_told() {
    for (entry, path, taken) in [
        ("", "/x", Taken::Nothing),
        ("prefix:/x", "/xy", Taken::Prefix(2)),
        ("elements:/x/", "/x/y", Taken::Elements(2)),
        ("elements:/", "/x/y", Taken::Elements(1)),
        ("exact:/x", "/x", Taken::Whole),
        ("regex:/.", "/x", Taken::Whole),
    ] {
        let asked = Asked::new("GET a").with_path(path);
        let request = asked.request();
        let matched = matcher(&[entry]).unwrap().first(&request.head, &request.client).unwrap();
        assert_eq!(matched.taken, taken, "{entry}");
    }
}

#[test]
fn what_cannot_be_compiled_is_named_with_its_rule() {
    let error = |entry| matcher(&["", entry]).unwrap_err().to_string();
    assert!(
        error("regex:/(").starts_with(r#"entry 1, rule VirtualService/default/v#0: "/(" is no regular expression: "#)
    );
    assert!(error("query.q~a)").starts_with("entry 1, rule VirtualService/default/v#0: "));
    assert_eq!(error("header.a/b"), r#"entry 1, rule VirtualService/default/v#0: no header is called "a/b""#);
}

thread_local! {
    static REGEXES: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
}

/// The model read word by word.
fn naive(routes: &HttpRoutes, head: &Head<'_>, client: &Client<'_>) -> Option<usize> {
    routes.entries.iter().position(|entry| {
        let Match { path, method, scheme, authority, headers, query, source } = &entry.matches;
        let text = |text: &TextMatch, value: &str| match text {
            TextMatch::Exact(own) => value == &**own,
            TextMatch::Prefix(own) => value.starts_with(&**own),
            TextMatch::Suffix(own) => value.ends_with(&**own),
            TextMatch::Regex(own) => REGEXES.with_borrow_mut(|all| {
                let new = || regex::Regex::new(&format!("^(?:{own})$")).unwrap();
                all.entry(own.to_string()).or_insert_with(new).is_match(value)
            }),
            TextMatch::Present => true,
        };
        let optional = |own: &Option<TextMatch>, value| own.as_ref().is_none_or(|own| text(own, value));
        let path_holds = |PathMatch { kind, value, ignore_case }: &PathMatch| {
            let lower = |s: &str| if *ignore_case { s.to_ascii_lowercase() } else { s.to_owned() };
            match kind {
                PathKind::Exact => lower(head.path) == lower(value),
                PathKind::Prefix => lower(head.path).starts_with(&lower(value)),
                PathKind::Elements => {
                    let own = lower(value);
                    let own = own.strip_suffix('/').unwrap_or(&own);
                    lower(head.path) == own || lower(head.path).starts_with(&format!("{own}/"))
                }
                PathKind::Regex => text(&TextMatch::Regex(value.clone()), head.path),
            }
        };
        path.as_ref().is_none_or(path_holds)
            && optional(method, head.method)
            && optional(scheme, head.scheme)
            && optional(authority, head.authority)
            && headers.iter().all(|header| {
                let mut lines = head.headers.get_all(&*header.name);
                lines.any(|line| text(&header.value, line.to_str().unwrap())) != header.inverted
            })
            && query.iter().all(|query| {
                let pairs =
                    head.query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let first = pairs.into_iter().find(|(name, _)| **name == *query.name);
                first.is_some_and(|(_, value)| text(&query.value, value))
            })
            && source.as_ref().is_none_or(|source| {
                let is_one = |uids: &std::collections::BTreeSet<_>| client.uid.is_some_and(|uid| uids.contains(uid));
                (source.namespaces.is_empty() || source.namespaces.contains(client.namespace))
                    && source.workloads.as_ref().is_none_or(is_one)
            })
    })
}

fn any_path() -> impl Strategy<Value = String> {
    "(/[abAB]{0,2}){0,3}"
}

fn any_entry() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        1 => Just(String::new()),
        6 => ("i?(exact|prefix|elements)", any_path()).prop_map(|(kind, path)| format!("{kind}:{path}")),
        3 => "regex:/([ab]|[aA]\\*|\\.\\+){1,3}(/\\.\\*)?",
    ];
    let rest = prop_oneof![
        4 => Just(String::new()),
        1 => "method[=^]G",
        1 => "!?header\\.[xy]([=^$~][12])?",
        1 => "query\\.[pq]([=^$~][12])?",
        1 => "authority[=^$][hi]",
        1 => "ns:[mn]",
        1 => "uid:[uv]",
    ];
    (path, rest.clone(), rest).prop_map(|(path, a, b)| format!("{path} {a} {b}"))
}

fn any_request() -> impl Strategy<Value = String> {
    let rest = "( [xy]=[12]{0,2}){0,3}( @[mn](/[uv])?)?";
    (any_path(), "(\\?[pq](=[12])?(&[pq](=[12])?)?)?", rest)
        .prop_map(|(path, query, rest)| format!("GET h{}{query}{rest}", if path.is_empty() { "/" } else { &path }))
}

proptest! {
    #[test]
    fn arbitrary_routes_are_matched_as_if_read_in_order(
        entries in prop::collection::vec(any_entry(), 0..60),
        requests in prop::collection::vec(any_request(), 1..12),
    ) {
        let entries = entries.iter().map(|text| entry(text, 0)).collect();
        let action = mesh_core::l7::route::Action::Forward(forward(&[(1, "a")]));
        let routes = HttpRoutes { entries, rules: vec![rule("r", action)] };
        let compiled = Matcher::new(&routes).unwrap();
        for request in &requests {
            let asked = Asked::new(request);
            let request_ = asked.request();
            let found = compiled.first(&request_.head, &request_.client).map(|matched| matched.entry);
            prop_assert_eq!(found, naive(&routes, &request_.head, &request_.client), "{}", request);
        }
    }
}
