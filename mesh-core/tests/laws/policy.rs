//! What adding and reordering policies can and cannot do, and the verdict against one written down separately.

use std::net::IpAddr;

use mesh_core::policy::{Action, Connection, DenialReason, Match, Policy, StringMatch, evaluate};
use mesh_core::workload::PolicyKey;
use proptest::prelude::*;

use crate::generate::{End, end, policies, policy};

fn allowed(policies: &[Policy], end: &End) -> bool {
    evaluate(policies, &end.connection()).verdict.is_ok()
}

/// `policies` with `added` put in at any place.
fn with(policies: &[Policy], added: Policy, place: usize) -> Vec<Policy> {
    let mut more = policies.to_vec();
    more.insert(place % (policies.len() + 1), added);
    more
}

proptest! {
    #![proptest_config(crate::cases(1000))]

    #[test]
    fn another_deny_never_widens(before in policies(), mut deny in policy(), place: usize, end in end()) {
        deny.action = Action::Deny;
        let after = with(&before, deny, place);
        prop_assert!(allowed(&before, &end) || !allowed(&after, &end));
    }

    #[test]
    fn another_allow_beside_one_never_narrows(
        others in policies(), first in policy(), mut second in policy(), place: usize, end in end(),
    ) {
        let before = with(&others, Policy { action: Action::Allow, dry_run: false, ..first }, place);
        second.action = Action::Allow;
        let after = with(&before, second, place);
        prop_assert!(!allowed(&before, &end) || allowed(&after, &end));
    }

    #[test]
    fn another_dry_run_or_audit_changes_no_verdict(
        before in policies(), mut added in policy(), place: usize, audit: bool, end in end(),
    ) {
        match audit {
            true => added.action = Action::Audit,
            false => added.dry_run = true,
        }
        let after = with(&before, added, place);
        let (before, after) = (evaluate(&before, &end.connection()), evaluate(&after, &end.connection()));
        prop_assert_eq!(before.verdict, after.verdict);
    }

    #[test]
    fn order_changes_nothing_but_who_is_named(
        (ordered, shuffled) in policies().prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())), end in end(),
    ) {
        let seen = |policies: &[Policy]| {
            let evaluated = evaluate(policies, &end.connection());
            let mut audited = evaluated.audited;
            audited.sort();
            let verdict = evaluated.verdict.map(drop).map_err(|denial| denial.reason);
            let dry_run = evaluated.dry_run.map(|verdict| verdict.map(drop).map_err(|denial| denial.reason));
            (verdict, dry_run, audited)
        };
        prop_assert_eq!(seen(&ordered), seen(&shuffled));
    }

    #[test]
    fn dry_run_foretells_what_enforcing_will_do(policies in policies(), end in end()) {
        let foretold = evaluate(&policies, &end.connection());
        let enforced: Vec<_> = policies.iter().cloned().map(|p| Policy { dry_run: false, ..p }).collect();
        let foretold = foretold.dry_run.map_or(foretold.verdict.is_ok(), |verdict| verdict.is_ok());
        prop_assert_eq!(foretold, allowed(&enforced, &end));
    }

    #[test]
    fn verdict_is_the_documented_one(policies in policies(), end in end()) {
        let seen = evaluate(&policies, &end.connection());
        let documented = documented(&policies, &end.connection());
        let named = match &seen.verdict {
            Ok(permit) => (true, permit.policy().cloned()),
            Err(denial) => (false, denial.policy.clone()),
        };
        prop_assert_eq!(named.0, documented.allowed);
        match &named.1 {
            Some(key) => prop_assert!(documented.named.contains(key)),
            None => prop_assert!(documented.named.is_empty()),
        }
        if let Err(denial) = &seen.verdict {
            prop_assert_eq!(denial.reason == DenialReason::DenyPolicy, denial.policy.is_some());
        }
        prop_assert_eq!(seen.audited, documented.audited);
    }
}

struct Documented {
    allowed: bool,
    /// Policies that may be given as the reason.
    named: Vec<PolicyKey>,
    audited: Vec<PolicyKey>,
}

