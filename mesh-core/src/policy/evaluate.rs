//! The verdict on a connection: DENY first, then ALLOW, and an ALLOW present denies the rest.

use std::fmt;

use serde::Serialize;

use super::{Action, Connection, Policy, Way};
use crate::workload::PolicyKey;

/// Proof that policy allowed a connection. Delivering a connection to a pod consumes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    /// The ALLOW that matched; `None` when no ALLOW applies to the workload.
    policy: Option<PolicyKey>,
}

impl Permit {
    pub fn policy(&self) -> Option<&PolicyKey> {
        self.policy.as_ref()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    pub reason: DenialReason,
    /// The DENY that matched; `None` when ALLOW policies apply and none of them matched.
    pub policy: Option<PolicyKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenialReason {
    DenyPolicy,
    NoAllowPolicy,
    WaypointRequired,
}

impl Denial {
    /// Closed set, used as a log and metric label.
    pub fn reason(&self) -> &'static str {
        match self.reason {
            DenialReason::DenyPolicy => "policy_denied",
            DenialReason::NoAllowPolicy => "no_allow_matched",
            DenialReason::WaypointRequired => "waypoint_required",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(policy) => write!(f, "denied by {policy}"),
            None if self.reason == DenialReason::WaypointRequired => {
                f.write_str("denied: the workload is to be reached through its waypoint, and the peer is another")
            }
            None => f.write_str("denied: ALLOW policies apply and none matched"),
        }
    }
}

/// A verdict, with what dry-run and AUDIT policies had to say, which never changes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Evaluated {
    pub verdict: Result<Permit, Denial>,
    /// What the verdict would be were dry-run policies in force; `None` when it would be the same.
    pub dry_run: Option<Result<Option<PolicyKey>, Denial>>,
    /// AUDIT policies that matched.
    pub audited: Vec<PolicyKey>,
}

/// Evaluates the policies that apply to a workload, in any order.
pub fn evaluate<'a>(policies: impl IntoIterator<Item = &'a Policy> + Clone, connection: &Connection<'_>) -> Evaluated {
    let decided = |verdict| Evaluated { verdict, dry_run: None, audited: Vec::new() };
    match connection.way {
        _ if connection.from_node => return decided(Ok(Permit { policy: None })),
        Way::Through => return decided(Ok(Permit { policy: None })),
        Way::Around => return decided(Err(Denial { reason: DenialReason::WaypointRequired, policy: None })),
        Way::Direct => {}
    }
    let enforced = decide(policies.clone().into_iter().filter(|p| !p.dry_run), connection);
    let mut dry_run = None;
    if policies.clone().into_iter().any(|p| p.dry_run && p.action != Action::Audit) {
        // Enforced ones first: what already decides keeps the credit, whatever the order they came in.
        let in_force = policies.clone().into_iter().filter(|p| !p.dry_run);
        let on_trial = policies.clone().into_iter().filter(|p| p.dry_run);
        let with_dry_run = decide(in_force.chain(on_trial), connection);
        if with_dry_run != enforced {
            dry_run = Some(with_dry_run);
        }
    }
    let audited = policies
        .into_iter()
        .filter(|p| p.action == Action::Audit && p.matches(connection))
        .map(|p| p.key.clone())
        .collect();
    Evaluated { verdict: enforced.map(|policy| Permit { policy }), dry_run, audited }
}

fn decide<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
    connection: &Connection<'_>,
) -> Result<Option<PolicyKey>, Denial> {
    let mut allow_present = false;
    let mut allowed = None;
    for policy in policies {
        match policy.action {
            Action::Deny if policy.matches(connection) => {
                return Err(Denial { reason: DenialReason::DenyPolicy, policy: Some(policy.key.clone()) });
            }
            Action::Allow => {
                allow_present = true;
                if allowed.is_none() && policy.matches(connection) {
                    allowed = Some(policy.key.clone());
                }
            }
            Action::Deny | Action::Audit => {}
        }
    }
    if allow_present && allowed.is_none() {
        return Err(Denial { reason: DenialReason::NoAllowPolicy, policy: None });
    }
    Ok(allowed)
}
