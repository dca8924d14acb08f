//! Decisions as a table.
//!
//! ```text
//! policies   policy ; policy ..          named ns/p1, ns/p2 .. in the order written
//! policy     [dry] allow|deny|audit|custom@provider [rule | rule ..]      no rule: none; any: an empty rule
//! rule       clause & clause ..
//! clause     from source, source ..   or   to operation, operation ..   or   when key:value ..
//! source     [!]field:value ..           principal ns sa request ip remote
//! operation  [!]field:value ..           host method path port
//! key        header[x] claim[a][b] ip remote ns principal account request audience presenter dst port sni
//! value      x exact, x* prefix, *x suffix, * presence, ~x a regular expression; a path with braces is a template
//! request    METHOD host/path?query name:value .. | source[@ip] [:port] [sni=x] | claims as JSON
//! ```

mod laws;

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use mesh_core::l7::authentication::{JwtRule, Keys};
use mesh_core::l7::authorization::{
    Attribute, Condition, ExternalProtocol, Operation, PathPattern, Rule as Written, Source,
};
use mesh_core::l7::text::TextMatch;
use mesh_core::workload::ServiceKey;

use super::*;

fn check(policies: &str, request: &str, expect: Expect) {
    expect.assert_eq(&decide(&policies_from(policies), request, &[]));
}

/// The same policies for several requests.
fn each(policies: &str, requests: &[(&str, Expect)]) {
    for (request, expect) in requests {
        expect.assert_eq(&decide(&policies_from(policies), request, &[]));
    }
}

#[test]
fn deny_comes_before_allow_and_an_allow_denies_the_rest() {
    check("", "GET a/ | dev/shell", expect!["allow"]);
    check("allow", "GET a/ | dev/shell", expect!["deny: no allow holds"]);
    check("allow any", "GET a/ | plain", expect!["allow by ns/p1"]);
    check("deny", "GET a/ | dev/shell", expect!["allow"]);
    check("deny any", "GET a/ | dev/shell", expect!["deny by ns/p1"]);
    check("allow any ; deny to path:/x", "GET a/x | dev/shell", expect!["deny by ns/p2"]);
    check("allow any ; deny to path:/x", "GET a/y | dev/shell", expect!["allow by ns/p1"]);
    check("allow to path:/a ; allow to path:/b", "GET a/b | dev/shell", expect!["allow by ns/p2"]);
    check("allow to path:/a | to path:/b", "GET a/b | dev/shell", expect!["allow by ns/p1"]);
    check("allow to path:/a method:GET", "PUT a/a | dev/shell", expect!["deny: no allow holds"]);
    check("allow to path:/a, method:PUT", "PUT a/x | dev/shell", expect!["allow by ns/p1"]);
    check("allow from ns:dev & to path:/a", "GET a/a | prod/shell", expect!["deny: no allow holds"]);
    check("allow from ns:dev & to path:/a", "GET a/a | dev/shell", expect!["allow by ns/p1"]);
}

#[test]
fn audit_and_dry_run_are_told_and_change_nothing() {
    check("audit to path:/x", "GET a/x | dev/shell", expect!["allow; recorded ns/p1"]);
    check("audit to path:/x", "GET a/y | dev/shell", expect!["allow"]);
    check("dry deny to path:/x", "GET a/x | dev/shell", expect!["allow; dry run: deny by ns/p1"]);
    check("dry deny to path:/x", "GET a/y | dev/shell", expect!["allow"]);
    check("dry allow to path:/x", "GET a/y | dev/shell", expect!["allow; dry run: deny: no allow holds"]);
    check("dry allow to path:/x", "GET a/x | dev/shell", expect!["allow; dry run: allow by ns/p1"]);
    check("dry deny any ; deny any", "GET a/y | dev/shell", expect!["deny by ns/p2"]);
    check("dry custom@opa any", "GET a/ | dev/shell", expect!["allow; recorded ns/p1"]);
}

