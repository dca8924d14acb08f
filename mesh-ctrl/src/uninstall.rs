//! Takes Weft off a cluster: `mesh-ctrl uninstall`.
//!
//! ```text
//! controllers say that nobody is in the mesh ──> agents let go of their pods; what they carry runs on
//!   ──> agents end ──> a pod on each node removes what they left there ──> controllers end
//!   ──> waypoints, webhook, class, definitions, roles ──> the namespace, with all that is in it
//! ```
//! Each step finds what is left of it, so it can be run again after a failure, and ends early only where to go on would leave
//! a node as it is.

mod cluster;
mod nodes;
mod objects;
mod waiting;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::apiserver;
use objects::{Objects, kinds};
use waiting::until;

/// What is to be removed, and from where.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Credentials for the Kubernetes API; without, those of the pod, of $KUBECONFIG or ~/.kube/config
    #[arg(long, env = "WEFT_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace that Weft is installed in; it is removed
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    namespace: String,
    /// Remove Weft's definitions of Istio's and the Gateway API's kinds with all objects of these; without, the ones that have
    /// objects stay
    #[arg(long)]
    crds: bool,
    /// A node that is gone for good: nothing is removed from it
    #[arg(long)]
    skip_node: Vec<String>,
    /// Longest wait for each step, in seconds
    #[arg(long, default_value_t = 180)]
    wait_seconds: u64,
}

/// Removes all of it.
///
/// # Errors
/// A node could not be cleaned, or the API server refuses something, with what to do.
pub async fn run(options: Options) -> Result<()> {
    let config = apiserver::config(options.kubeconfig.as_deref()).await?;
    let client = Client::try_from(config).context("make a client of the API server")?;
    let patience = Duration::from_secs(options.wait_seconds);
    let namespace = options.namespace.as_str();
    dismiss(&client, namespace, patience).await?;
    nodes::clean(&client, namespace, &options.skip_node, patience).await?;
    let controllers = Objects::new(&client, kinds::DEPLOYMENT, Some(namespace));
    controllers.delete(CONTROLLER).await?;
    until("the controllers to end", patience, async || {
        Objects::new(&client, kinds::POD, Some(namespace))
            .list(&format!("app={CONTROLLER}"))
            .await
            .map(|p| p.is_empty())
    })
    .await?;
    cluster::clean(&client, namespace, options.crds, patience).await
}

/// Has the controllers say that no pod is in the mesh, and waits until agents have heard. Without controllers there is nobody
/// to say so: connections of pods in the mesh are refused then from the end of the agents until their nodes are clean.
async fn dismiss(client: &Client, namespace: &str, patience: Duration) -> Result<()> {
    let deployments = Objects::new(client, kinds::DEPLOYMENT, Some(namespace));
    let Some(mut controller) = deployments.get(CONTROLLER).await? else { return Ok(()) };
    dismissed(&mut controller);
    let generation = deployments.replace(CONTROLLER, &controller).await?["metadata"]["generation"].as_i64();
    info!("controllers are restarted to say that no pod is in the mesh");
    let said = until("the controllers to be ready", patience, async || {
        let Some(now) = deployments.get(CONTROLLER).await? else { return Ok(true) };
        let status = &now["status"];
        let ready = status["readyReplicas"].as_i64();
        Ok(status["observedGeneration"].as_i64() >= generation
            && ready > Some(0)
            && ready == status["updatedReplicas"].as_i64())
    });
    match said.await {
        Ok(()) => sleep(HEARD).await,
        Err(error) => warn!("{error:#}; connections of pods in the mesh will be refused for a moment on each node"),
    }
    Ok(())
}

/// Changes the controller's Deployment: a label that nobody has is what puts a pod into the mesh, and all replicas say so at
/// about the same time.
fn dismissed(controller: &mut Value) {
    let spec = &mut controller["spec"];
    spec["strategy"] = json!({"type": "Recreate"});
    let container = &mut spec["template"]["spec"]["containers"][0];
    let mut env = container["env"].as_array().cloned().unwrap_or_default();
    env.retain(|variable| variable["name"] != MODES);
    env.push(json!({"name": MODES, "value": "weft.io/uninstalled=true"}));
    container["env"] = json!(env);
    if let Some(arguments) = container["args"].as_array_mut() {
        arguments.retain(|argument| !argument.as_str().is_some_and(|text| text.starts_with("--dataplane-modes=")));
    }
}

/// Name of the controller's Deployment, and of what belongs to it.
const CONTROLLER: &str = "weft-controller";
const MODES: &str = "WEFT_DATAPLANE_MODES";
/// How long agents may take to hear of it, and to let go of their pods: they try to reach a controller again after a pause, up to
/// 15 s by then.
const HEARD: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_is_dismissed_takes_no_pod_in() {
        let mut controller = json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{
            "args": ["--source=kube", "--dataplane-modes=weft,ambient"],
            "env": [{"name": "WEFT_DATAPLANE_MODES", "value": "weft"}, {"name": "A", "value": "b"}],
        }]}}}});
        dismissed(&mut controller);
        let container = &controller["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["args"], json!(["--source=kube"]));
        let modes = json!({"name": "WEFT_DATAPLANE_MODES", "value": "weft.io/uninstalled=true"});
        assert_eq!(container["env"], json!([{"name": "A", "value": "b"}, modes]));
        assert_eq!(controller["spec"]["strategy"]["type"], "Recreate");
    }
}
