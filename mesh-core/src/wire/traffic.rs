//! `weft.v1.Traffic`, an extension of a service <-> [`Traffic`].

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use thiserror::Error;

use super::extensions as wire;
use super::extensions::traffic_policy::{Balance as WireBalance, Locality as WireLocality};
use super::workload::Extension;
use super::{TRAFFIC_EXTENSION, TRAFFIC_TYPE, scope};
use crate::traffic::{
    Balance, ConnectionPool, Distribution, Keepalive, LocalityPolicy, OutlierDetection, Place, Rule, Traffic,
    TrafficPolicy,
};

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidTraffic {
    #[error("cannot be decoded: {0}")]
    Decode(prost::DecodeError),
    #[error("{field} {value} is not one this version knows")]
    Unknown { field: &'static str, value: i64 },
    #[error("{field} is negative or too long")]
    Duration { field: &'static str },
}

/// # Errors
/// The extension is there and says something else than this version knows: to pass over a limit is not to keep it.
pub(super) fn read(extensions: &[Extension]) -> Result<Traffic, InvalidTraffic> {
    let Some(found) = extensions.iter().find(|e| e.name == TRAFFIC_EXTENSION) else { return Ok(Traffic::default()) };
    let config = found.config.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let message = wire::Traffic::decode(config).map_err(InvalidTraffic::Decode)?;
    let rules = message.rules.into_iter().map(|(namespace, rule)| Ok((namespace.into(), Arc::new(read_rule(rule)?))));
    Ok(Traffic { rules: rules.collect::<Result<_, _>>()? })
}

/// `None` when there is nothing to say.
pub(super) fn write(traffic: &Traffic) -> Option<Extension> {
    let rules = traffic.rules.iter().map(|(namespace, rule)| (namespace.to_string(), write_rule(rule)));
    let message = wire::Traffic { rules: rules.collect() };
    (!traffic.is_empty()).then(|| Extension {
        name: TRAFFIC_EXTENSION.to_owned(),
        config: Some(prost_types::Any { type_url: TRAFFIC_TYPE.to_owned(), value: message.encode_to_vec() }),
    })
}

fn read_rule(rule: wire::TrafficRule) -> Result<Rule, InvalidTraffic> {
    let port = |number: u32| {
        u16::try_from(number).map_err(|_| InvalidTraffic::Unknown { field: "port", value: number.into() })
    };
    let ports = rule.ports.into_iter().map(|(number, policy)| Ok((port(number)?, read_policy(policy)?)));
    Ok(Rule { general: read_policy(rule.general.unwrap_or_default())?, ports: ports.collect::<Result<_, _>>()? })
}

fn write_rule(rule: &Rule) -> wire::TrafficRule {
    wire::TrafficRule {
        general: Some(write_policy(&rule.general)),
        ports: rule.ports.iter().map(|(port, policy)| (u32::from(*port), write_policy(policy))).collect(),
    }
}

fn read_policy(policy: wire::TrafficPolicy) -> Result<TrafficPolicy, InvalidTraffic> {
    let unknown = |_| InvalidTraffic::Unknown { field: "balance", value: policy.balance.into() };
    let balance = match WireBalance::try_from(policy.balance).map_err(unknown)? {
        WireBalance::LeastConnections => Balance::LeastConnections,
        WireBalance::RoundRobin => Balance::RoundRobin,
        WireBalance::Random => Balance::Random,
        WireBalance::SourceIp => Balance::SourceIp,
    };
    let pool = policy.pool.unwrap_or_default();
    let keepalive = pool.keepalive.map(|keepalive| {
        Ok(Keepalive {
            probes: keepalive.probes,
            time: read_duration(keepalive.time, "keepalive.time")?,
            interval: read_duration(keepalive.interval, "keepalive.interval")?,
        })
    });
    Ok(TrafficPolicy {
        balance,
        pool: ConnectionPool {
            max_connections: pool.max_connections,
            connect_timeout: read_duration(pool.connect_timeout, "connect_timeout")?,
            keepalive: keepalive.transpose()?,
            idle_timeout: read_duration(pool.idle_timeout, "idle_timeout")?,
            max_duration: read_duration(pool.max_duration, "max_duration")?,
        },
        outliers: policy.outliers.map(read_outliers).transpose()?,
        locality: policy.locality.map(read_locality).transpose()?,
    })
}

fn write_policy(policy: &TrafficPolicy) -> wire::TrafficPolicy {
    let balance = match policy.balance {
        Balance::LeastConnections => WireBalance::LeastConnections,
        Balance::RoundRobin => WireBalance::RoundRobin,
        Balance::Random => WireBalance::Random,
        Balance::SourceIp => WireBalance::SourceIp,
    };
    let pool = &policy.pool;
    wire::TrafficPolicy {
        balance: balance as i32,
        pool: (*pool != ConnectionPool::default()).then(|| wire::ConnectionPool {
            max_connections: pool.max_connections,
            connect_timeout: pool.connect_timeout.map(write_duration),
            keepalive: pool.keepalive.map(|keepalive| wire::Keepalive {
                probes: keepalive.probes,
                time: keepalive.time.map(write_duration),
                interval: keepalive.interval.map(write_duration),
            }),
            idle_timeout: pool.idle_timeout.map(write_duration),
            max_duration: pool.max_duration.map(write_duration),
        }),
        outliers: policy.outliers.map(|outliers| wire::OutlierDetection {
            consecutive_failures: outliers.consecutive_failures,
            interval: Some(write_duration(outliers.interval)),
            base_ejection: Some(write_duration(outliers.base_ejection)),
            max_ejection_percent: outliers.max_ejection_percent.into(),
            min_health_percent: outliers.min_health_percent.into(),
        }),
        locality: policy.locality.as_ref().map(write_locality),
    }
}

fn read_outliers(outliers: wire::OutlierDetection) -> Result<OutlierDetection, InvalidTraffic> {
    let percent = |value: u32, field| match u8::try_from(value) {
        Ok(percent) if percent <= 100 => Ok(percent),
        _ => Err(InvalidTraffic::Unknown { field, value: value.into() }),
    };
    Ok(OutlierDetection {
        consecutive_failures: outliers.consecutive_failures,
        interval: read_duration(outliers.interval, "outliers.interval")?.unwrap_or_default(),
        base_ejection: read_duration(outliers.base_ejection, "outliers.base_ejection")?.unwrap_or_default(),
        max_ejection_percent: percent(outliers.max_ejection_percent, "outliers.max_ejection_percent")?,
        min_health_percent: percent(outliers.min_health_percent, "outliers.min_health_percent")?,
    })
}

fn read_locality(locality: WireLocality) -> Result<LocalityPolicy, InvalidTraffic> {
    let unknown = |number: i32| InvalidTraffic::Unknown { field: "scope", value: number.into() };
    let scope = |number: i32| scope::read(number).ok_or_else(|| unknown(number));
    Ok(match locality {
        WireLocality::Failover(failover) => LocalityPolicy::Failover {
            scopes: failover.scopes.into_iter().map(scope).collect::<Result<_, _>>()?,
            regions: failover.regions.into_iter().map(|(from, to)| (from.into(), to.into())).collect(),
        },
        WireLocality::Distribute(distribute) => {
            let share = |share: wire::distribute::Share| (Place(share.place.into()), share.percent);
            let rule = |rule: wire::distribute::Rule| Distribution {
                from: Place(rule.from.into()),
                to: rule.to.into_iter().map(share).collect(),
            };
            LocalityPolicy::Distribute(distribute.rules.into_iter().map(rule).collect())
        }
    })
}

fn write_locality(locality: &LocalityPolicy) -> WireLocality {
    match locality {
        LocalityPolicy::Failover { scopes, regions } => WireLocality::Failover(wire::Failover {
            scopes: scopes.iter().copied().map(scope::write).collect(),
            regions: regions.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect(),
        }),
        LocalityPolicy::Distribute(rules) => {
            let share = |(place, percent): &(Place, u32)| wire::distribute::Share {
                place: place.0.to_string(),
                percent: *percent,
            };
            let rule = |rule: &Distribution| wire::distribute::Rule {
                from: rule.from.0.to_string(),
                to: rule.to.iter().map(share).collect(),
            };
            WireLocality::Distribute(wire::Distribute { rules: rules.iter().map(rule).collect() })
        }
    }
}

fn read_duration(
    duration: Option<prost_types::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, InvalidTraffic> {
    duration.map(|d| Duration::try_from(d).map_err(|_| InvalidTraffic::Duration { field })).transpose()
}

/// The longest that protobuf's form can say is longer than any duration of a DestinationRule.
fn write_duration(duration: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    prost_types::Duration::try_from(duration).unwrap_or(longest)
}