#[test]
fn custom_asks_first_and_the_others_decide_afterwards() {
    let policies =
        "allow to path:/ok ; custom@opa to path:/ok*, path:/no ; deny to path:/okay ; custom@iam to path:/ok";
    each(
        policies,
        &[
            ("GET a/ok | dev/shell", expect!["ask opa for ns/p2"]),
            ("GET a/no | dev/shell", expect!["ask opa for ns/p2"]),
            ("GET a/other | dev/shell", expect!["deny: no allow holds"]),
        ],
    );
    let after = |passed: &[&str], request| decide(&policies_from(policies), request, passed);
    expect!["ask iam for ns/p4"].assert_eq(&after(&["opa"], "GET a/ok | dev/shell"));
    expect!["allow by ns/p1"].assert_eq(&after(&["opa", "iam"], "GET a/ok | dev/shell"));
    expect!["deny by ns/p3"].assert_eq(&after(&["opa"], "GET a/okay | dev/shell"));
    expect!["deny: no allow holds"].assert_eq(&after(&["opa"], "GET a/no | dev/shell"));
}

#[test]
fn hosts_ignore_case_but_not_ports() {
    each(
        "allow to host:A.example",
        &[
            ("GET a.example/ | dev/shell", expect!["allow by ns/p1"]),
            ("GET A.EXAMPLE/ | dev/shell", expect!["allow by ns/p1"]),
            ("GET a.example:80/ | dev/shell", expect!["deny: no allow holds"]),
            ("GET b.example/ | dev/shell", expect!["deny: no allow holds"]),
        ],
    );
    check("allow to host:*.Example", "GET x.eXample/ | dev/shell", expect!["allow by ns/p1"]);
    check("allow to host:a.example:*", "GET A.example:8080/ | dev/shell", expect!["allow by ns/p1"]);
    check("deny to !host:a.example", "GET A.example/ | dev/shell", expect!["allow"]);
    check("deny to !host:a.example", "GET b/ | dev/shell", expect!["deny by ns/p1"]);
}

#[test]
fn paths_mind_case_and_have_no_query() {
    check("deny to path:/admin", "GET a/admin?x=1 | dev/shell", expect!["deny by ns/p1"]);
    check("deny to path:/admin", "GET a/Admin | dev/shell", expect!["allow"]);
    check("deny to path:/admin", "GET a/admin;x | dev/shell", expect!["allow"]);
    check("deny to path:/pre/*", "GET a/pre | dev/shell", expect!["allow"]);
    check("deny to path:/pre/*", "GET a/pre/ | dev/shell", expect!["deny by ns/p1"]);
    check("deny to path:*.txt", "GET a/x.txt | dev/shell", expect!["deny by ns/p1"]);
    check("deny to path:/a/{*}/c", "GET a/a/b/c | dev/shell", expect!["deny by ns/p1"]);
    check("deny to path:/a/{*}/c", "GET a/a//c | dev/shell", expect!["allow"]);
    check("allow to !path:/deep/{**}", "GET a/deep | dev/shell", expect!["allow by ns/p1"]);
    check("allow to !path:/deep/{**}", "GET a/deep/ | dev/shell", expect!["deny: no allow holds"]);
    check("deny to method:GET !path:/x", "GET a/x | dev/shell", expect!["allow"]);
    check("deny to method:get", "GET a/x | dev/shell", expect!["allow"]);
}

#[test]
fn ports_are_the_services() {
    check("allow to port:80", "GET a/ | dev/shell :80", expect!["allow by ns/p1"]);
    check("allow to port:80", "GET a/ | dev/shell :8080", expect!["deny: no allow holds"]);
    check("deny when port:80 port:81", "GET a/ | dev/shell :81", expect!["deny by ns/p1"]);
    check("deny to !port:80", "GET a/ | dev/shell :80", expect!["allow"]);
}

