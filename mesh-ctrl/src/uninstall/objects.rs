//! Objects of any kind, by name; what is not there is as good as removed.

use anyhow::{Context, Result};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Error};
use serde_json::Value;

/// A kind: group, version, kind and plural.
pub(super) type Kind<'a> = [&'a str; 4];

/// Kinds that are removed, or looked at.
pub(super) mod kinds {
    use super::Kind;

    pub(crate) const POD: Kind<'_> = ["", "v1", "Pod", "pods"];
    pub(crate) const NAMESPACE: Kind<'_> = ["", "v1", "Namespace", "namespaces"];
    pub(crate) const SERVICE: Kind<'_> = ["", "v1", "Service", "services"];
    pub(crate) const ACCOUNT: Kind<'_> = ["", "v1", "ServiceAccount", "serviceaccounts"];
    pub(crate) const DEPLOYMENT: Kind<'_> = ["apps", "v1", "Deployment", "deployments"];
    pub(crate) const DAEMON_SET: Kind<'_> = ["apps", "v1", "DaemonSet", "daemonsets"];
    pub(crate) const BUDGET: Kind<'_> = ["policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"];
    pub(crate) const ROLE: Kind<'_> = ["rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"];
    pub(crate) const BINDING: Kind<'_> =
        ["rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"];
    pub(crate) const WEBHOOKS: Kind<'_> =
        ["admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"];
    pub(crate) const DEFINITION: Kind<'_> =
        ["apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"];
    pub(crate) const CLASS: Kind<'_> = ["gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses"];
}

/// All objects of a kind in a namespace, or in the cluster.
pub(super) struct Objects {
    api: Api<DynamicObject>,
    kind: String,
}

impl Objects {
    pub(super) fn new(client: &Client, [group, version, kind, plural]: Kind<'_>, namespace: Option<&str>) -> Objects {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let client = client.clone();
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        Objects { api, kind: kind.to_owned() }
    }

    /// None also of a kind that is not served: then 404 comes without the words of an object that is absent.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Value>> {
        match self.api.get(name).await {
            Ok(found) => Ok(Some(serde_json::to_value(found)?)),
            Err(Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("get {} {name}", self.kind)),
        }
    }

    /// Those with labels, which may be none. A kind that is not served has none.
    pub(super) async fn list(&self, labels: &str) -> Result<Vec<Value>> {
        self.listed(&ListParams::default().labels(labels)).await
    }

    /// Whether there is one.
    pub(super) async fn any(&self) -> Result<bool> {
        Ok(!self.listed(&ListParams::default().limit(1)).await?.is_empty())
    }

    async fn listed(&self, params: &ListParams) -> Result<Vec<Value>> {
        match self.api.list(params).await {
            Ok(list) => list.items.into_iter().map(|item| Ok(serde_json::to_value(item)?)).collect(),
            Err(Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("list objects of kind {}", self.kind)),
        }
    }

    pub(super) async fn create(&self, name: &str, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            // Of a run before this one.
            Err(Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("create {} {name}", self.kind)),
        }
    }

    pub(super) async fn replace(&self, name: &str, object: &Value) -> Result<Value> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let replaced = self.api.replace(name, &PostParams::default(), &object).await;
        Ok(serde_json::to_value(replaced.with_context(|| format!("change {} {name}", self.kind))?)?)
    }

    pub(super) async fn merge(&self, name: &str, patch: &Value) -> Result<()> {
        match self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("change {} {name}", self.kind)),
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        self.delete_with(name, &DeleteParams::background()).await
    }

    /// With a second to end in.
    pub(super) async fn cut(&self, name: &str) -> Result<()> {
        self.delete_with(name, &DeleteParams::background().grace_period(1)).await
    }

    async fn delete_with(&self, name: &str, params: &DeleteParams) -> Result<()> {
        match self.api.delete(name, params).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("delete {} {name}", self.kind)),
        }
    }
}

/// Name of an object.
pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
