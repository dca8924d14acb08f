//! What must hold for any policies.

use mesh_core::policy as l4;
use mesh_core::workload::PolicyKey;
use proptest::prelude::*;

use super::*;

/// A few of each, so that they meet.
const NAMESPACES: [&str; 4] = ["dev", "prod", "de", ""];
const PRINCIPALS: [&str; 4] = ["td/ns/dev/sa/web", "td/ns/prod/sa/web", "td/ns/", ""];
const NETS: [&str; 5] = ["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "::ffff:10.0.0.0/104", "fd00::/8"];
const IPS: [&str; 4] = ["10.0.0.1", "192.0.2.1", "::ffff:10.0.0.1", "fd00::1"];
const PORTS: [u16; 2] = [80, 81];

fn some<T: Clone + std::fmt::Debug + 'static>(from: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    // Mostly nothing: a rule that says everything never holds.
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(prop::sample::select(from), 1..3)]
}

fn texts(from: &'static [&'static str]) -> impl Strategy<Value = Vec<TextMatch>> {
    let one = (prop::sample::select(from), 0..4).prop_map(|(text, kind)| match kind {
        0 => TextMatch::Exact(text.into()),
        1 => TextMatch::Prefix(text.into()),
        2 => TextMatch::Suffix(text.into()),
        _ => TextMatch::Present,
    });
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(one, 1..3)]
}

fn nets() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    some(&NETS).prop_map(|texts| texts.iter().map(|text| text.parse().expect("a network")).collect())
}

fn accounts() -> impl Strategy<Value = Vec<(Arc<str>, Arc<str>)>> {
    some(&[("dev", "web"), ("prod", "web")])
        .prop_map(|all| all.into_iter().map(|(n, s)| (n.into(), s.into())).collect())
}

/// Only what L4 has as well.
fn source() -> impl Strategy<Value = Source> {
    let positive = (texts(&PRINCIPALS), texts(&NAMESPACES), accounts(), nets());
    let negative = (texts(&PRINCIPALS), texts(&NAMESPACES), accounts(), nets());
    (positive, negative).prop_map(|(yes, no)| Source {
        principals: yes.0,
        namespaces: yes.1,
        service_accounts: yes.2,
        ip_blocks: yes.3,
        not_principals: no.0,
        not_namespaces: no.1,
        not_service_accounts: no.2,
        not_ip_blocks: no.3,
        ..Source::default()
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    (some(&PORTS), some(&PORTS)).prop_map(|(ports, not_ports)| Operation { ports, not_ports, ..Operation::default() })
}

fn written_nets() -> impl Strategy<Value = Vec<TextMatch>> {
    some(&NETS).prop_map(|texts| texts.into_iter().map(|text| TextMatch::Exact(text.into())).collect())
}

fn written_condition() -> impl Strategy<Value = Condition> {
    let port = |ports: Vec<u16>| ports.iter().map(|port| TextMatch::Exact(port.to_string().into())).collect::<Vec<_>>();
    let ports = (some(&PORTS), some(&PORTS)).prop_map(move |(yes, no)| (port(yes), port(no)));
    prop_oneof![
        (Just(Attribute::SourceIp), (written_nets(), written_nets())),
        (Just(Attribute::DestinationIp), (written_nets(), written_nets())),
        (Just(Attribute::SourceNamespace), (texts(&NAMESPACES), texts(&NAMESPACES))),
        (Just(Attribute::SourcePrincipal), (texts(&PRINCIPALS), texts(&PRINCIPALS))),
        (Just(Attribute::DestinationPort), ports),
    ]
    .prop_map(|(key, (values, not_values))| Condition { key, values, not_values })
}

fn l4_rule() -> impl Strategy<Value = Written> {
    let (from, to) = (prop::collection::vec(source(), 0..3), prop::collection::vec(operation(), 0..3));
    let when = prop::collection::vec(written_condition(), 0..2);
    (from, to, when).prop_map(|(from, to, when)| Written { from, to, when })
}

fn l4_policies() -> impl Strategy<Value = Vec<Policy>> {
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Audit]);
    let policy = (action, any::<bool>(), prop::collection::vec(l4_rule(), 0..3));
    prop::collection::vec(policy, 0..4).prop_map(|all| {
        let named = |(i, (action, dry_run, rules))| {
            let name = format!("ns/p{i}").into();
            Policy { name, action, dry_run, rules, ports: Vec::new() }
        };
        all.into_iter().enumerate().map(named).collect()
    })
}