#[test]
fn a_policy_for_some_ports_is_none_for_the_others() {
    let mut policies = policies_from("allow to path:/a ; deny to path:/b");
    policies.iter_mut().for_each(|policy| policy.ports = vec![80]);
    expect!["deny: no allow holds"].assert_eq(&decide(&policies, "GET a/c | dev/shell :80", &[]));
    expect!["allow"].assert_eq(&decide(&policies, "GET a/b | dev/shell :81", &[]));
}

#[test]
fn principals_are_without_their_scheme() {
    check("allow from principal:td/ns/dev/sa/shell", "GET a/ | dev/shell", expect!["allow by ns/p1"]);
    check("allow from principal:spiffe://td/ns/dev/sa/shell", "GET a/ | dev/shell", expect!["deny: no allow holds"]);
    check("allow from principal:td/ns/dev/*", "GET a/ | dev/shell", expect!["allow by ns/p1"]);
    check("allow from principal:*", "GET a/ | plain", expect!["deny: no allow holds"]);
    check("allow from sa:dev/shell", "GET a/ | dev/shell", expect!["allow by ns/p1"]);
    check("allow from sa:dev/shell", "GET a/ | dev/web", expect!["deny: no allow holds"]);
    check("deny from !ns:dev", "GET a/ | plain", expect!["deny by ns/p1"]);
    check("allow when principal:*/sa/shell", "GET a/ | dev/shell", expect!["allow by ns/p1"]);
    check("allow when ns:dev*", "GET a/ | dev-2/shell", expect!["allow by ns/p1"]);
    check("allow when account:dev/*", "GET a/ | dev/shell", expect!["allow by ns/p1"]);
    check("allow when !account:dev/*", "GET a/ | dev/shell", expect!["deny: no allow holds"]);
    check("allow when sni:*.example", "GET a/ | dev/shell sni=a.example", expect!["allow by ns/p1"]);
    check("allow when sni:*", "GET a/ | dev/shell", expect!["deny: no allow holds"]);
}

#[test]
fn one_of_a_thousand_principals_is_found() {
    let all: String = (0..1000).map(|i| format!(" principal:td/ns/dev/sa/s{i}")).collect();
    check(&format!("allow from{all}"), "GET a/ | dev/s999", expect!["allow by ns/p1"]);
    check(&format!("allow from{all}"), "GET a/ | dev/s1000", expect!["deny: no allow holds"]);
    check(&format!("allow from{all} principal:*/x*"), "GET a/ | dev/s", expect!["deny: no allow holds"]);
}

#[test]
fn addresses_are_the_clients_and_remote_ones_the_last_forwarded_for() {
    check("allow from ip:10.0.0.0/8", "GET a/ | dev/shell@10.1.1.1", expect!["allow by ns/p1"]);
    check(
        "allow from ip:10.0.0.0/8",
        "GET a/ x-forwarded-for:10.0.0.1 | dev/shell@192.0.2.1",
        expect!["deny: no allow holds"],
    );
    check("allow when ip:10.1.1.1", "GET a/ | dev/shell@10.1.1.1", expect!["allow by ns/p1"]);
    check("allow when ip:10.1.1.1", "GET a/ | dev/shell@::ffff:10.1.1.1", expect!["allow by ns/p1"]);
    each(
        "allow from remote:203.0.113.0/24",
        &[
            ("GET a/ x-forwarded-for:203.0.113.9 | dev/shell", expect!["allow by ns/p1"]),
            ("GET a/ x-forwarded-for:10.0.0.1,203.0.113.9 | dev/shell", expect!["allow by ns/p1"]),
            ("GET a/ x-forwarded-for:203.0.113.9,10.0.0.1 | dev/shell", expect!["deny: no allow holds"]),
            (
                "GET a/ x-forwarded-for:203.0.113.9 x-forwarded-for:10.0.0.1 | dev/shell",
                expect!["deny: no allow holds"],
            ),
            ("GET a/ x-forwarded-for:nonsense | dev/shell@203.0.113.1", expect!["allow by ns/p1"]),
            ("GET a/ | dev/shell@203.0.113.1", expect!["allow by ns/p1"]),
            ("GET a/ | dev/shell@10.0.0.1", expect!["deny: no allow holds"]),
        ],
    );
    check(
        "deny when !remote:10.0.0.0/8",
        "GET a/ x-forwarded-for:[2001:db8::1]:443 | dev/shell",
        expect!["deny by ns/p1"],
    );
    check("allow when dst:10.96.0.0/16", "GET a/ | dev/shell", expect!["allow by ns/p1"]);
}

