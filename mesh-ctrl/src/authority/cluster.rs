//! The authority in a cluster: its key in a Secret, which all replicas read, and its roots in a ConfigMap for agents.
//!
//! The first replica makes a root and creates the Secret; whoever comes second finds that it is there and takes it. The
//! state directory holds copies, in the same files as beside a folder of objects.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use super::files::{self, CERT, FilesError, KEY, ROOTS};

/// Name of the Secret with the authority's key and certificate.
const SECRET: &str = "weft-ca";
/// Name of the ConfigMap with the roots that agents trust.
const CONFIG_MAP: &str = "weft-ca-root";
/// How often the ConfigMap is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Attempts to reach the API server at the start, two seconds apart.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum ShareError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("copy the authority's key to {path}: {source}")]
    Copy { path: PathBuf, source: io::Error },
    #[error("{verb} Secret {namespace}/{SECRET}: {source}")]
    Secret { verb: &'static str, namespace: String, source: kube::Error },
    #[error(
        "Secret {namespace}/{SECRET} lacks {key}; restore it, or delete the Secret and restart all controllers to start \
         over with a new root"
    )]
    Half { namespace: String, key: &'static str },
}

/// Puts the cluster's key and certificate into `state_dir`; makes them if the cluster has none.
///
/// # Errors
/// The API server refuses, or is not to be reached for a minute.
pub async fn share(client: &Client, namespace: &str, state_dir: &Path) -> Result<(), ShareError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |verb| move |source| ShareError::Secret { verb, namespace: namespace.to_owned(), source };
    loop {
        if let Some(secret) = patiently(|| secrets.get_opt(SECRET)).await.map_err(failed("get"))? {
            let data = secret.data.unwrap_or_default();
            let half = |key| ShareError::Half { namespace: namespace.to_owned(), key };
            let key = data.get(KEY).ok_or_else(|| half(KEY))?;
            let cert = data.get(CERT).ok_or_else(|| half(CERT))?;
            let copied = |source| ShareError::Copy { path: state_dir.to_owned(), source };
            return files::copy(state_dir, &key.0, &cert.0).map_err(copied);
        }
        let (key, cert) = files::made(state_dir, SystemTime::now())?;
        let data = BTreeMap::from([(KEY.to_owned(), ByteString(key)), (CERT.to_owned(), ByteString(cert))]);
        let secret = Secret { metadata: metadata(SECRET), data: Some(data), ..Secret::default() };
        let params = PostParams::default();
        match patiently(|| secrets.create(&params, &secret)).await {
            Ok(_) => {
                info!(namespace, secret = SECRET, "the authority's key is kept in the cluster");
                return Ok(());
            }
            // Another replica was faster: its root is the one.
            Err(kube::Error::Api(status)) if status.code == 409 => info!("another replica has made the root"),
            Err(error) => return Err(failed("create")(error)),
        }
    }
}

/// Keeps the ConfigMap with `roots` as it should be, while this process leads.
pub async fn publish(client: Client, namespace: String, roots: String, mut leads: watch::Receiver<bool>) {
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        match publish_once(&maps, &roots).await {
            Ok(true) => info!(namespace, config_map = CONFIG_MAP, "roots published"),
            Ok(false) => {}
            Err(error) => warn!(%error, namespace, config_map = CONFIG_MAP, "roots cannot be published"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = leads.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes if what is there differs; says whether it did.
async fn publish_once(maps: &Api<ConfigMap>, roots: &str) -> Result<bool, kube::Error> {
    let found = maps.get_opt(CONFIG_MAP).await?;
    if found.and_then(|map| map.data).is_some_and(|data| data.get(ROOTS).map(String::as_str) == Some(roots)) {
        return Ok(false);
    }
    let data = BTreeMap::from([(ROOTS.to_owned(), roots.to_owned())]);
    let map = ConfigMap { metadata: metadata(CONFIG_MAP), data: Some(data), ..ConfigMap::default() };
    maps.patch(CONFIG_MAP, &PatchParams::apply("weft-controller").force(), &Patch::Apply(&map)).await?;
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