fn to_l4(policy: &Policy) -> l4::Policy {
    let (namespace, name) = policy.name.split_once('/').expect("namespace/name");
    let action = match policy.action {
        Action::Allow => l4::Action::Allow,
        Action::Deny => l4::Action::Deny,
        Action::Audit => l4::Action::Audit,
        Action::Custom(_) => panic!("L4 asks nobody"),
    };
    l4::Policy {
        key: PolicyKey { namespace: namespace.into(), name: name.into() },
        scope: l4::Scope::Global,
        action,
        dry_run: policy.dry_run,
        rules: policy.rules.iter().map(rule_to_l4).collect(),
    }
}

fn rule_to_l4(rule: &Written) -> l4::Rule {
    let text = |values: &[TextMatch]| values.iter().map(text_to_l4).collect::<Vec<_>>();
    let net = |values: &[TextMatch]| -> Vec<ipnet::IpNet> {
        let net = |value: &TextMatch| match value {
            TextMatch::Exact(text) => text.parse().expect("a network"),
            other => panic!("{other:?}"),
        };
        values.iter().map(net).collect()
    };
    let port = |values: &[TextMatch]| -> Vec<u16> {
        let port = |value: &TextMatch| match value {
            TextMatch::Exact(text) => text.parse().expect("a port"),
            other => panic!("{other:?}"),
        };
        values.iter().map(port).collect()
    };
    let account = |all: &[(Arc<str>, Arc<str>)]| -> Vec<l4::ServiceAccount> {
        all.iter()
            .map(|(namespace, name)| l4::ServiceAccount { namespace: namespace.clone(), name: name.clone() })
            .collect()
    };
    let source = |s: &Source| l4::Match {
        namespaces: text(&s.namespaces),
        not_namespaces: text(&s.not_namespaces),
        principals: text(&s.principals),
        not_principals: text(&s.not_principals),
        service_accounts: account(&s.service_accounts),
        not_service_accounts: account(&s.not_service_accounts),
        source_ips: s.ip_blocks.clone(),
        not_source_ips: s.not_ip_blocks.clone(),
        ..l4::Match::default()
    };
    let operation = |o: &Operation| l4::Match {
        destination_ports: o.ports.clone(),
        not_destination_ports: o.not_ports.clone(),
        ..l4::Match::default()
    };
    let condition = |c: &Condition| {
        let (values, not, none) = (&c.values[..], &c.not_values[..], l4::Match::default());
        match c.key {
            Attribute::SourceIp => l4::Match { source_ips: net(values), not_source_ips: net(not), ..none },
            Attribute::DestinationIp => {
                l4::Match { destination_ips: net(values), not_destination_ips: net(not), ..none }
            }
            Attribute::SourceNamespace => l4::Match { namespaces: text(values), not_namespaces: text(not), ..none },
            Attribute::SourcePrincipal => l4::Match { principals: text(values), not_principals: text(not), ..none },
            Attribute::DestinationPort => {
                l4::Match { destination_ports: port(values), not_destination_ports: port(not), ..none }
            }
            _ => panic!("L4 has no {:?}", c.key),
        }
    };
    let mut clauses = Vec::new();
    if !rule.from.is_empty() {
        clauses.push(l4::Clause { matches: rule.from.iter().map(source).collect() });
    }
    if !rule.to.is_empty() {
        clauses.push(l4::Clause { matches: rule.to.iter().map(operation).collect() });
    }
    clauses.extend(rule.when.iter().map(|c| l4::Clause { matches: vec![condition(c)] }));
    l4::Rule { clauses }
}

fn text_to_l4(text: &TextMatch) -> l4::StringMatch {
    match text {
        TextMatch::Exact(text) => l4::StringMatch::Exact(text.clone()),
        TextMatch::Prefix(text) => l4::StringMatch::Prefix(text.clone()),
        TextMatch::Suffix(text) => l4::StringMatch::Suffix(text.clone()),
        TextMatch::Present => l4::StringMatch::Presence,
        TextMatch::Regex(text) => panic!("{text}"),
    }
}

fn of_l4(verdict: Result<Option<PolicyKey>, l4::Denial>) -> Verdict {
    let name = |key: PolicyKey| Arc::from(key.to_string());
    match verdict {
        Ok(policy) => Verdict::Allow(policy.map(name)),
        Err(denial) => Verdict::Deny(Denial { reason: denial.reason, policy: denial.policy.map(name) }),
    }
}

