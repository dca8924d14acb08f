//! A Gateway's objects as they should be. Pure: the same Gateway and settings give the same objects.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::ApiResource;
use serde_json::{Map, Value, json};

use super::CLASS_LABEL;
use super::wishes::Wishes;
use crate::object::{Gateway, Labels};

/// What the controller tells its waypoints.
#[derive(Clone, Debug)]
pub struct Config {
    pub image: String,
    /// host:port of the controller, as a waypoint's pod reaches it.
    pub controller: String,
    /// Name in the controller's certificate.
    pub server_name: String,
    pub cluster_id: String,
    pub network: String,
    pub trust_domain: String,
}

/// The kinds that are made, in the order in which they are.
pub(super) fn kinds() -> [ApiResource; 4] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
    ]
}

/// Label of pods: the Gateway that they carry out.
pub(super) const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Longest name of a Service, and value of a label.
const LONGEST_NAME: usize = 63;
const HBONE: u16 = 15008;
const ADMIN: u16 = 15000;
/// How long an instance that is told to go is still asked: until agents have heard of it.
const PRE_STOP_SECONDS: u32 = 5;
/// How long requests may go on after that.
const DRAIN_SECONDS: u32 = 20;
/// Where the controller's root goes: an annotation of the pods, which a volume makes a file. A ConfigMap would have to be
/// written into every namespace.
const ROOTS: &str = "weft.io/ca-root";
/// The same for the roots of another authority.
const SIGNERS_ROOTS: &str = "weft.io/authority-root";

/// Another authority, as waypoints know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signer<'a> {
    pub(super) address: &'a str,
    pub(super) server_name: Option<&'a str>,
    /// In PEM.
    pub(super) roots: &'a str,
}

/// The objects of [`kinds`] that there should be, in PEM with `roots` to trust, and with certificates of `signer` if it is not the
/// controller.
///
/// # Errors
/// What of the Gateway cannot be.
pub(super) fn objects(
    gateway: &Gateway,
    config: &Config,
    roots: &str,
    signer: Option<Signer<'_>>,
) -> Result<Vec<Value>, Vec<String>> {
    let metadata = &gateway.metadata;
    let wishes = Wishes::read(metadata);
    let mut mistakes: Vec<String> = wishes.as_ref().err().cloned().unwrap_or_default();
    if metadata.name.len() > LONGEST_NAME || metadata.name.contains('.') {
        mistakes.push(format!(
            "metadata.name: a Service of this name cannot be; {LONGEST_NAME} characters at most, no dots"
        ));
    }
    if gateway.spec.infrastructure.parameters_ref.is_some() {
        mistakes
            .push("spec.infrastructure.parametersRef: annotations of the Gateway say what there is to say".to_owned());
    }
    if !gateway.spec.addresses.is_empty() {
        mistakes.push("spec.addresses: a waypoint has the address that its Service gets".to_owned());
    }
    let Ok(wishes) = wishes else { return Err(mistakes) };
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let made = Made { gateway, config, roots, signer };
    let mut objects = vec![made.account(), made.service(), made.deployment(&wishes)];
    objects.extend(wishes.disruption.map(|budget| made.disruption_budget(budget)));
    Ok(objects)
}

struct Made<'a> {
    gateway: &'a Gateway,
    config: &'a Config,
    roots: &'a str,
    signer: Option<Signer<'a>>,
}

