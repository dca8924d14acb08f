//! Which CustomResourceDefinitions are installed: one watch of their names, nothing of their content.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::PartialObjectMeta;
use ::kube::runtime::watcher::{self, Event, watcher};
use ::kube::{Api, Client, ResourceExt};
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use tokio::sync::watch;
use tracing::warn;

use super::kinds::WATCHED;
use crate::backoff::Backoff;

/// Names of those that we ask for and that are there; none until the first list is complete.
pub(super) type Presence = watch::Receiver<Option<Arc<BTreeSet<String>>>>;

/// Follows the definitions until nobody wants to know.
pub(super) async fn follow(client: Client, publish: watch::Sender<Option<Arc<BTreeSet<String>>>>) {
    let wanted: BTreeSet<String> = WATCHED.iter().filter(|w| w.custom).map(|w| w.definition()).collect();
    let definitions = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client);
    let stream = watcher(definitions, watcher::Config::default());
    pin_mut!(stream);
    let (mut present, mut listing) = (BTreeSet::new(), BTreeSet::new());
    let mut backoff = Backoff::default();
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = publish.closed() => return,
        };
        let wanted = |object: &PartialObjectMeta<CustomResourceDefinition>| {
            Some(object.name_any()).filter(|name| wanted.contains(name))
        };
        match event {
            None => return,
            Some(Err(error)) => {
                let pause = backoff.next();
                warn!(%error, ?pause, "CustomResourceDefinitions cannot be watched");
                tokio::time::sleep(pause).await;
                continue;
            }
            Some(Ok(Event::Init)) => {
                listing.clear();
                continue;
            }
            Some(Ok(Event::InitApply(object))) => {
                listing.extend(wanted(&object));
                continue;
            }
            Some(Ok(Event::InitDone)) => present = std::mem::take(&mut listing),
            Some(Ok(Event::Apply(object))) => present.extend(wanted(&object)),
            Some(Ok(Event::Delete(object))) => {
                present.remove(&object.name_any());
            }
        }
        backoff = Backoff::default();
        publish.send_if_modified(|published| {
            let differs = published.as_deref() != Some(&present);
            if differs {
                *published = Some(Arc::new(present.clone()));
            }
            differs
        });
    }
}

/// Asks the store itself whether a definition is there.
///
/// # Errors
/// What the API server said.
pub(super) async fn is_present(client: &Client, definition: &str) -> Result<bool, ::kube::Error> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let found = tokio::time::timeout(PATIENCE, definitions.get_metadata_opt(definition)).await;
    match found {
        Ok(found) => Ok(found?.is_some()),
        // Not answered is not absent.
        Err(_) => Ok(true),
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