const NO_FIELDS: &[(&str, &str)] = &[];

fn get<'a>(path: &'a str, fields: &'a dyn Fields) -> Request<'a> {
    Request { method: "GET", host: "a", path, query: None, fields, authenticated: None }
}

/// What a connection decides beside what only a request does, in one rule.
fn mixed_rule() -> impl Strategy<Value = Written> {
    let source = (texts(&NAMESPACES), texts(&["i/s", "i/"]), texts(&["i/s"])).prop_map(|(yes, request, not)| Source {
        namespaces: yes,
        request_principals: request,
        not_request_principals: not,
        ..Source::default()
    });
    let operation =
        (some(&PORTS), texts(&["GET", "P"]), texts(&["/a", "/"])).prop_map(|(ports, methods, not)| Operation {
            ports,
            methods,
            not_paths: not.into_iter().map(PathPattern::Text).collect(),
            ..Operation::default()
        });
    let header = (texts(&["1", "2"]), texts(&["1", "2"])).prop_map(|(values, not_values)| Condition {
        key: Attribute::RequestHeader("x".into()),
        values,
        not_values,
    });
    let when = prop_oneof![header, written_condition()];
    let (from, to) = (prop::collection::vec(source, 0..3), prop::collection::vec(operation, 0..3));
    (from, to, prop::collection::vec(when, 0..2)).prop_map(|(from, to, when)| Written { from, to, when })
}

