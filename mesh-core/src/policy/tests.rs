//! Verdicts as a table: each case says what Istio documents for it.
//!
//! ```text
//! policies    policy ; policy ..           named ns/p1, ns/p2 .. in the order written
//! policy      [dry] allow|deny|audit [from rule | rule ..]      without "from": no rules
//!             unreadable                   what stands in for a policy that could not be read
//! rule        clause & clause ..           any: a rule without clauses
//! clause      match , match ..             none: a clause without matches
//! match       [!]key:value ..              values of one key are ORed; (): a match without fields
//! key         ns principal sa ip to port   ip is the source's, to the destination's address
//! value       x exact, x* prefix, *x suffix, * presence, "" the empty text
//! connection  source[@ip] -> [ip]:port     source: plain, node, ns/sa in trust domain td, or a SPIFFE ID
//! ```

use expect_test::{Expect, expect};

use super::*;

fn check(policies: &str, connection: &str, expect: Expect) {
    let policies = policies_from(policies);
    let end = End::from(connection);
    expect.assert_eq(&describe(evaluate(&policies, &end.connection())));
}

#[test]
fn without_policies_everything_is_allowed() {
    check("", "dev/shell -> :80", expect!["allow"]);
    check("", "plain -> :80", expect!["allow"]);
    check("", "plain@fd00::1 -> [fd00::9]:80", expect!["allow"]);
    check("", "spiffe://elsewhere/ns/dev/sa/shell -> :0", expect!["allow"]);
}