#[test]
fn a_header_counts_by_any_of_its_values_and_a_missing_one_by_none() {
    each(
        "allow when header[X-Team]:blue",
        &[
            ("GET a/ x-team:blue | dev/shell", expect!["allow by ns/p1"]),
            ("GET a/ x-team:red x-team:blue | dev/shell", expect!["allow by ns/p1"]),
            ("GET a/ x-team:Blue | dev/shell", expect!["deny: no allow holds"]),
            ("GET a/ | dev/shell", expect!["deny: no allow holds"]),
        ],
    );
    each(
        "deny when !header[x-team]:blue",
        &[
            ("GET a/ | dev/shell", expect!["deny by ns/p1"]),
            ("GET a/ x-team:red | dev/shell", expect!["deny by ns/p1"]),
            ("GET a/ x-team:red x-team:blue | dev/shell", expect!["allow"]),
        ],
    );
    check("allow when header[x]:*", "GET a/ x: | dev/shell", expect!["deny: no allow holds"]);
    check("allow when header[x]:a* !header[x]:ab", "GET a/ x:ab | dev/shell", expect!["deny: no allow holds"]);
    check("allow when header[x]:1 & when header[y]:2", "GET a/ x:1 | dev/shell", expect!["deny: no allow holds"]);
    check("deny when header[:path]:/a?b=1", "GET a/a?b=1 | dev/shell", expect!["deny by ns/p1"]);
    check("deny when header[:method]:PUT", "PUT a/a | dev/shell", expect!["deny by ns/p1"]);
    check("deny when header[host]:a", "PUT a/a | dev/shell", expect!["deny by ns/p1"]);
}