/// Istio's rules as its documentation counts them: a DENY that matches denies; without ALLOW policies all is allowed; an
/// ALLOW that matches allows; the rest is denied.
fn documented(policies: &[Policy], connection: &Connection<'_>) -> Documented {
    let matching = |action: Action| -> Vec<PolicyKey> {
        let mut keys = Vec::new();
        for policy in policies {
            let in_force = !policy.dry_run || action == Action::Audit;
            if policy.action == action && in_force && policy_matches(policy, connection) {
                keys.push(policy.key.clone());
            }
        }
        keys
    };
    let audited = matching(Action::Audit);
    let denying = matching(Action::Deny);
    if !denying.is_empty() {
        return Documented { allowed: false, named: denying, audited };
    }
    if !policies.iter().any(|p| p.action == Action::Allow && !p.dry_run) {
        return Documented { allowed: true, named: vec![], audited };
    }
    let allowing = matching(Action::Allow);
    Documented { allowed: !allowing.is_empty(), named: allowing, audited }
}

fn policy_matches(policy: &Policy, c: &Connection<'_>) -> bool {
    let mut any_rule = false;
    for rule in &policy.rules {
        let mut every_clause = true;
        for clause in &rule.clauses {
            let mut any_match = false;
            for m in &clause.matches {
                any_match |= match_holds(m, c);
            }
            every_clause &= any_match;
        }
        any_rule |= every_clause;
    }
    any_rule
}

fn match_holds(m: &Match, c: &Connection<'_>) -> bool {
    // The identity taken apart from its text, not through its accessors.
    let parts: Vec<&str> = c.source.map(|id| id.uri().split('/').collect()).unwrap_or_default();
    let (namespace, account) = (parts.get(4).copied(), parts.get(6).copied());
    let principal = (!parts.is_empty()).then(|| parts[2..].join("/"));
    let principal = principal.as_deref();

    let mut failed = 0;
    let mut field = |yes: Vec<bool>, no: Vec<bool>| {
        if (!yes.is_empty() && !yes.contains(&true)) || no.contains(&true) {
            failed += 1;
        }
    };
    let strings = |list: &[StringMatch], value| list.iter().map(|s| string_holds(s, value)).collect();
    field(strings(&m.namespaces, namespace), strings(&m.not_namespaces, namespace));
    field(strings(&m.principals, principal), strings(&m.not_principals, principal));
    let is_account =
        |a: &mesh_core::policy::ServiceAccount| Some(&*a.namespace) == namespace && Some(&*a.name) == account;
    field(m.service_accounts.iter().map(is_account).collect(), m.not_service_accounts.iter().map(is_account).collect());
    let nets = |list: &[ipnet::IpNet], ip| list.iter().map(|n| same_bits(n.addr(), ip, n.prefix_len())).collect();
    field(nets(&m.source_ips, c.source_ip), nets(&m.not_source_ips, c.source_ip));
    field(nets(&m.destination_ips, c.destination_ip), nets(&m.not_destination_ips, c.destination_ip));
    let ports = |list: &[u16]| list.iter().map(|p| *p == c.destination_port).collect();
    field(ports(&m.destination_ports), ports(&m.not_destination_ports));
    failed == 0
}

/// Nobody has proven a name that is not there, so nothing positive holds for it.
fn string_holds(s: &StringMatch, value: Option<&str>) -> bool {
    let value = value.map(str::as_bytes);
    match (s, value) {
        (_, None) => false,
        (StringMatch::Presence, Some(_)) => true,
        (StringMatch::Exact(text), Some(value)) => text.as_bytes() == value,
        (StringMatch::Prefix(text), Some(value)) => value.get(..text.len()) == Some(text.as_bytes()),
        (StringMatch::Suffix(text), Some(value)) => {
            value.len() >= text.len() && &value[value.len() - text.len()..] == text.as_bytes()
        }
    }
}

/// Bits compared one by one, IPv4 as the mapped range; a shorter IPv6 prefix is about IPv6 only.
fn same_bits(net: IpAddr, ip: IpAddr, prefix: u8) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => 0xffff_0000_0000u128 | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (prefix, about_v4) = match net {
        IpAddr::V4(_) => (prefix + 96, true),
        IpAddr::V6(_) => (prefix, prefix >= 96 && bits(net) >> 32 == 0xffff),
    };
    let is_v4 = bits(ip) >> 32 == 0xffff;
    is_v4 == about_v4 && (0..prefix).all(|bit| (bits(net) >> (127 - bit)) & 1 == (bits(ip) >> (127 - bit)) & 1)
}
