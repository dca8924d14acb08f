//! What the controller has told us, and how a response changes it: pure, so that the stream only carries bytes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use mesh_core::l7::{Layer7, Target};
use mesh_core::policy::{Policy, Scope};
use mesh_core::snapshot::Snapshot;
use mesh_core::wire::discovery::{DeltaDiscoveryResponse, Resource};
use mesh_core::wire::{self, ADDRESS_TYPE, AUTHORIZATION_TYPE, Address, LAYER7_TYPE};
use mesh_core::workload::{PolicyKey, ServiceKey, Uid};
use prost::Message;
use thiserror::Error;

use crate::grpc::DIGEST;

/// Longest error text sent back to the controller.
const MAX_ERROR_BYTES: usize = 4096;

/// A kind of resource that agents subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Address,
    Authorization,
    /// Waypoints only.
    Layer7,
}

impl Kind {
    /// Policies first: an address must not be in force before what protects it.
    pub const ALL: [Kind; 3] = [Kind::Authorization, Kind::Layer7, Kind::Address];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS_TYPE,
            Self::Authorization => AUTHORIZATION_TYPE,
            Self::Layer7 => LAYER7_TYPE,
        }
    }

    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

#[derive(Debug, Error)]
pub enum InvalidResource {
    #[error("resource has no body")]
    Empty,
    #[error("resource of type {found:?} in a response of another type")]
    Type { found: String },
    #[error("cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("is named {inside:?} inside")]
    Name { inside: String },
    #[error("{}", crate::causes::chain(.0))]
    Address(#[from] wire::InvalidAddress),
    #[error("{0}")]
    Authorization(#[from] wire::InvalidAuthorization),
    #[error("{0}")]
    Layer7(#[from] wire::InvalidLayer7),
}

/// What a resource's name stands for, so that a removal finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Workload(Uid),
    Service(ServiceKey),
    Policy(PolicyKey),
    Layer7(Target),
}

#[derive(Debug)]
struct Entry {
    /// Empty when the version that the controller has could not be read: a resumption then asks for it again, yet still
    /// names the resource, so that its removal is told.
    version: String,
    held: Held,
}

/// The snapshot with the versions that it was made of.
#[derive(Debug, Default)]
pub(super) struct Believed {
    snapshot: Snapshot,
    addresses: HashMap<Arc<str>, Entry>,
    policies: HashMap<Arc<str>, Entry>,
    layer7: HashMap<Arc<str>, Entry>,
    /// The controller's digest of all that is held of a kind, when that is all that it has.
    digests: HashMap<Kind, String>,
    /// Kinds of which something was refused: what is held is not what the controller has.
    spoiled: HashSet<Kind>,
    /// Something changed that is not in force yet.
    news: bool,
}

/// What became of one response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) updated: usize,
    pub(super) removed: usize,
    /// One line for each resource that was refused.
    pub(super) refused: Vec<String>,
}

impl Applied {
    /// Text of the NACK, if one is due.
    pub(super) fn error(&self) -> Option<String> {
        if self.refused.is_empty() {
            return None;
        }
        let mut text = self.refused.join("; ");
        if text.len() > MAX_ERROR_BYTES {
            let end = (0..=MAX_ERROR_BYTES).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(end);
            text.push_str("...");
        }
        Some(text)
    }
}

impl Believed {
    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// What is to be in force from now on, if that is something else than before. `more`: the controller goes on with what it has
    /// begun to say, and a part of that is not put in force. If the stream ends before it has, what was in force stays until the
    /// next stream has told the rest.
    pub(super) fn news(&mut self, more: bool) -> Option<Snapshot> {
        let news = !more && std::mem::take(&mut self.news);
        news.then(|| self.snapshot())
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.entries(kind).len()
    }

    /// What a resumption says in place of [`versions`](Self::versions), if everything that is held is known by it.
    pub(super) fn digest(&self, kind: Kind) -> Option<&str> {
        self.digests.get(&kind).map(String::as_str)
    }

    /// From now on the kind is resumed by names and versions: the controller compares all of them and tells what differs.
    pub(super) fn forget_digest(&mut self, kind: Kind) {
        self.digests.remove(&kind);
        self.spoiled.remove(&kind);
    }

    /// For `initial_resource_versions` of a resumption.
    pub(super) fn versions(&self, kind: Kind) -> impl Iterator<Item = (String, String)> {
        self.entries(kind).iter().map(|(name, entry)| (name.to_string(), entry.version.clone()))
    }

    fn entries(&self, kind: Kind) -> &HashMap<Arc<str>, Entry> {
        match kind {
            Kind::Address => &self.addresses,
            Kind::Authorization => &self.policies,
            Kind::Layer7 => &self.layer7,
        }
    }