#[test]
fn tokens_are_asked_for_what_they_say() {
    let token = r#"GET a/ | dev/shell | {"iss":"i","sub":"s","aud":["x","y"],"azp":"p","scope":"read write","n":7,"b":true,"l":["a",1],"o":{"k":"v"},"t":"one two"}"#;
    for (policy, holds) in [
        ("allow from request:i/s", true),
        ("allow from request:*", true),
        ("allow from request:*/s", true),
        ("allow from !request:i/s", false),
        ("allow when request:i/*", true),
        ("allow when audience:y", true),
        ("allow when audience:z", false),
        ("allow when presenter:p", true),
        ("allow when claim[iss]:i", true),
        ("allow when claim[scope]:write", true),
        ("allow when claim[scope]:writ", false),
        ("allow when claim[l]:a", true),
        ("allow when claim[l]:1", false),
        ("allow when claim[n]:7", false),
        ("allow when claim[b]:true", false),
        ("allow when !claim[b]:true", true),
        ("allow when claim[o][k]:v", true),
        ("allow when claim[o]:v", false),
        ("allow when claim[o][k][k]:v", false),
        ("allow when claim[t]:one", false),
        ("allow when claim[t]:one*", true),
        ("allow when claim[none]:*", false),
    ] {
        let seen = decide(&policies_from(policy), token, &[]);
        assert_eq!(seen, if holds { "allow by ns/p1" } else { "deny: no allow holds" }, "{policy}");
    }
    check("allow from request:*", "GET a/ | dev/shell", expect!["deny: no allow holds"]);
    check("allow from request:*", r#"GET a/ | dev/shell | {"iss":"i"}"#, expect!["deny: no allow holds"]);
    check("deny from !request:*", "GET a/ | dev/shell", expect!["deny by ns/p1"]);
}

#[test]
fn what_cannot_be_read_fails_closed() {
    for rule in
        ["to path:/{id}", "to path:~(", "when ip:here", "when port:http", "when port:*", "when header[:status]:1"]
    {
        let of = |action: &str| decide(&policies_from(&format!("{action} {rule}")), "GET a/a | dev/shell", &[]);
        assert_eq!(of("allow"), "deny: no allow holds", "{rule}");
        assert_eq!(of("deny"), "deny by ns/p1", "{rule}");
        assert_eq!(of("custom@opa"), "ask opa for ns/p1", "{rule}");
        assert_eq!(of("audit"), "allow; recorded ns/p1", "{rule}");
        assert_eq!(of("allow to path:/a |"), "allow by ns/p1", "the other rule is still good: {rule}");
    }
}

#[test]
fn bytes_are_judged_by_what_the_connection_says() {
    for (policies, expect) in [
        ("", "allow"),
        ("allow from ns:dev", "allow by ns/p1"),
        ("allow from ns:dev & to port:80", "allow by ns/p1"),
        ("allow from ns:dev & to path:/a", "deny: no allow holds"),
        ("allow from ns:dev & to path:/a, port:80", "allow by ns/p1"),
        ("allow from ns:dev & when !header[x]:1", "deny: no allow holds"),
        ("deny from ns:dev & to path:/a", "deny by ns/p1"),
        ("deny from ns:prod & to path:/a", "allow"),
        ("deny from ns:dev & to !path:/a", "deny by ns/p1"),
        ("deny", "allow"),
        ("custom@opa to path:/a", "ask opa for ns/p1"),
        ("audit to path:/a", "allow; recorded ns/p1"),
        ("dry deny to path:/a", "allow; dry run: deny by ns/p1"),
    ] {
        let identity = SpiffeId::new("td", "dev", "shell").expect("an identity");
        let address = IpAddr::from([10, 0, 0, 1]);
        let peer = Peer { identity: Some(&identity), address, destination: address, port: 80, sni: None };
        let seen = Policies::compile(&policies_from(policies)).for_connection(peer).evaluate_bytes(&[]);
        assert_eq!(describe(&seen), expect, "{policies}");
    }
}

// Helpers.

fn decide(policies: &[Policy], request: &str, passed: &[&str]) -> String {
    let mut parts = request.split('|').map(str::trim);
    let mut head = parts.next().expect("a head").split(' ');
    let method = head.next().expect("a method");
    let target = head.next().expect("host and path");
    let (host, path) = target.split_at(target.find('/').expect("a path"));
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let fields: Vec<(String, String)> = head
        .map(|field| {
            let (name, value) = field.split_once(':').expect("name:value");
            (name.to_owned(), value.to_owned())
        })
        .collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut peer = parts.next().expect("a client").split(' ');
    let (who, address) = peer.next().map(|who| who.split_once('@').unwrap_or((who, "10.9.9.9"))).expect("a client");
    let identity = who.split_once('/').map(|(ns, sa)| SpiffeId::new("td", ns, sa).expect("an identity"));
    let (mut port, mut sni) = (80, None);
    for word in peer {
        match word.strip_prefix(':') {
            Some(number) => port = number.parse().expect("a port"),
            None => sni = word.strip_prefix("sni="),
        }
    }
    let claims = parts.next().map(|json| serde_json::from_str(json).expect("claims"));
    let authenticated = claims.map(|claims| Authenticated::new(claims, &no_rule()));
    let destination = IpAddr::from([10, 96, 0, 1]);
    let address = address.parse().expect("an address");
    let peer = Peer { identity: identity.as_ref(), address, destination, port, sni };
    let request = Request { method, host, path, query, fields: &&*fields, authenticated: authenticated.as_ref() };
    let passed: Vec<Arc<str>> = passed.iter().map(|name| (*name).into()).collect();
    describe(&Policies::compile(policies).for_connection(peer).evaluate(&request, &passed))
}

fn no_rule() -> JwtRule {
    JwtRule {
        origin: "ns/ra".into(),
        issuer: "i".into(),
        audiences: Vec::new(),
        keys: Keys::Discover,
        headers: Vec::new(),
        params: Vec::new(),
        cookies: Vec::new(),
        payload_header: None,
        claim_headers: Vec::new(),
        forward: false,
        timeout_seconds: 0,
        space_delimited: Vec::new(),
    }
}

fn describe(decision: &Decision) -> String {
    let verdict = |verdict: &Verdict| match verdict {
        Verdict::Allow(None) => "allow".to_owned(),
        Verdict::Allow(Some(policy)) => format!("allow by {policy}"),
        Verdict::Deny(Denial { policy: Some(policy), .. }) => format!("deny by {policy}"),
        Verdict::Deny(Denial { policy: None, .. }) => "deny: no allow holds".to_owned(),
        Verdict::Ask(question) => format!("ask {} for {}", question.authorizer.provider, question.policy),
    };
    let mut text = verdict(&decision.verdict);
    if let Some(other) = &decision.dry_run {
        text += &format!("; dry run: {}", verdict(other));
    }
    if !decision.recorded.is_empty() {
        text += &format!("; recorded {}", decision.recorded.join(", "));
    }
    text
}

fn policies_from(text: &str) -> Vec<Policy> {
    let written = text.split(';').map(str::trim).filter(|text| !text.is_empty());
    written.enumerate().map(|(i, text)| policy(text, format!("ns/p{}", i + 1).into())).collect()
}

fn policy(text: &str, name: Arc<str>) -> Policy {
    let (dry_run, text) = text.strip_prefix("dry ").map_or((false, text), |text| (true, text));
    let (action, rules) = text.split_once(' ').unwrap_or((text, ""));
    let action = match action.split_once('@').unwrap_or((action, "")) {
        ("allow", _) => Action::Allow,
        ("deny", _) => Action::Deny,
        ("audit", _) => Action::Audit,
        ("custom", provider) => Action::Custom(authorizer(provider)),
        _ => panic!("{action}"),
    };
    let rules = rules.split('|').map(str::trim).filter(|rule| !rule.is_empty()).map(rule).collect();
    Policy { name, action, dry_run, rules, ports: Vec::new() }
}

fn authorizer(provider: &str) -> ExternalAuthorizer {
    ExternalAuthorizer {
        provider: provider.into(),
        protocol: ExternalProtocol::Grpc,
        service: ServiceKey { namespace: "iam".into(), hostname: "iam".into() },
        port: 9000,
        timeout: std::time::Duration::from_secs(1),
        fail_open: false,
        status_on_error: 403,
        path_prefix: "".into(),
        include_request_headers: Vec::new(),
        include_additional_headers: Vec::new(),
        max_body_bytes: 0,
        allow_partial_body: false,
        headers_to_upstream: Vec::new(),
        headers_to_downstream_on_deny: Vec::new(),
        headers_to_downstream_on_allow: Vec::new(),
    }
}

fn rule(text: &str) -> Written {
    let mut rule = Written::default();
    for clause in text.split('&').map(str::trim).filter(|clause| *clause != "any") {
        let (kind, rest) = clause.split_once(' ').expect("from, to or when");
        match kind {
            "from" => rule.from.extend(rest.split(',').map(source)),
            "to" => rule.to.extend(rest.split(',').map(operation)),
            "when" => rule.when.push(condition(rest)),
            _ => panic!("{clause}"),
        }
    }
    rule
}

/// Values by field, those with `!` apart.
fn fields(text: &str) -> BTreeMap<(String, bool), Vec<&str>> {
    let mut fields = BTreeMap::<_, Vec<_>>::new();
    for word in text.split_whitespace() {
        let (is_not, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
        let at = word.find(']').map_or(0, |_| word.rfind(']').expect("a bracket"));
        let (field, value) = word.split_at(at + word[at..].find(':').expect("field:value"));
        fields.entry((field.to_owned(), is_not)).or_default().push(&value[1..]);
    }
    fields
}

fn source(text: &str) -> Source {
    let mut source = Source::default();
    for ((field, is_not), values) in fields(text) {
        let texts = || values.iter().map(|value| text_match(value)).collect::<Vec<_>>();
        let nets = || values.iter().map(|value| value.parse().expect("a network")).collect::<Vec<_>>();
        let account = |value: &&str| value.split_once('/').map(|(ns, sa)| (ns.into(), sa.into())).expect("ns/sa");
        match (&*field, is_not) {
            ("principal", false) => source.principals = texts(),
            ("principal", true) => source.not_principals = texts(),
            ("ns", false) => source.namespaces = texts(),
            ("ns", true) => source.not_namespaces = texts(),
            ("sa", false) => source.service_accounts = values.iter().map(account).collect(),
            ("sa", true) => source.not_service_accounts = values.iter().map(account).collect(),
            ("request", false) => source.request_principals = texts(),
            ("request", true) => source.not_request_principals = texts(),
            ("ip", false) => source.ip_blocks = nets(),
            ("ip", true) => source.not_ip_blocks = nets(),
            ("remote", false) => source.remote_ip_blocks = nets(),
            ("remote", true) => source.not_remote_ip_blocks = nets(),
            _ => panic!("{field}"),
        }
    }
    source
}

fn operation(text: &str) -> Operation {
    let mut operation = Operation::default();
    for ((field, is_not), values) in fields(text) {
        let texts = || values.iter().map(|value| text_match(value)).collect::<Vec<_>>();
        let ports = || values.iter().map(|value| value.parse().expect("a port")).collect::<Vec<_>>();
        let path = |value: &&str| match value.contains('{') {
            true => PathPattern::Template((*value).into()),
            false => PathPattern::Text(text_match(value)),
        };
        match (&*field, is_not) {
            ("host", false) => operation.hosts = texts(),
            ("host", true) => operation.not_hosts = texts(),
            ("method", false) => operation.methods = texts(),
            ("method", true) => operation.not_methods = texts(),
            ("path", false) => operation.paths = values.iter().map(path).collect(),
            ("path", true) => operation.not_paths = values.iter().map(path).collect(),
            ("port", false) => operation.ports = ports(),
            ("port", true) => operation.not_ports = ports(),
            _ => panic!("{field}"),
        }
    }
    operation
}

fn condition(text: &str) -> Condition {
    let fields = fields(text);
    let key = &fields.keys().next().expect("a key").0;
    let values = |is_not| {
        let values = fields.get(&(key.clone(), is_not));
        values.into_iter().flatten().map(|value| text_match(value)).collect()
    };
    let (word, brackets) = key.split_once('[').unwrap_or((key, ""));
    let brackets: Vec<Arc<str>> = brackets.trim_end_matches(']').split("][").map(Into::into).collect();
    let key = match word {
        "header" => Attribute::RequestHeader(brackets[0].clone()),
        "claim" => Attribute::Claim(brackets),
        "ip" => Attribute::SourceIp,
        "remote" => Attribute::RemoteIp,
        "ns" => Attribute::SourceNamespace,
        "principal" => Attribute::SourcePrincipal,
        "account" => Attribute::SourceServiceAccount,
        "request" => Attribute::RequestPrincipal,
        "audience" => Attribute::Audiences,
        "presenter" => Attribute::Presenter,
        "dst" => Attribute::DestinationIp,
        "port" => Attribute::DestinationPort,
        "sni" => Attribute::Sni,
        _ => panic!("{word}"),
    };
    Condition { key, values: values(false), not_values: values(true) }
}

fn text_match(text: &str) -> TextMatch {
    match (text.strip_prefix('*'), text.strip_suffix('*'), text.strip_prefix('~')) {
        (Some(""), _, _) => TextMatch::Present,
        (Some(rest), _, _) => TextMatch::Suffix(rest.into()),
        (_, Some(rest), _) => TextMatch::Prefix(rest.into()),
        (_, _, Some(rest)) => TextMatch::Regex(rest.into()),
        _ => TextMatch::Exact(text.into()),
    }
}
