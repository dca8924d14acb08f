//! What a client's agent does with its connections to a service: the part of a DestinationRule's `trafficPolicy` that needs
//! no waypoint.

mod spill;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workload::{Locality, Scope};
pub use spill::spill;

/// The rules for a service, by the namespace of the client; the one under `""` is for clients of every other namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Traffic {
    pub rules: BTreeMap<Arc<str>, Arc<Rule>>,
}

/// One DestinationRule, as far as it concerns a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub general: TrafficPolicy,
    /// By service port. What is set for a port inherits nothing from `general`.
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

impl Traffic {
    /// What holds for a client of `namespace` that asks for `port`; `None` when nobody has said anything.
    pub fn policy(&self, namespace: &str, port: u16) -> Option<&TrafficPolicy> {
        let rule = self.rules.get(namespace).or_else(|| self.rules.get(""))?;
        Some(rule.ports.get(&port).unwrap_or(&rule.general))
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficPolicy {
    pub balance: Balance,
    pub pool: ConnectionPool,
    pub outliers: Option<OutlierDetection>,
    /// In place of the service's own routing preference.
    pub locality: Option<LocalityPolicy>,
}

/// How one of equally good endpoints is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two drawn at random, the one with fewer live connections for its capacity.
    #[default]
    LeastConnections,
    RoundRobin,
    Random,
    /// By the client's address: the same client gets the same endpoint for as long as that is there.
    SourceIp,
}

/// Limits for the connections of one pod to one port of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionPool {
    /// More are refused.
    pub max_connections: Option<u32>,
    /// For reaching one endpoint, its agent and the application included.
    pub connect_timeout: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    /// A connection that carries nothing for this long is ended. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection is ended when it is this old.
    pub max_duration: Option<Duration>,
}

/// Of plain TCP connections; tunnels have keepalive of their own. What is not set is as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// When an endpoint gets no new connections for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// Connections in a row that could not be opened or that the destination reset; 0: never.
    pub consecutive_failures: u32,
    /// How often it is looked at whether an ejection is over.
    pub interval: Duration,
    /// Times the number of ejections in a row.
    pub base_ejection: Duration,
    /// Share of the endpoints that may be ejected at once, 0 to 100, rounded down.
    pub max_ejection_percent: u8,
    /// With a smaller share of endpoints left, 0 to 100, ejected ones are used as well.
    pub min_health_percent: u8,
}

/// Which endpoints a client prefers by where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalityPolicy {
    Failover {
        /// From the widest to the narrowest; an endpoint ranks by how many hold, counted from the front.
        scopes: Vec<Scope>,
        /// Region of the client to the region that comes before all other foreign ones.
        regions: BTreeMap<Arc<str>, Arc<str>>,
    },
    Distribute(Vec<Distribution>),
}

/// Where the connections of clients at one place go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    pub from: Place,
    /// With their shares of 100.
    pub to: Vec<(Place, u32)>,
}

/// `region/zone/subzone`, cut short or with `*` for any; `*` alone is everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Place(pub Arc<str>);

impl Place {
    pub fn holds(&self, locality: &Locality) -> bool {
        let own = [&*locality.region, &*locality.zone, &*locality.subzone];
        self.0.split('/').zip(own).all(|(asked, own)| asked == "*" || asked == own)
    }

    /// How many parts it names: of two places that hold, the one with more is meant.
    pub fn precision(&self) -> usize {
        self.0.split('/').filter(|part| *part != "*").count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_what_lies_within_it() {
        let zone = Locality { region: "eu".into(), zone: "a".into(), subzone: "r1".into() };
        for (place, holds) in [
            ("*", true),
            ("eu", true),
            ("eu/*", true),
            ("eu/a", true),
            ("eu/a/*", true),
            ("eu/a/r1", true),
            ("eu/*/r1", true),
            ("eu/b", false),
            ("us", false),
            ("eu/a/r2", false),
            ("", false),
        ] {
            assert_eq!(Place(place.into()).holds(&zone), holds, "{place}");
        }
        assert!(Place("eu/a".into()).precision() > Place("eu/*".into()).precision());
    }

    #[test]
    fn a_namespaces_own_rule_comes_before_that_for_all_and_a_port_inherits_nothing() {
        let rule = |balance| Rule { general: TrafficPolicy { balance, ..Default::default() }, ports: BTreeMap::new() };
        let mut own = rule(Balance::Random);
        own.general.pool.max_connections = Some(1);
        own.ports.insert(81, TrafficPolicy::default());
        let rules = BTreeMap::from([("".into(), Arc::new(rule(Balance::RoundRobin))), ("shop".into(), Arc::new(own))]);
        let traffic = Traffic { rules };
        let of = |namespace: &str, port| traffic.policy(namespace, port).expect("a rule for all").clone();
        assert_eq!(of("other", 80).balance, Balance::RoundRobin);
        assert_eq!(of("shop", 80).balance, Balance::Random);
        assert_eq!(of("shop", 81), TrafficPolicy::default());
        assert_eq!(Traffic::default().policy("shop", 80), None);
    }
}
