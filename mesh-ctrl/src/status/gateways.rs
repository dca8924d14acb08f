//! Gateways whose instances the controller runs: their address, whether they are up, and what is attached to each listener.

use serde_json::{Map, Value, json};

use super::{Sight, words};
use crate::condition::{Condition, merged};
use crate::index::Gate;
use crate::instances::Outcome;
use crate::object::gateway::Listener;
use crate::object::reference::GATEWAY_GROUP;
use crate::object::{ObjectKey, Standing};
use crate::source::{Finding, Severity};

const KINDS: [&str; 2] = ["Accepted", "Programmed"];
/// What a waypoint listens for, and where.
const PROTOCOL: &str = "HBONE";
const PORT: u16 = 15008;
/// Routes that a waypoint carries out.
const ROUTES: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];

impl Sight<'_> {
    /// Nothing before it is known how it went with its objects.
    pub(super) fn gateway(&self, key: &ObjectKey, standing: &Standing) -> Map<String, Value> {
        let outcome = self.outcomes.get(&(key.namespace.clone(), key.name.clone()));
        let (Some(gate), Some(outcome)) = (self.index.gate(&key.namespace, &key.name), outcome) else {
            return Map::new();
        };
        let refused: Vec<&Finding> =
            self.findings(key).iter().filter(|finding| finding.severity == Severity::Error).collect();
        let (accepted, programmed) = conditions(&gate, outcome, &refused);
        let before = standing.list("conditions");
        let listeners = self.listeners(&gate, standing, &programmed);
        let conditions = merged(before, &[accepted, programmed], &KINDS, standing.generation, self.now);
        let addresses = gate.addresses.iter().map(|address| json!({"type": "IPAddress", "value": address.to_string()}));
        let fields = [("addresses", addresses.collect()), ("conditions", conditions), ("listeners", listeners)];
        fields.into_iter().map(|(field, list)| (field.to_owned(), Value::Array(list))).collect()
    }

    fn listeners(&self, gate: &Gate<'_>, standing: &Standing, programmed: &Condition) -> Vec<Value> {
        let listeners = gate.gateway.spec.listeners.iter().zip(&gate.attached).map(|(listener, attached)| {
            let before = standing.list("listeners").iter().find(|before| before["name"] == *listener.name);
            let before =
                before.and_then(|before| before["conditions"].as_array()).map(Vec::as_slice).unwrap_or_default();
            let ours = of_listener(listener, programmed);
            let kinds: Vec<Value> = match is_taken(listener) {
                true => ROUTES.iter().map(|kind| json!({"group": GATEWAY_GROUP, "kind": kind})).collect(),
                false => Vec::new(),
            };
            json!({
                "name": listener.name, "attachedRoutes": attached, "supportedKinds": kinds,
                "conditions": merged(before, &ours, &[], standing.generation, self.now),
            })
        });
        listeners.collect()
    }
}

fn is_taken(listener: &Listener) -> bool {
    *listener.protocol == *PROTOCOL && listener.port == PORT
}

/// `Accepted` and `Programmed`.
fn conditions(gate: &Gate<'_>, outcome: &Outcome, refused: &[&Finding]) -> (Condition, Condition) {
    let accepted = |is_true, reason, message: String| Condition::new("Accepted", is_true, reason, message);
    let programmed = |is_true, reason, message: String| Condition::new("Programmed", is_true, reason, message);
    let wrong = match outcome {
        _ if !refused.is_empty() => Some(words(refused.iter().copied())),
        Outcome::Invalid(mistakes) => Some(mistakes.join("; ")),
        _ => None,
    };
    if let Some(why) = wrong {
        let reason = reason_of(&why);
        return (accepted(false, reason, why.clone()), programmed(false, "Invalid", why));
    }
    let is_listened_for = gate.gateway.spec.listeners.iter().all(is_taken);
    let accepted = match is_listened_for {
        true => accepted(true, "Accepted", "carried out by Weft".to_owned()),
        false => accepted(true, "ListenersNotValid", format!("a waypoint listens for {PROTOCOL} on port {PORT} alone")),
    };
    let programmed = match outcome {
        Outcome::Conflict(why) => programmed(false, "Invalid", why.clone()),
        Outcome::Failed(why) => programmed(false, "Pending", why.clone()),
        _ if gate.addresses.is_empty() => {
            programmed(false, "AddressNotAssigned", "its Service has no address yet".to_owned())
        }
        _ if gate.ready == 0 => programmed(false, "Pending", "no instance is ready".to_owned()),
        _ => programmed(true, "Programmed", "instances are ready".to_owned()),
    };
    (accepted, programmed)
}

/// The Gateway API's word for what cannot be.
fn reason_of(why: &str) -> &'static str {
    match () {
        () if why.contains("spec.infrastructure") || why.contains("weft.io/") => "InvalidParameters",
        () if why.contains("spec.addresses") => "UnsupportedAddress",
        () => "Invalid",
    }
}

fn of_listener(listener: &Listener, programmed: &Condition) -> [Condition; 4] {
    let resolved = Condition::new("ResolvedRefs", true, "ResolvedRefs", "it names nothing".to_owned());
    let conflicted = Condition::new("Conflicted", false, "NoConflicts", "no other listener is in its way".to_owned());
    let (accepted, programmed) = match is_taken(listener) {
        true => (
            Condition::new("Accepted", true, "Accepted", "in force".to_owned()),
            Condition { kind: "Programmed", ..programmed.clone() },
        ),
        false => {
            let message = format!("a waypoint listens for {PROTOCOL} on port {PORT} alone");
            let reason = if *listener.protocol == *PROTOCOL { "PortUnavailable" } else { "UnsupportedProtocol" };
            let invalid = Condition::new("Programmed", false, "Invalid", message.clone());
            (Condition::new("Accepted", false, reason, message), invalid)
        }
    };
    [accepted, programmed, resolved, conflicted]
}
