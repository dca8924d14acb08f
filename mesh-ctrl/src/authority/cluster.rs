//! The authority in a cluster: its key in a Secret, which all replicas read, and its roots in a ConfigMap for agents.
//!
//! The first replica makes a root and creates the Secret; whoever comes second finds that it is there and takes it. All follow
//! what it says from then on; the leader alone changes it, from one stage of a rotation to the next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::files::{self, FilesError, ROOTS};
use super::rotation::Held;
use super::{Authority, Config, InForce};

/// Name of the Secret with the authority's key and certificate.
const SECRET: &str = "weft-ca";
/// Name of the ConfigMap with the roots that agents trust.
const CONFIG_MAP: &str = "weft-ca-root";
/// How often the ConfigMap is looked at, and whether a stage is over.
const LOOK: Duration = Duration::from_secs(30);
/// Between two attempts at what failed.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts to reach the API server at the start, two seconds apart.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum ShareError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{verb} Secret {namespace}/{SECRET}: {source}")]
    Secret { verb: &'static str, namespace: String, source: kube::Error },
    #[error(
        "Secret {namespace}/{SECRET} lacks {key}; restore it, or delete the Secret and restart all controllers to start \
         over with a new root"
    )]
    Half { namespace: String, key: &'static str },
}

/// The cluster's authority; makes its root if the cluster has none.
///
/// # Errors
/// The API server refuses, or is not to be reached for a minute, or what it has is no root.
pub async fn share(client: &Client, namespace: &str, config: Config) -> Result<Authority, ShareError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |verb| move |source| ShareError::Secret { verb, namespace: namespace.to_owned(), source };
    let held = loop {
        if let Some(secret) = patiently(|| secrets.get_opt(SECRET)).await.map_err(failed("get"))? {
            let half = |key| ShareError::Half { namespace: namespace.to_owned(), key };
            break Held::read(&secret).map_err(half)?;
        }
        let held = Held::new(files::make_root(SystemTime::now())?);
        let mut secret = Secret { metadata: metadata(SECRET), ..Secret::default() };
        held.write(&mut secret);
        let params = PostParams::default();
        match patiently(|| secrets.create(&params, &secret)).await {
            Ok(_) => {
                info!(namespace, secret = SECRET, "made a root, which is kept in the cluster");
                break held;
            }
            // Another replica was faster: its root is the one.
            Err(kube::Error::Api(status)) if status.code == 409 => info!("another replica has made the root"),
            Err(error) => return Err(failed("create")(error)),
        }
    };
    let first = in_force(&config, namespace, &held)?;
    Ok(Authority::of(config, first))
}

fn in_force(config: &Config, namespace: &str, held: &Held) -> Result<InForce, FilesError> {
    let place = PathBuf::from(format!("Secret {namespace}/{SECRET}"));
    let material = files::of(config, &place, &held.signs, &held.others(), SystemTime::now())?;
    Ok(InForce { material, stage: held.stage(), due: held.due })
}

/// Follows the Secret, on every replica, and while this process leads takes it from stage to stage. `writing` is the leader's
/// client.
pub async fn follow(
    client: Client,
    writing: Client,
    namespace: String,
    authority: Arc<Authority>,
    leads: watch::Receiver<bool>,
) {
    let (seen, latest) = watch::channel(None);
    let secrets: Api<Secret> = Api::namespaced(writing, &namespace);
    tokio::join!(hear(client, &namespace, &authority, seen), move_on(&secrets, &authority, latest, leads));
}

/// Puts in force what the Secret says. What is no root changes nothing.
async fn hear(client: Client, namespace: &str, authority: &Authority, seen: watch::Sender<Option<Secret>>) {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let found = watch_object(secrets, SECRET);
    pin_mut!(found);
    let mut refresh = authority.config.extra_roots.is_some().then_some(LOOK);
    let mut extra = files::contents(&authority.config, false);
    let mut held: Option<Held> = None;
    loop {
        let heard = match refresh {
            Some(pause) => tokio::time::timeout(pause, found.next()).await.ok(),
            None => Some(found.next().await),
        };
        let is_new = match heard {
            Some(None) => return,
            Some(Some(Ok(Some(secret)))) => match Held::read(&secret) {
                Ok(now) => {
                    let is_new = held.as_ref() != Some(&now);
                    held = Some(now);
                    seen.send_replace(Some(secret));
                    is_new
                }
                Err(key) => {
                    error!(namespace, secret = SECRET, lacks = key, "the Secret is no root's: what was read stays");
                    false
                }
            },
            Some(Some(Ok(None))) => {
                error!(namespace, secret = SECRET, "the Secret is gone: restore it before a controller starts anew");
                seen.send_replace(None);
                false
            }
            Some(Some(Err(error))) => {
                warn!(%error, namespace, secret = SECRET, "the Secret cannot be watched");
                sleep(RETRY).await;
                false
            }
            None => {
                let now = files::contents(&authority.config, false);
                std::mem::replace(&mut extra, now.clone()) != now
            }
        };
        if let Some(held) = held.as_ref().filter(|_| is_new) {
            match in_force(&authority.config, namespace, held) {
                Ok(now) => authority.put(now),
                Err(error) => error!(%error, "the authority cannot be what the Secret says: what was read stays"),
            }
        }
        refresh = authority.config.extra_roots.is_some().then_some(LOOK);
    }
}

