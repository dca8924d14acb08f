//! The leniencies of Kubernetes' and protobuf's JSON, field by field.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Labels, Owner};

/// An IP address or a CIDR range; host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpBlock(pub IpNet);

impl FromStr for IpBlock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no IP address and no CIDR range");
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(ip.to_canonical())));
        }
        Ok(Self(text.parse::<IpNet>().map_err(|_| refused())?.trunc()))
    }
}

impl<'de> Deserialize<'de> for IpBlock {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// A port from 1 to 65535, as a number or (protobuf's form of wide integers, AuthorizationPolicy's of ports) as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortNumber(pub(super) u16);

impl PortNumber {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            Ok(port) if port != 0 && !text.starts_with('+') => Ok(Self(port)),
            _ => Err(format!("{text:?} is no port from 1 to 65535")),
        }
    }
}

impl<'de> Deserialize<'de> for PortNumber {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Port;
        impl Visitor<'_> for Port {
            type Value = PortNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<PortNumber, E> {
                match u16::try_from(value) {
                    Ok(port) if port != 0 => Ok(PortNumber(port)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PortNumber, E> {
                PortNumber::parse(text).map_err(E::custom)
            }
        }
        d.deserialize_any(Port)
    }
}

/// A duration as Go writes it, which is what Istio's examples use: `1h30m`, `1.5s`, `30ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoDuration(pub(super) Duration);

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = mesh_analysis::parse_duration(text);
        duration.map(Self).ok_or_else(|| format!("{text:?} is no duration such as 30ms, 1.5s or 1h30m"))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// For a field that may be left out.
pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<GoDuration>::deserialize(d)?.map(|duration| duration.0))
}

/// Addresses of a status; an empty text, which some tools write for "not yet", counts as none.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct MaybeIp(pub(super) Option<IpAddr>);

impl TryFrom<String> for MaybeIp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.is_empty() {
            true => Ok(Self(None)),
            false => match text.parse::<IpAddr>() {
                Ok(ip) => Ok(Self(Some(ip.to_canonical()))),
                Err(_) => Err(format!("{text:?} is no IP address")),
            },
        }
    }
}

pub(super) fn known_annotations<'de, D: Deserializer<'de>>(d: D) -> Result<Labels, D::Error> {
    let mut annotations = BTreeMap::<Arc<str>, Arc<str>>::deserialize(d)?;
    annotations.retain(|key, _| key.contains("istio.io/") || key.starts_with("weft.io/"));
    Ok(annotations)
}

pub(super) fn controller<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Owner>, D::Error> {
    #[derive(Deserialize)]
    struct Reference {
        #[serde(default)]
        controller: bool,
        #[serde(flatten)]
        owner: Owner,
    }
    let references = Vec::<Reference>::deserialize(d)?;
    Ok(references.into_iter().find(|r| r.controller).map(|r| r.owner))
}