/// A rule as its documentation reads, all of it at once.
fn documented(rule: &Written, peer: &Peer<'_>, request: &Request<'_>) -> bool {
    fn any<T>(values: &[T], test: impl Fn(&T) -> bool) -> bool {
        values.is_empty() || values.iter().any(test)
    }
    let text = |value: Option<&str>| {
        let value = value.unwrap_or_default().to_owned();
        move |test: &TextMatch| {
            !value.is_empty()
                && match test {
                    TextMatch::Exact(text) => value == **text,
                    TextMatch::Prefix(text) => value.starts_with(&**text),
                    TextMatch::Suffix(text) => value.ends_with(&**text),
                    TextMatch::Regex(_) => false,
                    TextMatch::Present => true,
                }
        }
    };
    let namespace = || text(peer.identity.map(SpiffeId::namespace));
    let token = || text(request.authenticated.and_then(|token| token.principal.as_deref()));
    let source = |s: &Source| {
        any(&s.namespaces, namespace())
            && any(&s.request_principals, token())
            && !s.not_request_principals.iter().any(token())
    };
    let operation = |o: &Operation| {
        any(&o.ports, |port| *port == peer.port)
            && any(&o.methods, text(Some(request.method)))
            && !o.not_paths.iter().any(|path| match path {
                PathPattern::Text(test) => text(Some(request.path))(test),
                PathPattern::Template(_) => false,
            })
    };
    let net = |ip: IpAddr| {
        move |test: &TextMatch| match test {
            TextMatch::Exact(text) => {
                let net: ipnet::IpNet = text.parse().expect("a network");
                let ip = ip.to_canonical();
                net.contains(&ip)
                    || matches!((net, ip), (ipnet::IpNet::V6(net), IpAddr::V4(ip)) if net.contains(&ip.to_ipv6_mapped()) && net.prefix_len() >= 96)
            }
            _ => false,
        }
    };
    let condition = |c: &Condition| {
        let test = |test: &TextMatch| match &c.key {
            Attribute::RequestHeader(name) => {
                request.fields.lines(name).any(|value| text(Some(str::from_utf8(value).expect("a text")))(test))
            }
            Attribute::SourceNamespace => namespace()(test),
            Attribute::SourcePrincipal => text(peer.identity.map(SpiffeId::principal))(test),
            Attribute::SourceIp => net(peer.address)(test),
            Attribute::DestinationIp => net(peer.destination)(test),
            Attribute::DestinationPort => text(Some(&peer.port.to_string()))(test),
            other => panic!("{other:?}"),
        };
        any(&c.values, test) && !c.not_values.iter().any(test)
    };
    any(&rule.from, source) && any(&rule.to, operation) && rule.when.iter().all(condition)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_a_connection_decides_ahead_changes_no_verdict(
        rules in prop::collection::vec(mixed_rule(), 1..4),
        who in prop::option::of(prop::sample::select(&["dev", "prod"][..])),
        has_token: bool,
        port in prop::sample::select(&PORTS[..]),
        method in prop::sample::select(&["GET", "PUT"][..]),
        path in prop::sample::select(&["/", "/a", "/b"][..]),
        values in prop::collection::vec(prop::sample::select(&["1", "2", "3", ""][..]), 0..3),
    ) {
        let identity = who.map(|namespace| SpiffeId::new("td", namespace, "web").expect("an identity"));
        let token = Authenticated::new(serde_json::from_str(r#"{"iss":"i","sub":"s"}"#).expect("claims"), &no_rule());
        let address = IpAddr::from([10, 0, 0, 1]);
        let peer = Peer { identity: identity.as_ref(), address, destination: address, port, sni: None };
        let lines: Vec<(&str, &str)> = values.iter().map(|value| ("x", *value)).collect();
        let lines = &&*lines;
        let authenticated = has_token.then_some(&token);
        let request = Request { method, host: "a", path, query: None, fields: lines, authenticated };
        let expected = rules.iter().any(|rule| documented(rule, &peer, &request));
        let policy = Policy { name: "ns/p".into(), action: Action::Deny, dry_run: false, rules, ports: Vec::new() };
        let seen = Policies::compile(&[policy]).for_connection(peer).evaluate(&request, &[]);
        prop_assert_eq!(matches!(seen.verdict, Verdict::Deny(_)), expected);
    }

    #[test]
    fn policies_that_l4_can_carry_out_get_its_verdict(
        policies in l4_policies(),
        who in prop::option::of(prop::sample::select(&["dev", "prod", "de"][..])),
        from in prop::sample::select(&IPS[..]),
        to in prop::sample::select(&IPS[..]),
        port in prop::sample::select(&PORTS[..]),
    ) {
        let identity = who.map(|namespace| SpiffeId::new("td", namespace, "web").expect("an identity"));
        let (address, destination) = (from.parse().expect("an address"), to.parse().expect("an address"));
        let peer = Peer { identity: identity.as_ref(), address, destination, port, sni: None };
        let seen = Policies::compile(&policies).for_connection(peer).evaluate(&get("/", &NO_FIELDS), &[]);
        let l4_policies: Vec<_> = policies.iter().map(to_l4).collect();
        let connection = l4::Connection {
            source: identity.as_ref(),
            source_ip: address,
            destination_ip: destination,
            destination_port: port,
            from_node: false,
            way: l4::Way::Direct,
        };
        let expected = l4::evaluate(&l4_policies, &connection);
        let permit = expected.verdict.map(|permit| permit.policy().cloned());
        prop_assert_eq!(seen.verdict, of_l4(permit));
        prop_assert_eq!(seen.dry_run, expected.dry_run.map(of_l4));
        let audited: Vec<Arc<str>> = expected.audited.iter().map(|key| key.to_string().into()).collect();
        prop_assert_eq!(seen.recorded, audited);
    }

    #[test]
    fn arbitrary_requests_never_panic(
        template in "[/a{}*]{0,8}", path in ".{0,16}", host in ".{0,8}", value in ".{0,16}", key in "[:a-zA-Z]{0,6}",
    ) {
        let patterns = vec![PathPattern::Template(template.into())];
        let to = vec![Operation { not_paths: patterns, hosts: vec![TextMatch::Suffix(host.clone().into())], ..Default::default() }];
        let header = Condition {
            key: Attribute::RequestHeader(key.into()),
            values: vec![TextMatch::Prefix(value.clone().into())],
            not_values: vec![TextMatch::Exact(path.clone().into())],
        };
        let remote = Condition { key: Attribute::RemoteIp, values: vec![TextMatch::Exact(value.clone().into())], not_values: vec![] };
        for when in [vec![header], vec![remote]] {
            let rules = vec![Written { from: vec![], to: to.clone(), when }];
            let policy = Policy { name: "ns/p".into(), action: Action::Deny, dry_run: false, rules, ports: vec![] };
            let address = IpAddr::from([10, 0, 0, 1]);
            let peer = Peer { identity: None, address, destination: address, port: 80, sni: None };
            let lines: &[(&str, &str)] = &[("x-forwarded-for", &value), ("a", &value)];
            let request = Request { method: "GET", host: &host, path: &path, query: Some(&value), fields: &lines, authenticated: None };
            Policies::compile(&[policy]).for_connection(peer).evaluate(&request, &[]);
        }
    }
}