    /// Takes every good resource of the response and says what was wrong with the others. A bad address or model keeps its
    /// last good version; a policy that cannot be read denies its scope.
    pub(super) fn apply(&mut self, kind: Kind, response: DeltaDiscoveryResponse) -> Applied {
        let mut applied = Applied::default();
        let digest = Some(response.system_version_info).filter(|version| version.starts_with(DIGEST));
        for name in &response.removed_resources {
            applied.removed += usize::from(self.remove(kind, name));
        }
        for resource in response.resources {
            let name = resource.name.clone();
            let outcome = match kind {
                Kind::Address => self.address(resource).map(|()| None),
                Kind::Layer7 => self.model(resource).map(|()| None),
                Kind::Authorization => self.policy(resource),
            };
            let error = match outcome {
                Ok(error) => {
                    applied.updated += 1;
                    error
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                applied.refused.push(format!("{}: {error}", printable(&name)));
            }
        }
        self.news |= applied.updated + applied.removed > 0;
        self.digests.remove(&kind);
        if !applied.refused.is_empty() {
            self.spoiled.insert(kind);
        } else if let Some(digest) = digest.filter(|_| !self.spoiled.contains(&kind)) {
            self.digests.insert(kind, digest);
        }
        applied
    }

    fn remove(&mut self, kind: Kind, name: &str) -> bool {
        let entries = match kind {
            Kind::Address => &mut self.addresses,
            Kind::Authorization => &mut self.policies,
            Kind::Layer7 => &mut self.layer7,
        };
        match entries.remove(name).map(|entry| entry.held) {
            None => false,
            Some(Held::Workload(uid)) => self.snapshot.remove_workload(&uid).is_some(),
            Some(Held::Service(key)) => self.snapshot.remove_service(&key).is_some(),
            Some(Held::Policy(key)) => self.snapshot.remove_policy(&key).is_some(),
            Some(Held::Layer7(target)) => self.snapshot.remove_layer7(&target).is_some(),
        }
    }

    fn address(&mut self, resource: Resource) -> Result<(), InvalidResource> {
        let message = body::<wire::workload::Address>(&resource, ADDRESS_TYPE)?;
        let address = Address::try_from(message)?;
        let name = address.name();
        if *name != *resource.name {
            return Err(InvalidResource::Name { inside: name.to_string() });
        }
        let held = match address {
            Address::Workload(workload) => {
                let held = Held::Workload(workload.uid.clone());
                self.forget_other_kind(&name, &held);
                self.snapshot.upsert_workload(workload);
                held
            }
            Address::Service(service) => {
                let held = Held::Service(service.key.clone());
                self.forget_other_kind(&name, &held);
                self.snapshot.upsert_service(service);
                held
            }
        };
        self.addresses.insert(name, Entry { version: resource.version, held });
        Ok(())
    }

    /// A uid `a/b` and a service `a/b` would share a name; the later one replaces the earlier.
    fn forget_other_kind(&mut self, name: &str, held: &Held) {
        if self.addresses.get(name).is_some_and(|entry| entry.held != *held) {
            self.remove(Kind::Address, name);
        }
    }

    fn model(&mut self, resource: Resource) -> Result<(), InvalidResource> {
        let model = Layer7::try_from(body::<wire::extensions::Layer7>(&resource, LAYER7_TYPE)?)?;
        let name = model.name();
        if name != resource.name {
            return Err(InvalidResource::Name { inside: name });
        }
        let held = Held::Layer7(model.target.clone());
        self.layer7.insert(name.into(), Entry { version: resource.version, held });
        self.snapshot.upsert_layer7(model);
        Ok(())
    }

    fn policy(&mut self, resource: Resource) -> Result<Option<InvalidResource>, InvalidResource> {
        let (policy, error) = match read_policy(&resource) {
            Ok(read) => read,
            Err(error) => match self.stand_in(&resource.name) {
                Some(policy) => (policy, Some(error)),
                None => return Err(error),
            },
        };
        let name: Arc<str> = policy.key.to_string().into();
        let version = if error.is_some() { String::new() } else { resource.version };
        self.policies.insert(name, Entry { version, held: Held::Policy(policy.key.clone()) });
        self.snapshot.upsert_policy(policy);
        Ok(error)
    }

    /// Stands in for a policy of which nothing but the name can be read: it denies in the scope that the policy had so
    /// far, else in its namespace, which is the widest that the name tells of.
    fn stand_in(&self, name: &str) -> Option<Policy> {
        let (namespace, name) = name.split_once('/').filter(|(_, name)| !name.is_empty())?;
        let key = PolicyKey { namespace: namespace.into(), name: name.into() };
        let scope = self.snapshot.policy(&key).map_or(Scope::Namespace, |known| known.scope);
        Some(Policy::unreadable(key, scope))
    }
}

fn read_policy(resource: &Resource) -> Result<(Policy, Option<InvalidResource>), InvalidResource> {
    let message = body::<wire::security::Authorization>(resource, AUTHORIZATION_TYPE)?;
    let (policy, error) = wire::read_authorization(message)?;
    let inside = policy.key.to_string();
    if inside != resource.name {
        return Err(InvalidResource::Name { inside });
    }
    Ok((policy, error.map(InvalidResource::from)))
}

fn body<M: Message + Default>(resource: &Resource, type_url: &str) -> Result<M, InvalidResource> {
    let any = resource.resource.as_ref().ok_or(InvalidResource::Empty)?;
    if any.type_url != type_url {
        return Err(InvalidResource::Type { found: printable(&any.type_url).to_string() });
    }
    Ok(M::decode(any.value.as_slice())?)
}

/// A peer's text in a log line: no control characters, no megabytes.
pub(super) fn printable(text: &str) -> impl fmt::Display {
    let clean: String = text.chars().take(300).map(|c| if c.is_control() { '?' } else { c }).collect();
    clean
}