impl Made<'_> {
    fn object(&self, api_version: &str, kind: &str, rest: Value) -> Value {
        let gateway = &self.gateway.metadata;
        let owner = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": gateway.name, "uid": gateway.uid,
            "controller": true,
        });
        let mut object = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {
                "name": gateway.name, "namespace": gateway.namespace, "labels": self.labels(&[]), "ownerReferences": [owner],
            },
        });
        let annotations = &self.gateway.spec.infrastructure.annotations;
        if !annotations.is_empty() {
            object["metadata"]["annotations"] = json!(annotations);
        }
        if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
            object.extend(rest);
        }
        object
    }

    /// Those of the Gateway's infrastructure; ours win.
    fn labels(&self, more: &[(&str, &str)]) -> Labels {
        let gateway = &self.gateway.metadata;
        let class: &str = &self.gateway.spec.gateway_class_name;
        let own = [
            (GATEWAY_LABEL, &*gateway.name),
            (CLASS_LABEL, class),
            ("app.kubernetes.io/managed-by", "weft-controller"),
        ];
        let own = own.iter().chain(more).map(|(key, value)| (Arc::from(*key), Arc::from(*value)));
        let given = self.gateway.spec.infrastructure.labels.clone();
        given.into_iter().chain(own).collect()
    }

    fn selector(&self) -> Value {
        json!({"matchLabels": {GATEWAY_LABEL: self.gateway.metadata.name}})
    }

    fn account(&self) -> Value {
        // The instance speaks to the controller alone, by a token of its own.
        self.object("v1", "ServiceAccount", json!({"automountServiceAccountToken": false}))
    }

    fn service(&self) -> Value {
        let ports =
            json!([{"name": "hbone", "port": HBONE, "targetPort": HBONE, "protocol": "TCP", "appProtocol": "hbone"}]);
        let selector = json!({GATEWAY_LABEL: self.gateway.metadata.name});
        self.object("v1", "Service", json!({"spec": {"type": "ClusterIP", "selector": selector, "ports": ports}}))
    }

    fn disruption_budget(&self, mut spec: Map<String, Value>) -> Value {
        spec.insert("selector".to_owned(), self.selector());
        self.object("policy/v1", "PodDisruptionBudget", json!({"spec": spec}))
    }

    fn deployment(&self, wishes: &Wishes) -> Value {
        let mut spec = json!({
            "selector": self.selector(),
            // The next instance is ready before the last one goes.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": self.pod(wishes),
        });
        if let Some(replicas) = wishes.replicas {
            spec["replicas"] = replicas.into();
        }
        self.object("apps/v1", "Deployment", json!({"spec": spec}))
    }

    fn pod(&self, wishes: &Wishes) -> Value {
        let mut annotations = self.gateway.spec.infrastructure.annotations.clone();
        let port = ADMIN.to_string();
        let scrape =
            [("prometheus.io/scrape", "true"), ("prometheus.io/port", &port), ("prometheus.io/path", "/metrics")];
        for (key, value) in scrape {
            annotations.entry(key.into()).or_insert_with(|| value.into());
        }
        let of_annotation =
            |path, key| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.annotations['{key}']")}});
        annotations.insert(ROOTS.into(), self.roots.into());
        let mut roots = vec![of_annotation("root-cert.pem", ROOTS)];
        if let Some(signer) = self.signer {
            annotations.insert(SIGNERS_ROOTS.into(), signer.roots.into());
            roots.push(of_annotation("authority.pem", SIGNERS_ROOTS));
        }
        json!({
            "metadata": {"labels": self.labels(&[("istio.io/dataplane-mode", "none")]), "annotations": annotations},
            "spec": {
                "serviceAccountName": self.gateway.metadata.name,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": PRE_STOP_SECONDS + DRAIN_SECONDS + 15,
                "topologySpreadConstraints": [{
                    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": self.selector(),
                }],
                "containers": [self.container(wishes)],
                "volumes": [
                    {"name": "roots", "downwardAPI": {"items": roots}},
                    {"name": "token", "projected": {"sources": [
                        {"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 3600, "path": "token"}},
                    ]}},
                ],
            },
        })
    }

    fn container(&self, wishes: &Wishes) -> Value {
        let mut container = json!({
            "name": "waypoint",
            "image": self.config.image,
            "imagePullPolicy": "IfNotPresent",
            "env": self.environment(),
            "ports": [
                {"name": "hbone", "containerPort": HBONE, "protocol": "TCP"},
                {"name": "admin", "containerPort": ADMIN, "protocol": "TCP"},
            ],
            "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": "admin"}, "periodSeconds": 2},
            "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [
                {"name": "roots", "mountPath": "/var/run/weft/roots", "readOnly": true},
                {"name": "token", "mountPath": "/var/run/weft/token", "readOnly": true},
            ],
        });
        if wishes.resources != json!({}) {
            container["resources"] = wishes.resources.clone();
        }
        container
    }

    /// Names and values of `mesh-waypoint`'s settings; what is empty is left out, as the API server would.
    fn environment(&self) -> Vec<Value> {
        let of_pod =
            [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("NODE_NAME", "spec.nodeName")];
        let of_pod = of_pod.map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
        let (name, config, drain) = (&*self.gateway.metadata.name, self.config, DRAIN_SECONDS.to_string());
        let admin = format!("[::]:{ADMIN}");
        let said = [
            ("GATEWAY_NAME", name),
            ("SERVICE_ACCOUNT", name),
            ("XDS_ADDRESS", &config.controller),
            ("XDS_SERVER_NAME", &config.server_name),
            ("XDS_ROOT_CA", "/var/run/weft/roots/root-cert.pem"),
            ("AUTH_TOKEN_FILE", "/var/run/weft/token/token"),
            ("CA_ADDRESS", self.signer.map(|signer| signer.address).unwrap_or_default()),
            ("CA_SERVER_NAME", self.signer.and_then(|signer| signer.server_name).unwrap_or_default()),
            ("CA_ROOT_CA", self.signer.map(|_| "/var/run/weft/roots/authority.pem").unwrap_or_default()),
            ("CLUSTER_ID", &config.cluster_id),
            ("NETWORK", &config.network),
            ("TRUST_DOMAIN", &config.trust_domain),
            ("ADMIN_ADDRESS", &admin),
            ("DRAIN_SECONDS", &drain),
        ];
        let said = said.iter().filter(|(_, value)| !value.is_empty());
        of_pod.into_iter().chain(said.map(|(name, value)| json!({"name": name, "value": value}))).collect()
    }
}

#[cfg(test)]
mod tests;