#[test]
fn policy_without_rules_matches_nothing_and_an_empty_rule_everything() {
    check("allow", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow", "plain -> :80", expect!["deny: no allow matched"]);
    check("deny", "dev/shell -> :80", expect!["allow"]);
    check("audit", "dev/shell -> :80", expect!["allow"]);
    check("allow from any", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from any", "plain -> :80", expect!["allow by ns/p1"]);
    check("deny from any", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from any", "plain -> :80", expect!["deny by ns/p1"]);
    check("audit from any", "dev/shell -> :80", expect!["allow; audit ns/p1"]);
    check("allow ; allow from any", "dev/shell -> :80", expect!["allow by ns/p2"]);
    check("allow ; deny", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from any ; deny", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from any | ns:prod", "dev/shell -> :80", expect!["allow by ns/p1"]);
}

#[test]
fn match_without_fields_says_nothing_and_clause_without_matches_never_holds() {
    check("allow from ()", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ()", "plain -> :80", expect!["allow by ns/p1"]);
    check("deny from ()", "plain -> :80", expect!["deny by ns/p1"]);
    check("allow from () & port:80", "plain -> :80", expect!["allow by ns/p1"]);
    check("allow from () & port:80", "plain -> :81", expect!["deny: no allow matched"]);
    check("allow from none", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("deny from none", "dev/shell -> :80", expect!["allow"]);
    check("allow from port:80 & none", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from none | port:80", "dev/shell -> :80", expect!["allow by ns/p1"]);
}

#[test]
fn namespaces() {
    check("allow from ns:dev", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:dev", "prod/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev", "dev2/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:DEV", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev ns:prod", "prod/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:dev ns:prod", "test/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev*", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:dev*", "dev-two/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:dev*", "adev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:*-dev", "team-dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:*-dev", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:*", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:*", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:\"\"", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:\"\"*", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:\"\"*", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:*\"\"", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:shell", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("deny from ns:dev", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from ns:dev", "plain -> :80", expect!["allow"]);
}

#[test]
fn not_namespaces() {
    check("allow from !ns:dev", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from !ns:dev", "prod/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from !ns:dev", "plain -> :80", expect!["allow by ns/p1"]);
    check("deny from !ns:prod", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from !ns:prod", "prod/shell -> :80", expect!["allow"]);
    check("deny from !ns:prod", "plain -> :80", expect!["deny by ns/p1"]);
    check("deny from !ns:prod !ns:dev", "dev/shell -> :80", expect!["allow"]);
    check("deny from !ns:prod !ns:dev", "test/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from !ns:prod*", "prod-eu/web -> :80", expect!["allow"]);
    check("deny from !ns:*-eu", "prod-eu/web -> :80", expect!["allow"]);
    check("deny from !ns:*-eu", "prod-us/web -> :80", expect!["deny by ns/p1"]);
    check("deny from !ns:*", "dev/shell -> :80", expect!["allow"]);
    check("deny from !ns:*", "plain -> :80", expect!["deny by ns/p1"]);
    check("allow from ns:dev* !ns:dev-x", "dev-y/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from ns:dev* !ns:dev-x", "dev-x/shell -> :80", expect!["deny: no allow matched"]);
}

#[test]
fn principals() {
    check("allow from principal:td/ns/dev/sa/shell", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:td/ns/dev/sa/shell", "dev/web -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:td/ns/dev/sa/shell", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:td/ns/dev/sa/shell principal:td/ns/a/sa/b", "a/b -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:spiffe://td/ns/dev/sa/shell", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:td/ns/dev/*", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:td/ns/dev/*", "dev2/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:td/ns/dev*", "dev2/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:spiffe://*", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:*/sa/shell", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:*/sa/shell", "dev/nutshell -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:*shell", "dev/nutshell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:*", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:*", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:\"\"*", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:\"\"", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:td/*/sa/shell", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("deny from principal:td/ns/dev/sa/shell", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from principal:*", "plain -> :80", expect!["allow"]);
}

#[test]
fn not_principals() {
    check("deny from !principal:td/ns/dev/sa/shell", "dev/shell -> :80", expect!["allow"]);
    check("deny from !principal:td/ns/dev/sa/shell", "dev/web -> :80", expect!["deny by ns/p1"]);
    check("deny from !principal:td/ns/dev/sa/shell", "plain -> :80", expect!["deny by ns/p1"]);
    check("deny from !principal:td/ns/dev/*", "dev/web -> :80", expect!["allow"]);
    check("deny from !principal:*/sa/web", "dev/web -> :80", expect!["allow"]);
    check("deny from !principal:*/sa/web", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from !principal:\"\"", "plain -> :80", expect!["deny by ns/p1"]);
    check("allow from !principal:td/ns/dev/sa/shell", "plain -> :80", expect!["allow by ns/p1"]);
    check("allow from !principal:td/ns/dev/sa/shell", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:* !principal:td/ns/dev/sa/shell", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:* !principal:td/ns/dev/sa/shell", "dev/web -> :80", expect!["allow by ns/p1"]);
}

#[test]
fn service_accounts() {
    check("allow from sa:dev/shell", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from sa:dev/shell", "prod/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from sa:dev/shell", "dev/web -> :80", expect!["deny: no allow matched"]);
    check("allow from sa:dev/shell", "shell/dev -> :80", expect!["deny: no allow matched"]);
    check("allow from sa:dev/shell", "plain -> :80", expect!["deny: no allow matched"]);
    check("allow from sa:dev/shell", "spiffe://other/ns/dev/sa/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from sa:dev/shell sa:prod/web", "prod/web -> :80", expect!["allow by ns/p1"]);
    check("allow from sa:dev/shell sa:prod/web", "dev/web -> :80", expect!["deny: no allow matched"]);
    check("allow from sa:dev/*", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from sa:dev/shell ns:prod", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("deny from !sa:dev/shell", "dev/shell -> :80", expect!["allow"]);
    check("deny from !sa:dev/shell", "dev/web -> :80", expect!["deny by ns/p1"]);
    check("deny from !sa:dev/shell", "plain -> :80", expect!["deny by ns/p1"]);
    check("deny from !sa:dev/shell !sa:dev/web", "dev/web -> :80", expect!["allow"]);
}

#[test]
fn trust_domains() {
    check(
        "allow from principal:td/ns/dev/sa/shell",
        "spiffe://td2/ns/dev/sa/shell -> :80",
        expect!["deny: no allow matched"],
    );
    check("allow from principal:td2/*", "spiffe://td2/ns/dev/sa/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from principal:td/*", "spiffe://td2/ns/dev/sa/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from principal:*/ns/dev/sa/shell", "spiffe://td2/ns/dev/sa/shell -> :80", expect!["allow by ns/p1"]);
    check("deny from !principal:td/*", "spiffe://td2/ns/dev/sa/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from !principal:td/*", "dev/shell -> :80", expect!["allow"]);
    check("deny from !principal:td/*", "plain -> :80", expect!["deny by ns/p1"]);
    check("allow from ns:dev", "spiffe://td2/ns/dev/sa/shell -> :80", expect!["allow by ns/p1"]);
    check("deny from principal:td*", "spiffe://td2/ns/dev/sa/shell -> :80", expect!["deny by ns/p1"]);
}

#[test]
fn source_addresses() {
    check("allow from ip:10.0.0.1/32", "plain@10.0.0.1 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:10.0.0.1/32", "plain@10.0.0.2 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:10.0.0.0/8", "plain@10.255.255.255 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:10.0.0.0/8", "plain@11.0.0.0 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:10.1.2.3/8", "plain@10.9.9.9 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:10.0.0.0/31", "plain@10.0.0.1 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:10.0.0.0/31", "plain@10.0.0.2 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:0.0.0.0/0", "plain@203.0.113.7 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:0.0.0.0/0", "plain@2001:db8::1 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:::/0", "plain@2001:db8::1 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:::/0", "plain@10.0.0.1 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:10.0.0.0/8 ip:fd00::/8", "plain@fd12::1 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:fd00::1/128", "plain@fd00::1 -> :80", expect!["allow by ns/p1"]);
    check("allow from ip:fd00::1/128", "plain@fd00::2 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:fd00::/65", "plain@fd00::8000:0:0:1 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:fd00::/64", "plain@fd00::8000:0:0:1 -> :80", expect!["allow by ns/p1"]);
    check("deny from ip:10.0.0.0/8", "dev/shell@10.0.0.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from !ip:10.0.0.0/8", "dev/shell@10.0.0.1 -> :80", expect!["allow"]);
    check("deny from !ip:10.0.0.0/8", "dev/shell@192.0.2.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from !ip:10.0.0.0/8", "dev/shell@fd00::1 -> :80", expect!["deny by ns/p1"]);
    check("deny from !ip:10.0.0.0/8 !ip:fd00::/8", "dev/shell@fd00::1 -> :80", expect!["allow"]);
    check("deny from !ip:0.0.0.0/0", "plain@10.0.0.1 -> :80", expect!["allow"]);
    check("allow from ip:10.0.0.0/8 !ip:10.0.0.1/32", "plain@10.0.0.1 -> :80", expect!["deny: no allow matched"]);
    check("allow from ip:10.0.0.0/8 !ip:10.0.0.1/32", "plain@10.0.0.2 -> :80", expect!["allow by ns/p1"]);
}

#[test]
fn mapped_addresses_are_the_ipv4_addresses_they_stand_for() {
    check("deny from ip:10.0.0.0/8", "plain@::ffff:10.0.0.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from ip:10.0.0.1/32", "plain@::ffff:10.0.0.2 -> :80", expect!["allow"]);
    check("deny from !ip:10.0.0.0/8", "plain@::ffff:10.0.0.1 -> :80", expect!["allow"]);
    check("allow from ip:::/0", "plain@::ffff:10.0.0.1 -> :80", expect!["deny: no allow matched"]);
    check("deny from to:10.0.0.9/32", "plain -> [::ffff:10.0.0.9]:80", expect!["deny by ns/p1"]);
    check("deny from ip:::ffff:10.0.0.0/104", "plain@10.0.0.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from ip:::ffff:10.0.0.0/104", "plain@::ffff:10.0.0.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from ip:::ffff:10.0.0.0/104", "plain@11.0.0.1 -> :80", expect!["allow"]);
    check("deny from ip:::ffff:10.0.0.1/128", "plain@10.0.0.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from ip:::ffff:0.0.0.0/96", "plain@10.0.0.1 -> :80", expect!["deny by ns/p1"]);
    check("deny from ip:::ffff:0.0.0.0/96", "plain@fd00::1 -> :80", expect!["allow"]);
    check("deny from !ip:::ffff:10.0.0.0/104", "plain@10.0.0.1 -> :80", expect!["allow"]);
    check("deny from to:::ffff:10.0.0.9/128", "plain -> 10.0.0.9:80", expect!["deny by ns/p1"]);
    check("deny from ip:64:ff9b::/96", "plain@10.0.0.1 -> :80", expect!["allow"]);
}

#[test]
fn destination_addresses() {
    check("allow from to:10.0.0.9/32", "dev/shell -> 10.0.0.9:80", expect!["allow by ns/p1"]);
    check("allow from to:10.0.0.9/32", "dev/shell -> 10.0.0.8:80", expect!["deny: no allow matched"]);
    check("allow from to:10.0.0.9/32", "dev/shell@10.0.0.9 -> 10.0.0.8:80", expect!["deny: no allow matched"]);
    check("allow from to:10.0.0.0/24 to:10.0.9.0/24", "dev/shell -> 10.0.9.1:80", expect!["allow by ns/p1"]);
    check("allow from to:fd00::/8", "dev/shell -> [fd00::9]:80", expect!["allow by ns/p1"]);
    check("allow from to:fd00::/8", "dev/shell -> 10.0.0.9:80", expect!["deny: no allow matched"]);
    check("allow from to:0.0.0.0/0", "dev/shell -> 10.0.0.9:80", expect!["allow by ns/p1"]);
    check("deny from !to:10.0.0.0/24", "dev/shell -> 10.0.0.9:80", expect!["allow"]);
    check("deny from !to:10.0.0.0/24", "dev/shell -> 10.0.1.9:80", expect!["deny by ns/p1"]);
    check("deny from !to:10.0.0.0/24", "dev/shell -> [fd00::9]:80", expect!["deny by ns/p1"]);
    check("deny from to:10.0.0.0/24 !to:10.0.0.9/32", "dev/shell -> 10.0.0.9:80", expect!["allow"]);
}

#[test]
fn destination_ports() {
    check("allow from port:80", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("allow from port:80", "dev/shell -> :8080", expect!["deny: no allow matched"]);
    check("allow from port:80 port:443", "dev/shell -> :443", expect!["allow by ns/p1"]);
    check("allow from port:80 port:443", "plain -> :443", expect!["allow by ns/p1"]);
    check("allow from port:0", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from port:65535", "dev/shell -> :65535", expect!["allow by ns/p1"]);
    check("deny from !port:80", "dev/shell -> :80", expect!["allow"]);
    check("deny from !port:80", "dev/shell -> :81", expect!["deny by ns/p1"]);
    check("deny from !port:80 !port:443", "dev/shell -> :443", expect!["allow"]);
    check("deny from port:80 !port:80", "dev/shell -> :80", expect!["allow"]);
}

#[test]
fn fields_of_a_match_are_anded() {
    let both = "allow from ns:dev port:80";
    check(both, "dev/shell -> :80", expect!["allow by ns/p1"]);
    check(both, "dev/shell -> :81", expect!["deny: no allow matched"]);
    check(both, "prod/shell -> :80", expect!["deny: no allow matched"]);
    check(both, "plain -> :80", expect!["deny: no allow matched"]);
    let all = "deny from ns:dev principal:td/ns/dev/sa/shell sa:dev/shell ip:10.0.0.0/8 to:10.0.0.9/32 port:5432";
    check(all, "spiffe://td/ns/dev/sa/shell@10.0.0.1 -> 10.0.0.9:5432", expect!["deny by ns/p1"]);
    check(all, "spiffe://td2/ns/dev/sa/shell@10.0.0.1 -> 10.0.0.9:5432", expect!["allow"]);
    check(all, "spiffe://td/ns/dev/sa/shell@11.0.0.1 -> 10.0.0.9:5432", expect!["allow"]);
    check(all, "spiffe://td/ns/dev/sa/shell@10.0.0.1 -> 10.0.0.8:5432", expect!["allow"]);
    check(all, "spiffe://td/ns/dev/sa/shell@10.0.0.1 -> 10.0.0.9:5433", expect!["allow"]);
    check("allow from ns:dev !port:80", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev !port:80", "dev/shell -> :81", expect!["allow by ns/p1"]);
    check("deny from !ns:dev !port:80", "dev/shell -> :81", expect!["allow"]);
    check("deny from !ns:dev !port:80", "prod/web -> :80", expect!["allow"]);
    check("deny from !ns:dev !port:80", "prod/web -> :81", expect!["deny by ns/p1"]);
}

#[test]
fn matches_are_ored_clauses_anded_rules_ored() {
    let matches = "allow from ns:dev , ip:192.0.2.0/24";
    check(matches, "dev/shell@10.0.0.1 -> :80", expect!["allow by ns/p1"]);
    check(matches, "plain@192.0.2.9 -> :80", expect!["allow by ns/p1"]);
    check(matches, "prod/web@10.0.0.1 -> :80", expect!["deny: no allow matched"]);
    let pairs = "allow from ns:dev sa:dev/shell , ns:prod sa:prod/web";
    check(pairs, "prod/web -> :80", expect!["allow by ns/p1"]);
    check(pairs, "prod/shell -> :80", expect!["deny: no allow matched"]);
    let clauses = "allow from port:80 , port:443 & ns:dev , ns:prod";
    check(clauses, "dev/shell -> :443", expect!["allow by ns/p1"]);
    check(clauses, "prod/shell -> :80", expect!["allow by ns/p1"]);
    check(clauses, "dev/shell -> :22", expect!["deny: no allow matched"]);
    check(clauses, "test/shell -> :80", expect!["deny: no allow matched"]);
    check("allow from port:80 & ns:dev & ip:10.0.0.0/8", "dev/a@10.0.0.1 -> :80", expect!["allow by ns/p1"]);
    check("allow from port:80 & ns:dev & ip:10.0.0.0/8", "dev/a@11.0.0.1 -> :80", expect!["deny: no allow matched"]);
    let rules = "allow from ns:dev & port:80 | ns:prod & port:443";
    check(rules, "dev/shell -> :80", expect!["allow by ns/p1"]);
    check(rules, "prod/shell -> :443", expect!["allow by ns/p1"]);
    check(rules, "dev/shell -> :443", expect!["deny: no allow matched"]);
    check("deny from ns:dev | ns:prod | port:22", "test/web -> :22", expect!["deny by ns/p1"]);
    check("deny from !ns:dev , !ns:prod", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from !ns:dev & !ns:prod", "dev/shell -> :80", expect!["allow"]);
    check("deny from ns:dev & ns:prod", "dev/shell -> :80", expect!["allow"]);
}

#[test]
fn deny_goes_before_allow_in_whatever_order() {
    check("allow from any ; deny from ns:dev", "dev/shell -> :80", expect!["deny by ns/p2"]);
    check("deny from ns:dev ; allow from any", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("deny from ns:dev ; allow from any", "prod/web -> :80", expect!["allow by ns/p2"]);
    check("deny from ns:dev ; allow from ns:prod", "test/web -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev ; allow from ns:prod", "prod/web -> :80", expect!["allow by ns/p2"]);
    check("allow from ns:dev ; allow from ns:prod", "test/web -> :80", expect!["deny: no allow matched"]);
    check("allow from ns:dev ; allow from any", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("deny from ns:prod ; deny from ns:dev", "dev/shell -> :80", expect!["deny by ns/p2"]);
    check("deny from ns:prod ; deny from ns:dev", "test/web -> :80", expect!["allow"]);
    check(
        "deny from ns:dev principal:td/ns/x/sa/y ip:10.0.0.0/8 !port:80 ; allow from ns:dev",
        "spiffe://td/ns/dev/sa/shell@10.0.0.1 -> 10.0.0.9:5432",
        expect!["allow by ns/p2"],
    );
}

#[test]
fn audit_is_noted_and_never_changes_the_verdict() {
    check("audit from ns:dev", "dev/shell -> :80", expect!["allow; audit ns/p1"]);
    check("audit from ns:dev", "prod/web -> :80", expect!["allow"]);
    check("audit from any ; audit from ns:dev", "dev/shell -> :80", expect!["allow; audit ns/p1, ns/p2"]);
    check("audit from any ; allow", "dev/shell -> :80", expect!["deny: no allow matched; audit ns/p1"]);
    check("audit from any ; deny from ns:dev", "dev/shell -> :80", expect!["deny by ns/p2; audit ns/p1"]);
    check("deny from ns:dev ; audit from any", "dev/shell -> :80", expect!["deny by ns/p1; audit ns/p2"]);
    check("allow from ns:dev ; audit from any", "dev/shell -> :80", expect!["allow by ns/p1; audit ns/p2"]);
    check("allow from ns:dev ; audit from ns:prod", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("dry audit from any", "dev/shell -> :80", expect!["allow; audit ns/p1"]);
    check("dry audit from any ; allow", "dev/shell -> :80", expect!["deny: no allow matched; audit ns/p1"]);
}

#[test]
fn dry_run_says_what_would_be_different() {
    check("dry deny from ns:dev", "dev/shell -> :80", expect!["allow; dry run deny by ns/p1"]);
    check("dry deny from ns:dev", "prod/web -> :80", expect!["allow"]);
    check("dry deny", "dev/shell -> :80", expect!["allow"]);
    check("dry allow", "dev/shell -> :80", expect!["allow; dry run deny: no allow matched"]);
    check("dry allow from ns:dev", "dev/shell -> :80", expect!["allow; dry run allow by ns/p1"]);
    check("dry allow from ns:dev", "prod/web -> :80", expect!["allow; dry run deny: no allow matched"]);
    check(
        "allow ; dry allow from ns:dev",
        "dev/shell -> :80",
        expect!["deny: no allow matched; dry run allow by ns/p2"],
    );
    check("allow ; dry allow from ns:dev", "prod/web -> :80", expect!["deny: no allow matched"]);
    check(
        "allow from any ; dry deny from ns:dev",
        "dev/shell -> :80",
        expect!["allow by ns/p1; dry run deny by ns/p2"],
    );
    check(
        "dry deny from ns:dev ; allow from any",
        "dev/shell -> :80",
        expect!["allow by ns/p2; dry run deny by ns/p1"],
    );
    check("deny from ns:dev ; dry allow from any", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("allow ; dry deny from ns:dev", "dev/shell -> :80", expect!["deny: no allow matched; dry run deny by ns/p2"]);
    check("dry allow from ns:dev ; dry deny from port:80", "dev/shell -> :80", expect!["allow; dry run deny by ns/p2"]);
    check(
        "dry deny from any ; audit from any",
        "dev/shell -> :80",
        expect!["allow; dry run deny by ns/p1; audit ns/p2"],
    );
}

#[test]
fn dry_run_that_agrees_is_silent_in_whatever_order() {
    check("allow from any ; dry allow from any", "dev/shell -> :80", expect!["allow by ns/p1"]);
    check("dry allow from any ; allow from any", "dev/shell -> :80", expect!["allow by ns/p2"]);
    check("deny from any ; dry deny from any", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("dry deny from any ; deny from any", "dev/shell -> :80", expect!["deny by ns/p2"]);
    check("dry allow ; allow from any", "dev/shell -> :80", expect!["allow by ns/p2"]);
    check("dry allow ; allow", "dev/shell -> :80", expect!["deny: no allow matched"]);
}

#[test]
fn strict_mutual_tls_denies_plaintext() {
    let strict = "deny from !principal:*";
    check(strict, "dev/shell -> :80", expect!["allow"]);
    check(strict, "spiffe://elsewhere/ns/dev/sa/shell -> :80", expect!["allow"]);
    check(strict, "plain -> :80", expect!["deny by ns/p1"]);
    check(strict, "plain@fd00::1 -> [fd00::9]:80", expect!["deny by ns/p1"]);
    check("deny from !principal:* ; allow from any", "plain -> :80", expect!["deny by ns/p1"]);
    check("deny from !principal:* ; allow from any", "dev/shell -> :80", expect!["allow by ns/p2"]);
    check("deny from !principal:* ; allow from ns:prod", "dev/shell -> :80", expect!["deny: no allow matched"]);
    check("dry deny from !principal:*", "plain -> :80", expect!["allow; dry run deny by ns/p1"]);

    let except = "deny from !principal:* & !port:9090";
    check(except, "plain -> :9090", expect!["allow"]);
    check(except, "plain -> :80", expect!["deny by ns/p1"]);
    check(except, "dev/shell -> :9090", expect!["allow"]);
    check(except, "dev/shell -> :80", expect!["allow"]);
    let except_two = "deny from !principal:* & !port:9090 & !port:9091";
    check(except_two, "plain -> :9090", expect!["allow"]);
    check(except_two, "plain -> :9091", expect!["allow"]);
    check(except_two, "plain -> :9092", expect!["deny by ns/p1"]);

    let only = "deny from !principal:* port:80";
    check(only, "plain -> :80", expect!["deny by ns/p1"]);
    check(only, "plain -> :81", expect!["allow"]);
    check(only, "dev/shell -> :80", expect!["allow"]);
    let only_two = "deny from !principal:* port:80 | !principal:* port:443";
    check(only_two, "plain -> :443", expect!["deny by ns/p1"]);
    check(only_two, "plain -> :444", expect!["allow"]);
    check(only_two, "dev/shell -> :443", expect!["allow"]);
}

#[test]
fn unreadable_policy_denies_whatever_the_others_say() {
    check("unreadable", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("unreadable", "plain -> :80", expect!["deny by ns/p1"]);
    check("allow from any ; unreadable", "dev/shell -> :80", expect!["deny by ns/p2"]);
    check("unreadable ; allow from any", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("unreadable ; dry allow from any", "dev/shell -> :80", expect!["deny by ns/p1"]);
    check("unreadable ; audit from any", "dev/shell -> :80", expect!["deny by ns/p1; audit ns/p2"]);
    check("dry unreadable", "dev/shell -> :80", expect!["allow; dry run deny by ns/p1"]);
}

#[test]
fn policy_has_no_say_over_the_node_probing_its_own_pods() {
    check("", "node -> :80", expect!["allow"]);
    check("deny from any", "node -> :80", expect!["allow"]);
    check("deny from !principal:*", "node -> :80", expect!["allow"]);
    check("allow", "node -> :80", expect!["allow"]);
    check("allow from any", "node -> :80", expect!["allow"]);
    check("unreadable", "node -> :80", expect!["allow"]);
    check("dry deny from any ; audit from any", "node -> :80", expect!["allow"]);
}

struct End {
    source: Option<SpiffeId>,
    source_ip: IpAddr,
    destination_ip: IpAddr,
    destination_port: u16,
    from_node: bool,
}

impl End {
    fn from(text: &str) -> Self {
        let (source, destination) = text.split_once(" -> ").expect("source -> destination");
        let (name, source_ip) = source.split_once('@').unwrap_or((source, "10.0.0.1"));
        let source = match name {
            "plain" | "node" => None,
            uri if uri.starts_with("spiffe://") => Some(uri.parse().expect("SPIFFE ID")),
            account => {
                let (namespace, account) = account.split_once('/').expect("ns/sa");
                Some(SpiffeId::new("td", namespace, account).expect("SPIFFE ID"))
            }
        };
        let (ip, port) = destination.rsplit_once(':').expect("ip:port");
        let ip = if ip.is_empty() { "10.0.0.9" } else { ip.trim_matches(['[', ']']) };
        Self {
            source,
            source_ip: source_ip.parse().expect("source address"),
            destination_ip: ip.parse().expect("destination address"),
            destination_port: port.parse().expect("port"),
            from_node: name == "node",
        }
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
            from_node: self.from_node,
            way: Way::Direct,
        }
    }
}

fn policies_from(text: &str) -> Vec<Policy> {
    let texts = text.split(';').map(str::trim).filter(|policy| !policy.is_empty());
    texts.enumerate().map(|(i, text)| policy_from(&format!("p{}", i + 1), text)).collect()
}

fn policy_from(name: &str, text: &str) -> Policy {
    let key = PolicyKey { namespace: "ns".into(), name: name.into() };
    let (dry_run, text) = text.strip_prefix("dry ").map_or((false, text), |rest| (true, rest));
    let (action, rules) = text.split_once(" from ").map_or((text, None), |(action, rules)| (action, Some(rules)));
    let action = match action {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        "audit" => Action::Audit,
        "unreadable" => return Policy { dry_run, ..Policy::unreadable(key, Scope::Namespace) },
        other => panic!("action {other:?}"),
    };
    let rules = rules.map(|rules| rules.split('|').map(|rule| rule_from(rule.trim())).collect()).unwrap_or_default();
    Policy { key, scope: Scope::Namespace, action, dry_run, rules }
}

fn rule_from(text: &str) -> Rule {
    if text == "any" {
        return Rule::default();
    }
    let clause = |text: &str| match text.trim() {
        "none" => Clause::default(),
        matches => Clause { matches: matches.split(',').map(match_from).collect() },
    };
    Rule { clauses: text.split('&').map(clause).collect() }
}

fn match_from(text: &str) -> Match {
    let mut m = Match::default();
    for field in text.split_whitespace().filter(|field| *field != "()") {
        let (key, value) = field.split_once(':').expect("key:value");
        match key {
            "ns" => m.namespaces.push(string_from(value)),
            "!ns" => m.not_namespaces.push(string_from(value)),
            "principal" => m.principals.push(string_from(value)),
            "!principal" => m.not_principals.push(string_from(value)),
            "sa" => m.service_accounts.push(account_from(value)),
            "!sa" => m.not_service_accounts.push(account_from(value)),
            "ip" => m.source_ips.push(value.parse().expect("network")),
            "!ip" => m.not_source_ips.push(value.parse().expect("network")),
            "to" => m.destination_ips.push(value.parse().expect("network")),
            "!to" => m.not_destination_ips.push(value.parse().expect("network")),
            "port" => m.destination_ports.push(value.parse().expect("port")),
            "!port" => m.not_destination_ports.push(value.parse().expect("port")),
            other => panic!("field {other:?}"),
        }
    }
    m
}

fn string_from(text: &str) -> StringMatch {
    let value = |text: &str| if text == "\"\"" { "".into() } else { text.into() };
    match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
        ("*", ..) => StringMatch::Presence,
        (_, Some(suffix), _) => StringMatch::Suffix(value(suffix)),
        (_, _, Some(prefix)) => StringMatch::Prefix(value(prefix)),
        (exact, ..) => StringMatch::Exact(value(exact)),
    }
}

fn account_from(text: &str) -> ServiceAccount {
    let (namespace, name) = text.split_once('/').expect("ns/sa");
    ServiceAccount { namespace: namespace.into(), name: name.into() }
}

fn describe(evaluated: Evaluated) -> String {
    let say = |verdict: Result<Option<PolicyKey>, Denial>| match verdict {
        Ok(None) => "allow".to_owned(),
        Ok(Some(policy)) => format!("allow by {policy}"),
        Err(Denial { reason: DenialReason::DenyPolicy, policy: Some(policy) }) => format!("deny by {policy}"),
        Err(Denial { reason: DenialReason::NoAllowPolicy, policy: None }) => "deny: no allow matched".to_owned(),
        Err(odd) => format!("{odd:?}"),
    };
    let mut text = say(evaluated.verdict.map(|permit| permit.policy().cloned()));
    if let Some(verdict) = evaluated.dry_run {
        text += &format!("; dry run {}", say(verdict));
    }
    if !evaluated.audited.is_empty() {
        let audited: Vec<_> = evaluated.audited.iter().map(ToString::to_string).collect();
        text += &format!("; audit {}", audited.join(", "));
    }
    text
}
