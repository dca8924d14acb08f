//! What is of the cluster and not of a node.

use std::time::Duration;

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::CONTROLLER;
use super::objects::{Objects, kinds, name};
use super::waiting::until;
use crate::index::WAYPOINT_CLASS;
use crate::object::reference::CONTROLLER_NAME;

/// Removes waypoints, webhook, class, definitions and roles, and the namespace.
pub(super) async fn clean(client: &Client, namespace: &str, all_definitions: bool, patience: Duration) -> Result<()> {
    Objects::new(client, kinds::WEBHOOKS, None).delete(CONTROLLER).await?;
    waypoints(client).await?;
    let classes = Objects::new(client, kinds::CLASS, None);
    if classes.get(WAYPOINT_CLASS).await?.is_some_and(|class| class["spec"]["controllerName"] == CONTROLLER_NAME) {
        classes.delete(WAYPOINT_CLASS).await?;
    }
    definitions(client, all_definitions, patience).await?;
    for kind in [kinds::ROLE, kinds::BINDING] {
        Objects::new(client, kind, None).delete(CONTROLLER).await?;
    }

    let namespaces = Objects::new(client, kinds::NAMESPACE, None);
    let Some(found) = namespaces.get(namespace).await? else { return Ok(()) };
    // Its own rights go with the namespace: it needs them until then.
    let owner = json!({"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": found["metadata"]["uid"]});
    for kind in [kinds::ROLE, kinds::BINDING] {
        let owned = json!({"metadata": {"ownerReferences": [owner]}});
        Objects::new(client, kind, None).merge(UNINSTALLER, &owned).await?;
    }
    namespaces.delete(namespace).await?;
    info!(namespace, "the namespace is being removed: nothing else is left");
    Ok(())
}

/// What controllers made for Gateways, in any namespace. The Gateways are the users'.
async fn waypoints(client: &Client) -> Result<()> {
    for kind in [kinds::DEPLOYMENT, kinds::BUDGET, kinds::SERVICE, kinds::ACCOUNT] {
        for object in Objects::new(client, kind, None).list(MADE).await? {
            let owners = object["metadata"]["ownerReferences"].as_array();
            let of_gateway = owners.is_some_and(|owners| owners.iter().any(|owner| owner["kind"] == "Gateway"));
            if of_gateway {
                Objects::new(client, kind, object["metadata"]["namespace"].as_str()).delete(name(&object)).await?;
            }
        }
    }
    Ok(())
}

/// Definitions that Weft brought. Without one, its objects are gone too: those that have some stay unless that is asked for.
async fn definitions(client: &Client, all: bool, patience: Duration) -> Result<()> {
    let definitions = Objects::new(client, kinds::DEFINITION, None);
    let mut gone = Vec::new();
    for definition in definitions.list(OURS).await? {
        let used = match kind(&definition) {
            Some(kind) => Objects::new(client, kind, None).any().await?,
            None => false,
        };
        if used && !all {
            warn!(definition = name(&definition), "it has objects and stays; --crds removes it with all of them");
            continue;
        }
        definitions.delete(name(&definition)).await?;
        gone.push(name(&definition).to_owned());
    }
    until("the definitions to go", patience, async || {
        let left = definitions.list(OURS).await?;
        Ok(!left.iter().any(|definition| gone.iter().any(|gone| gone == name(definition))))
    })
    .await?;
    info!(count = gone.len(), "definitions are gone");
    Ok(())
}

/// The kind that a definition defines, in a version that is served.
fn kind(definition: &Value) -> Option<super::objects::Kind<'_>> {
    let spec = &definition["spec"];
    let version = spec["versions"].as_array()?.iter().find(|version| version["served"] == true)?;
    Some([
        spec["group"].as_str()?,
        version["name"].as_str()?,
        spec["names"]["kind"].as_str()?,
        spec["names"]["plural"].as_str()?,
    ])
}

/// Label of what controllers make for Gateways.
const MADE: &str = "app.kubernetes.io/managed-by=weft-controller";
/// Label of the definitions that Weft brings: `deploy/crds`.
const OURS: &str = "app.kubernetes.io/part-of=weft";
/// Role of the job that does all this.
const UNINSTALLER: &str = "weft-uninstall";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_names_a_kind_by_a_version_that_is_served() {
        let definition = json!({"spec": {
            "group": "a.example", "names": {"kind": "One", "plural": "ones"},
            "versions": [{"name": "v1alpha1", "served": false}, {"name": "v1", "served": true}],
        }});
        assert_eq!(kind(&definition), Some(["a.example", "v1", "One", "ones"]));
        assert_eq!(kind(&json!({"spec": {"versions": []}})), None);
    }
}
