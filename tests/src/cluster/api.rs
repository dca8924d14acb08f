//! The Kubernetes API as tests speak it: objects as JSON, one call after the other.

use std::path::Path;

use anyhow::{Context, Result};
use http::Request;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

/// A client with its own runtime: tests block.
pub struct Api {
    runtime: Runtime,
    client: Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// A client with the credentials of a kubeconfig. Nothing is sent yet.
    ///
    /// # Errors
    /// The file is no kubeconfig.
    pub fn connect(kubeconfig: &Path) -> Result<Api> {
        // One worker: the client's queue is a task that has to run between calls too.
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        });
        Ok(Api { client: client.with_context(|| format!("use {}", kubeconfig.display()))?, runtime })
    }

    /// Whether the API server says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let request = Request::get("/readyz").body(Vec::new()).expect("a path is a URI");
        self.runtime.block_on(self.client.request_text(request)).is_ok_and(|text| text == "ok")
    }

    /// Makes the object, or changes it to what is given (server-side apply); yields it as it is then.
    ///
    /// # Errors
    /// What the API server said.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let (api, name) = self.place(object);
        let params = PatchParams::apply("weft-tests").force();
        let applied = self.runtime.block_on(api.patch(&name, &params, &Patch::Apply(object)));
        Ok(serde_json::to_value(applied.with_context(|| format!("apply {}", words(object)))?)?)
    }

    /// Asks what would come of making the object: everything is checked, unknown fields too, and nothing is kept.
    ///
    /// # Errors
    /// There was no answer.
    pub fn try_create(&self, object: &Value) -> Result<Answer> {
        let (resource, namespace) = resource(object);
        let path = <DynamicObject as kube::Resource>::url_path(&resource, namespace);
        let request = Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(object)?.into())?;
        self.runtime.block_on(async {
            let response = self.client.send(request).await.with_context(|| format!("try {}", words(object)))?;
            let warnings = response.headers().get_all("warning").iter();
            let warnings = warnings.map(|warning| String::from_utf8_lossy(warning.as_bytes()).into_owned()).collect();
            let status = response.status().as_u16();
            let body = response.into_body().collect_bytes().await?;
            let message = serde_json::from_slice(&body).map(|body: Value| text(&body["message"])).unwrap_or_default();
            Ok(Answer { status, message, warnings })
        })
    }

    /// Sets the status of an object, as a kubelet does for a pod.
    ///
    /// # Errors
    /// What the API server said.
    pub fn set_status(&self, object: &Value, status: &Value) -> Result<()> {
        let (api, name) = self.place(object);
        let patch = Patch::Merge(json!({"status": status}));
        let set = self.runtime.block_on(api.patch_status(&name, &PatchParams::default(), &patch));
        set.map(drop).with_context(|| format!("set the status of {}", words(object)))
    }

    /// Deletes it at once, without a grace period.
    ///
    /// # Errors
    /// What the API server said.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let (api, name) = self.place(object);
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.runtime.block_on(api.delete(&name, &params)).map(drop).with_context(|| format!("delete {}", words(object)))
    }

    /// The object with the name, namespace and kind of `object`; none when there is none.
    ///
    /// # Errors
    /// What the API server said.
    pub fn get(&self, object: &Value) -> Result<Option<Value>> {
        let (api, name) = self.place(object);
        let found = self.runtime.block_on(api.get_opt(&name)).with_context(|| format!("get {}", words(object)))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Sends `body` to `path` by POST and yields the answer: for what is no object (a token, a review).
    ///
    /// # Errors
    /// What the API server said.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = Request::post(path).header("content-type", "application/json").body(serde_json::to_vec(body)?)?;
        self.runtime.block_on(self.client.request(request)).with_context(|| format!("post to {path}"))
    }

    /// What the API server has at `path`, as text: a list, or a pod's log.
    ///
    /// # Errors
    /// What the API server said.
    pub fn read(&self, path: &str) -> Result<String> {
        let request = Request::get(path).body(Vec::new())?;
        self.runtime.block_on(self.client.request_text(request)).with_context(|| format!("get {path}"))
    }

    /// The items of the list at `path`.
    ///
    /// # Errors
    /// What the API server said, or that it is no list.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.read(path)?)?;
        Ok(list["items"].as_array().with_context(|| format!("{path} is no list"))?.clone())
    }

    /// Deletes it and lets it end in its own time, as `kubectl delete` does.
    ///
    /// # Errors
    /// What the API server said.
    pub fn end(&self, object: &Value) -> Result<()> {
        let (api, name) = self.place(object);
        let deleted = self.runtime.block_on(api.delete(&name, &DeleteParams::default()));
        deleted.map(drop).with_context(|| format!("delete {}", words(object)))
    }

    fn place(&self, object: &Value) -> (kube::Api<DynamicObject>, String) {
        let (resource, namespace) = resource(object);
        let client = self.client.clone();
        let api = match namespace {
            Some(namespace) => kube::Api::namespaced_with(client, namespace, &resource),
            None => kube::Api::all_with(client, &resource),
        };
        (api, text(&object["metadata"]["name"]))
    }
}

/// An API server's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// Why not; empty if it is done.
    pub message: String,
    /// Each as it stands in its header: `299 - "text"`.
    pub warnings: Vec<String>,
}

fn resource(object: &Value) -> (ApiResource, Option<&str>) {
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    (ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind)), object["metadata"]["namespace"].as_str())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn words(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}
