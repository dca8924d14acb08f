//! Whether a request may go on: L7 policies, compiled once for a model and narrowed once for a connection.
//!
//! ```text
//! Policy ..  --Policies::compile-->  Policies  --for_connection(peer)-->  ConnectionPolicies
//!                                                                             |
//!                           Request --------------------------------evaluate--+--> Decision
//! ```
//! Fields that L4 has as well mean the same as in [`mesh_core::policy`]. What cannot be read fails closed, rule by rule: in an
//! ALLOW it lets nobody in, in any other policy it holds for everybody.

mod rule;
mod term;
mod template;
mod texts;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_core::l7::authorization::{Action, ExternalAuthorizer, Policy, Rule as Written};
use mesh_core::policy::DenialReason;

use super::fields::Fields;
use super::jwt::Authenticated;
use rule::{Rest, Rule};

/// What is known of a client before its first request.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Proven by mutual TLS; `None` for a plaintext connection.
    pub identity: Option<&'a SpiffeId>,
    /// The client pod's own.
    pub address: IpAddr,
    /// What the client asked for.
    pub destination: IpAddr,
    /// Of the service.
    pub port: u16,
    pub sni: Option<&'a str>,
}

/// The head of a request as it came, before any rewrite.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// As sent.
    pub host: &'a str,
    /// Normalised as the model says, without query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub fields: &'a dyn Fields,
    pub authenticated: Option<&'a Authenticated>,
}

/// What is to become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// What the verdict would be were dry-run policies in force; `None` when it would be the same.
    pub dry_run: Option<Verdict>,
    /// AUDIT policies that hold, and CUSTOM ones on trial, by name.
    pub recorded: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By this ALLOW; `None` when no ALLOW applies.
    Allow(Option<Arc<str>>),
    Deny(Denial),
    /// Nothing is decided before this authorizer has let the request pass: then to be evaluated again, with its provider among
    /// those that have.
    Ask(Question),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub reason: DenialReason,
    /// The DENY that holds; `None` when ALLOW policies apply and none of them holds.
    pub policy: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub policy: Arc<str>,
    pub authorizer: Arc<ExternalAuthorizer>,
}

/// Why a rule is not carried out as written; which part is the controller's business, who checks the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreadable;

/// The policies of one model.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<[Arc<Compiled>]>);

#[derive(Debug)]
struct Compiled {
    name: Arc<str>,
    action: Kind,
    dry_run: bool,
    rules: Vec<Rule>,
    ports: Vec<u16>,
}

#[derive(Clone, Debug)]
enum Kind {
    Allow,
    Deny,
    Audit,
    Custom(Arc<ExternalAuthorizer>),
}

impl Policies {
    pub fn compile(policies: &[Policy]) -> Self {
        Self(policies.iter().map(|policy| Arc::new(compile(policy))).collect())
    }

    /// Those that may concern requests on a connection, with what is left to ask of each request.
    pub fn for_connection(&self, peer: Peer<'_>) -> ConnectionPolicies {
        let applies = |policy: &&Arc<Compiled>| policy.ports.is_empty() || policy.ports.contains(&peer.port);
        let none = Vec::new;
        let mut found =
            ConnectionPolicies { address: peer.address, custom: none(), deny: none(), allow: none(), audit: none() };
        for policy in self.0.iter().filter(applies) {
            let mut rules: Vec<_> = policy.rules.iter().filter_map(|rule| rule.for_connection(&peer)).collect();
            if let Some(settled) = rules.iter().position(Rest::is_settled) {
                rules = vec![rules.swap_remove(settled)];
            }
            let is_empty = rules.is_empty();
            let candidate = Candidate { policy: policy.clone(), rules };
            match policy.action {
                // An ALLOW that holds for no request denies what no other allows.
                Kind::Allow => found.allow.push(candidate),
                _ if is_empty => {}
                Kind::Deny => found.deny.push(candidate),
                Kind::Audit => found.audit.push(candidate),
                Kind::Custom(_) => found.custom.push(candidate),
            }
        }
        found
    }
}

/// Which requests something else than a policy is for, said as policies say it: one of the rules holds, or there is none.
#[derive(Clone, Debug)]
pub(super) struct Selection(Vec<Rule>);

impl Selection {
    /// A rule that cannot be read holds for everybody.
    pub(super) fn compile(rules: &[Written]) -> Self {
        if rules.is_empty() {
            return Self(vec![Rule::always()]);
        }
        Self(rules.iter().map(|rule| Rule::compile(rule).unwrap_or_else(|Unreadable| Rule::always())).collect())
    }

    /// `None`: none of the connection's requests.
    pub(super) fn for_connection(&self, peer: &Peer<'_>) -> Option<ConnectionSelection> {
        let rules: Vec<_> = self.0.iter().filter_map(|rule| rule.for_connection(peer)).collect();
        (!rules.is_empty()).then_some(ConnectionSelection { address: peer.address, rules })
    }
}

