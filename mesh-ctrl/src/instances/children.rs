//! What there is of our objects in the cluster: their names and owners, followed while this controller leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use kube::core::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tracing::warn;

use super::CLASS_LABEL;
use super::objects::kinds;
use crate::index::WAYPOINT_CLASS;

/// Namespace and name: of an object, and of the Gateway that it belongs to.
pub(super) type Name = (Arc<str>, Arc<str>);

/// What is heard of a kind.
type Heard = BoxStream<'static, (usize, Event<ObjectMeta>)>;

/// Our objects by kind and name.
pub(super) struct Children {
    stream: SelectAll<Heard>,
    held: BTreeMap<(usize, Name), ObjectMeta>,
    /// Of kinds that are being listed: what the list has had so far.
    listing: BTreeMap<usize, BTreeSet<Name>>,
}

impl Children {
    pub(super) fn follow(client: &Client) -> Self {
        let streams = kinds().into_iter().enumerate().map(|(kind, resource)| one_kind(client, kind, &resource));
        Self { stream: streams.collect(), held: BTreeMap::new(), listing: BTreeMap::new() }
    }

    /// The next that is there, is gone, or is not what it was.
    pub(super) async fn changed(&mut self) -> Option<Name> {
        loop {
            let (kind, event) = self.stream.next().await?;
            match event {
                Event::Init => drop(self.listing.insert(kind, BTreeSet::new())),
                Event::InitApply(metadata) | Event::Apply(metadata) => {
                    let name = name(&metadata);
                    if let Some(listing) = self.listing.get_mut(&kind) {
                        listing.insert(name.clone());
                    }
                    let before = self.held.insert((kind, name.clone()), metadata.clone());
                    if before.is_none_or(|before| says(&before) != says(&metadata)) {
                        return Some(name);
                    }
                }
                Event::Delete(metadata) => {
                    let name = name(&metadata);
                    self.held.remove(&(kind, name.clone()));
                    return Some(name);
                }
                Event::InitDone => {
                    let listed = self.listing.remove(&kind).unwrap_or_default();
                    self.held.retain(|(held, name), _| *held != kind || listed.contains(name));
                }
            }
        }
    }

    /// The Gateways that own something, by name and uid.
    pub(super) fn owners(&self) -> BTreeSet<(Name, String)> {
        let owned = self.held.iter().filter_map(|((_, name), metadata)| {
            let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
            Some((name.clone(), owner.uid.clone()))
        });
        owned.collect()
    }
}

fn one_kind(client: &Client, kind: usize, resource: &ApiResource) -> Heard {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), resource);
    let plural = resource.plural.clone();
    let config = Config::default().labels(&format!("{CLASS_LABEL}={WAYPOINT_CLASS}"));
    let stream = watcher(api, config).default_backoff().filter_map(move |event| {
        let event = match event {
            Ok(event) => Some((kind, event)),
            Err(error) => {
                warn!(%error, plural, "what waypoints have cannot be followed");
                None
            }
        };
        std::future::ready(event)
    });
    stream.map(|(kind, event)| (kind, only_metadata(event))).boxed()
}

fn only_metadata(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<ObjectMeta> {
    match event {
        Event::Apply(object) => Event::Apply(object.metadata),
        Event::Delete(object) => Event::Delete(object.metadata),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.metadata),
        Event::InitDone => Event::InitDone,
    }
}

fn name(metadata: &ObjectMeta) -> Name {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (text(&metadata.namespace), text(&metadata.name))
}

/// What tells whether an object has to be looked at: of a Deployment the status changes often, and is not ours.
fn says(metadata: &ObjectMeta) -> ObjectMeta {
    let counts_changes = metadata.generation.is_some();
    ObjectMeta {
        managed_fields: None,
        resource_version: metadata.resource_version.clone().filter(|_| !counts_changes),
        ..metadata.clone()
    }
}