/// Writes the Secret's next stage when the time has come and this process leads.
async fn move_on(
    secrets: &Api<Secret>,
    authority: &Authority,
    mut latest: watch::Receiver<Option<Secret>>,
    mut leads: watch::Receiver<bool>,
) {
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let secret = latest.borrow_and_update().clone();
        let written = match secret {
            Some(secret) => advance(secrets, secret, authority.config.max_leaf_ttl).await,
            None => false,
        };
        // With the version that was looked at: what came of it is heard of.
        let pause = if written { LOOK } else { RETRY };
        tokio::select! {
            () = sleep(pause) => {}
            changed = latest.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
        }
    }
}

/// False if it is to be tried again soon.
async fn advance(secrets: &Api<Secret>, mut secret: Secret, lifetime: Duration) -> bool {
    let Ok(held) = Held::read(&secret) else { return true };
    let next = match held.next(SystemTime::now(), lifetime) {
        Ok(Some(next)) => next,
        Ok(None) => return held.due.is_none(),
        Err(error) => {
            error!(%error, secret = SECRET, "the root cannot be exchanged");
            return true;
        }
    };
    next.write(&mut secret);
    // Two leaders, or a person and a leader: one of them meets a conflict, and looks again.
    match secrets.replace(SECRET, &PostParams::default(), &secret).await {
        Ok(_) => info!(from = held.stage().as_str(), to = next.stage().as_str(), "rotation of the root: next stage"),
        Err(error) => {
            warn!(%error, secret = SECRET, to = next.stage().as_str(), "the next stage is not written");
            return false;
        }
    }
    true
}

/// Keeps the ConfigMap with `roots` as it should be, while this process leads.
pub async fn publish(
    client: Client,
    namespace: String,
    mut roots: watch::Receiver<Arc<str>>,
    mut leads: watch::Receiver<bool>,
) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let now = roots.borrow_and_update().clone();
        let pause = match publish_once(&maps, &now).await {
            Ok(written) => {
                if written {
                    info!(namespace, config_map = CONFIG_MAP, "roots published");
                }
                LOOK
            }
            Err(error) => {
                warn!(%error, namespace, config_map = CONFIG_MAP, "roots cannot be published");
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            changed = leads.changed() => if changed.is_err() { return },
            changed = roots.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes if what is there differs; says whether it did.
async fn publish_once(maps: &Api<ConfigMap>, roots: &str) -> Result<bool, kube::Error> {
    let found = maps.get_opt(CONFIG_MAP).await?;
    let says = found.as_ref().and_then(|map| map.data.as_ref()?.get(ROOTS));
    if says.map(String::as_str) == Some(roots) {
        return Ok(false);
    }
    let data = Some(BTreeMap::from([(ROOTS.to_owned(), roots.to_owned())]));
    match found {
        // The very one that was looked at: another leader may have written meanwhile.
        Some(found) => {
            let resource_version = found.metadata.resource_version;
            let map = ConfigMap {
                metadata: ObjectMeta { resource_version, ..metadata(CONFIG_MAP) },
                data,
                ..ConfigMap::default()
            };
            maps.patch(CONFIG_MAP, &PatchParams::apply("weft-controller").force(), &Patch::Apply(&map)).await?;
        }
        None => {
            let map = ConfigMap { metadata: metadata(CONFIG_MAP), data, ..ConfigMap::default() };
            maps.create(
                &PostParams { field_manager: Some("weft-controller".to_owned()), ..PostParams::default() },
                &map,
            )
            .await?;
        }
    }
    Ok(true)
}
fn metadata(name: &str) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "weft-controller".to_owned())]);
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }
}

/// Tries again while the API server is not to be reached or not in order; what it refuses, it refuses.
async fn patiently<T, F: Future<Output = Result<T, kube::Error>>>(call: impl Fn() -> F) -> Result<T, kube::Error> {
    let mut attempt = 1;
    loop {
        match call().await {
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                return Err(kube::Error::Api(status));
            }
            Err(error) if attempt < ATTEMPTS => warn!(%error, attempt, "the API server does not answer as it should"),
            answer => return answer,
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