#[derive(Clone, Debug)]
pub(super) struct ConnectionSelection {
    address: IpAddr,
    rules: Vec<Rest>,
}

impl ConnectionSelection {
    pub(super) fn holds(&self, request: &Request<'_>) -> bool {
        self.rules.iter().any(|rule| rule.holds(request, self.address))
    }
}

/// The address that a request came from before it reached the mesh: the last entry of x-forwarded-for, else the client's own.
pub(super) fn remote(request: &Request<'_>, client: IpAddr) -> IpAddr {
    term::remote(request.fields).unwrap_or(client)
}

fn compile(policy: &Policy) -> Compiled {
    let action = match &policy.action {
        Action::Allow => Kind::Allow,
        Action::Deny => Kind::Deny,
        Action::Audit => Kind::Audit,
        Action::Custom(authorizer) => Kind::Custom(Arc::new(authorizer.clone())),
    };
    let rule = |written| match (Rule::compile(written), &action) {
        (Ok(rule), _) => Some(rule),
        (Err(Unreadable), Kind::Allow) => None,
        (Err(Unreadable), Kind::Deny | Kind::Audit | Kind::Custom(_)) => Some(Rule::always()),
    };
    let rules = policy.rules.iter().filter_map(rule).collect();
    Compiled { name: policy.name.clone(), dry_run: policy.dry_run, rules, ports: policy.ports.clone(), action }
}

/// Policies that may concern requests on one connection.
#[derive(Clone, Debug)]
pub struct ConnectionPolicies {
    address: IpAddr,
    custom: Vec<Candidate>,
    deny: Vec<Candidate>,
    allow: Vec<Candidate>,
    audit: Vec<Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    policy: Arc<Compiled>,
    /// ORed.
    rules: Vec<Rest>,
}

impl ConnectionPolicies {
    /// `passed`: providers of the authorizers that have let this request pass.
    pub fn evaluate(&self, request: &Request<'_>, passed: &[Arc<str>]) -> Decision {
        self.judge(|c| c.rules.iter().any(|rule| rule.holds(request, self.address)), passed)
    }

    /// For a connection that is no HTTP. What asks for a request holds for none in an ALLOW, and is left out elsewhere, as in the
    /// reference: a DENY of a path denies bytes that might ask for it.
    pub fn evaluate_bytes(&self, passed: &[Arc<str>]) -> Decision {
        let holds = |c: &Candidate| match c.policy.action {
            Kind::Allow => c.rules.iter().any(Rest::is_settled),
            Kind::Deny | Kind::Audit | Kind::Custom(_) => !c.rules.is_empty(),
        };
        self.judge(holds, passed)
    }

    fn judge(&self, holds: impl Fn(&Candidate) -> bool, passed: &[Arc<str>]) -> Decision {
        let holds = |c: &&Candidate| holds(c);
        let mut recorded = Vec::new();
        for candidate in self.custom.iter().filter(&holds) {
            let Kind::Custom(authorizer) = &candidate.policy.action else { continue };
            if candidate.policy.dry_run {
                recorded.push(candidate.policy.name.clone());
            } else if !passed.contains(&authorizer.provider) {
                let question = Question { policy: candidate.policy.name.clone(), authorizer: authorizer.clone() };
                return Decision { verdict: Verdict::Ask(question), dry_run: None, recorded: Vec::new() };
            }
        }
        recorded.extend(self.audit.iter().filter(&holds).map(|c| c.policy.name.clone()));
        let verdict = self.decide(false, &holds);
        let on_trial = self.deny.iter().chain(&self.allow).any(|c| c.policy.dry_run);
        let dry_run = on_trial.then(|| self.decide(true, &holds)).filter(|other| *other != verdict);
        Decision { verdict, dry_run, recorded }
    }

    /// Those in force come first: what already decides keeps the credit.
    fn decide(&self, with_dry_run: bool, holds: &impl Fn(&&Candidate) -> bool) -> Verdict {
        fn counted(all: &[Candidate], with_dry_run: bool) -> impl Iterator<Item = &Candidate> {
            let of = |dry_run| all.iter().filter(move |c| c.policy.dry_run == dry_run);
            of(false).chain(of(true).take(if with_dry_run { usize::MAX } else { 0 }))
        }
        if let Some(denying) = counted(&self.deny, with_dry_run).find(holds) {
            let policy = Some(denying.policy.name.clone());
            return Verdict::Deny(Denial { reason: DenialReason::DenyPolicy, policy });
        }
        if counted(&self.allow, with_dry_run).next().is_none() {
            return Verdict::Allow(None);
        }
        match counted(&self.allow, with_dry_run).find(holds) {
            Some(allowing) => Verdict::Allow(Some(allowing.policy.name.clone())),
            None => Verdict::Deny(Denial { reason: DenialReason::NoAllowPolicy, policy: None }),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(policy) => write!(f, "denied by {policy}"),
            None => f.write_str("denied: ALLOW policies apply and none holds"),
        }
    }
}

#[cfg(test)]
mod tests;
