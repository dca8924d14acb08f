//! The roots in the ValidatingWebhookConfiguration: by them the API server knows the webhook's certificate.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

/// Name of the ValidatingWebhookConfiguration, as in `deploy/kubernetes/weft.yaml`.
const CONFIGURATION: &str = "weft-controller";
/// Between two attempts at what was refused or not answered.
const PAUSE: Duration = Duration::from_secs(10);

/// Keeps `roots` (PEM, all that agents trust) in the configuration while this process leads; never makes one. `in_place` is 1 when
/// it has been seen with them.
pub(crate) async fn keep(
    client: Client,
    mut roots: watch::Receiver<Arc<str>>,
    in_place: Gauge,
    mut leads: watch::Receiver<bool>,
) {
    let configurations = Api::all(client);
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        tokio::select! {
            () = follow(&configurations, &mut roots, &in_place) => {}
            gone = leads.wait_for(|leads| !*leads) => if gone.is_err() { return },
        }
        // Another one keeps it, and says so.
        in_place.set(0);
    }
}

/// Watches the configuration and puts right what it shows.
async fn follow(
    configurations: &Api<ValidatingWebhookConfiguration>,
    roots: &mut watch::Receiver<Arc<str>>,
    in_place: &Gauge,
) {
    let found = watch_object(configurations.clone(), CONFIGURATION);
    pin_mut!(found);
    // What was seen last, and what is still to be written.
    let mut seen: Option<ValidatingWebhookConfiguration> = None;
    let mut due: Option<Value> = None;
    loop {
        let event = tokio::select! {
            event = found.next() => Some(event),
            () = tokio::time::sleep(PAUSE), if due.is_some() => None,
            changed = roots.changed() => if changed.is_err() { return } else { None },
        };
        let now = roots.borrow_and_update().clone();
        match event {
            None => due = seen.as_ref().and_then(|configuration| lacking(configuration, now.as_bytes())),
            Some(None) => return,
            Some(Some(Ok(configuration))) => {
                if configuration.is_none() {
                    info!(name = CONFIGURATION, "there is no ValidatingWebhookConfiguration: admission asks nobody");
                }
                due = configuration.as_ref().and_then(|configuration| lacking(configuration, now.as_bytes()));
                in_place.set(i64::from(configuration.is_some() && due.is_none()));
                seen = configuration;
            }
            Some(Some(Err(error))) => {
                warn!(%error, name = CONFIGURATION, "the ValidatingWebhookConfiguration cannot be watched");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        if let Some(patch) = &due {
            in_place.set(0);
            if write(configurations, patch).await {
                due = None;
            }
        }
    }
}

/// Who owns the field afterwards makes no difference: manifests leave it out.
async fn write(configurations: &Api<ValidatingWebhookConfiguration>, patch: &Value) -> bool {
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    match timeout(PAUSE, configurations.patch(CONFIGURATION, &params, &patch)).await {
        Ok(Ok(_)) => info!(name = CONFIGURATION, "caBundle written: the API server knows the webhook's certificate"),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            info!(name = CONFIGURATION, "it is another by now: looking again");
            return true;
        }
        Ok(Err(error)) => {
            warn!(%error, name = CONFIGURATION, "caBundle cannot be written: objects are not checked");
            return false;
        }
        Err(_) => {
            warn!(name = CONFIGURATION, "caBundle not written: the API server does not answer");
            return false;
        }
    }
    true
}

/// A strategic merge patch that writes `roots` where something else stands, and touches nothing else; `None` if that is
/// nowhere. Webhooks of the list are merged by their names. It holds for the version that was looked at: what another leader
/// has written since is not overwritten.
fn lacking(configuration: &ValidatingWebhookConfiguration, roots: &[u8]) -> Option<Value> {
    let webhooks = configuration.webhooks.iter().flatten();
    let without = webhooks.filter(|w| w.client_config.ca_bundle.as_ref().is_none_or(|bundle| bundle.0 != roots));
    let bundle = ByteString(roots.to_vec());
    let patched: Vec<Value> =
        without.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    let version = &configuration.metadata.resource_version;
    (!patched.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": patched}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_written_where_something_else_stands_and_nothing_else_is() {
        let configuration = |bundles: &[Option<&str>]| -> ValidatingWebhookConfiguration {
            let webhook = |(at, bundle): (usize, &Option<&str>)| {
                json!({
                    "name": format!("{at}.weft.io"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": {"caBundle": bundle.map(|b| ByteString(b.as_bytes().to_vec()))},
                })
            };
            let webhooks: Vec<Value> = bundles.iter().enumerate().map(webhook).collect();
            serde_json::from_value(json!({"webhooks": webhooks})).unwrap()
        };
        let names = |bundles| {
            let patch = lacking(&configuration(bundles), b"roots")?;
            let webhooks = patch["webhooks"].as_array()?.clone();
            assert!(webhooks.iter().all(|w| w["clientConfig"] == json!({"caBundle": "cm9vdHM="})), "{patch}");
            Some(webhooks.iter().map(|w| w["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(names(&[Some("roots")]), None);
        assert_eq!(names(&[]), None);
        assert_eq!(names(&[None]), Some(vec!["0.weft.io".to_owned()]));
        assert_eq!(
            names(&[Some("roots"), Some("old roots"), Some("")]),
            Some(vec!["1.weft.io".to_owned(), "2.weft.io".to_owned()])
        );
        assert_eq!(lacking(&ValidatingWebhookConfiguration::default(), b"roots"), None);
    }
}
