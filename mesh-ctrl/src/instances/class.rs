//! The GatewayClass that waypoints are of.

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::json;
use tracing::{info, warn};

use super::FIELD_MANAGER;
use crate::condition::{Condition, merged};
use crate::index::WAYPOINT_CLASS;
use crate::object::reference::{CONTROLLER_NAME, GATEWAY_GROUP};

/// Makes the class if there is none, and says that it is accepted if it is ours. Without the Gateway API's definitions there is
/// nothing to do.
///
/// # Errors
/// The API server refuses, or does not answer.
pub(super) async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GATEWAY_GROUP, "v1", "GatewayClass"),
        "gatewayclasses",
    );
    let classes: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let class = match classes.get_opt(WAYPOINT_CLASS).await? {
        Some(class) => class,
        None => {
            let class = json!({
                "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": WAYPOINT_CLASS},
                "spec": {
                    "controllerName": CONTROLLER_NAME,
                    "description": "Waypoints of Weft: requests, routed and authorized",
                },
            });
            let params = PatchParams::apply(FIELD_MANAGER);
            match classes.patch(WAYPOINT_CLASS, &params, &Patch::Apply(&class)).await {
                Ok(class) => {
                    info!(class = WAYPOINT_CLASS, "GatewayClass made");
                    class
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let controller = &class.data["spec"]["controllerName"];
    if controller != CONTROLLER_NAME {
        warn!(class = WAYPOINT_CLASS, %controller, "the GatewayClass is another controller's");
        return Ok(());
    }
    let accepted = Condition::new("Accepted", true, "Accepted", "Gateways of this class become waypoints".to_owned());
    let generation = class.metadata.generation.unwrap_or_default();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let before = class.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let after = merged(&before, &[accepted], &[], generation, &now);
    if after != before {
        let version = class.metadata.resource_version.as_deref();
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": after}});
        classes.patch_status(WAYPOINT_CLASS, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}
