use expect_test::expect;
use serde_json::from_value;

use super::*;

fn config() -> Config {
    Config {
        image: "localhost/weft/mesh-waypoint:dev".to_owned(),
        controller: "10.96.0.9:15012".to_owned(),
        server_name: "weft-controller.weft-system.svc".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        network: String::new(),
        trust_domain: "cluster.local".to_owned(),
    }
}

fn gateway(annotations: Value, spec: Value) -> Gateway {
    let mut whole = json!({"gatewayClassName": "weft-waypoint", "listeners": []});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    from_value(json!({
        "metadata": {"name": "gate", "namespace": "shop", "uid": "u-1", "annotations": annotations}, "spec": whole,
    }))
    .unwrap()
}

fn made(annotations: Value, spec: Value) -> Result<Vec<Value>, Vec<String>> {
    objects(&gateway(annotations, spec), &config(), "PEM", None)
}

#[test]
fn instances_ask_the_authority_that_there_is_besides_the_controller() {
    let signer = Signer { address: "csr.istio-system.svc:443", server_name: None, roots: "THEIRS" };
    let objects = objects(&gateway(json!({}), json!({})), &config(), "PEM", Some(signer)).unwrap();
    let pod = &objects[2]["spec"]["template"];
    let environment = &pod["spec"]["containers"][0]["env"];
    let told = |name: &str| environment.as_array().unwrap().iter().find(|item| item["name"] == name)?["value"].as_str();
    assert_eq!(told("CA_ADDRESS"), Some("csr.istio-system.svc:443"));
    assert_eq!((told("CA_SERVER_NAME"), told("CA_ROOT_CA")), (None, Some("/var/run/weft/roots/authority.pem")));
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!((&annotations[ROOTS], &annotations[SIGNERS_ROOTS]), (&json!("PEM"), &json!("THEIRS")));
    let files = pod["spec"]["volumes"][0]["downwardAPI"]["items"].as_array().unwrap();
    assert_eq!(files.len(), 2, "{files:?}");
}

/// Every leaf of an object as a line.
fn lines(at: &str, value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| lines(&format!("{at}.{key}"), value, out))
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().enumerate().for_each(|(i, value)| lines(&format!("{at}[{i}]"), value, out));
        }
        leaf => out.push(format!("{at}: {leaf}")),
    }
}

#[test]
fn a_gateway_becomes_an_account_a_service_and_a_deployment_that_it_owns() {
    let objects = made(json!({}), json!({})).unwrap();
    let mut out = Vec::new();
    for object in &objects {
        lines(object["kind"].as_str().unwrap(), object, &mut out);
    }
    expect![[r#"
        ServiceAccount.apiVersion: "v1"
        ServiceAccount.automountServiceAccountToken: false
        ServiceAccount.kind: "ServiceAccount"
        ServiceAccount.metadata.labels.app.kubernetes.io/managed-by: "weft-controller"
        ServiceAccount.metadata.labels.gateway.networking.k8s.io/gateway-class-name: "weft-waypoint"
        ServiceAccount.metadata.labels.gateway.networking.k8s.io/gateway-name: "gate"
        ServiceAccount.metadata.name: "gate"
        ServiceAccount.metadata.namespace: "shop"
        ServiceAccount.metadata.ownerReferences[0].apiVersion: "gateway.networking.k8s.io/v1"
        ServiceAccount.metadata.ownerReferences[0].controller: true
        ServiceAccount.metadata.ownerReferences[0].kind: "Gateway"
        ServiceAccount.metadata.ownerReferences[0].name: "gate"
        ServiceAccount.metadata.ownerReferences[0].uid: "u-1"
        Service.apiVersion: "v1"
        Service.kind: "Service"
        Service.metadata.labels.app.kubernetes.io/managed-by: "weft-controller"
        Service.metadata.labels.gateway.networking.k8s.io/gateway-class-name: "weft-waypoint"
        Service.metadata.labels.gateway.networking.k8s.io/gateway-name: "gate"
        Service.metadata.name: "gate"
        Service.metadata.namespace: "shop"
        Service.metadata.ownerReferences[0].apiVersion: "gateway.networking.k8s.io/v1"
        Service.metadata.ownerReferences[0].controller: true
        Service.metadata.ownerReferences[0].kind: "Gateway"
        Service.metadata.ownerReferences[0].name: "gate"
        Service.metadata.ownerReferences[0].uid: "u-1"
        Service.spec.ports[0].appProtocol: "hbone"
        Service.spec.ports[0].name: "hbone"
        Service.spec.ports[0].port: 15008
        Service.spec.ports[0].protocol: "TCP"
        Service.spec.ports[0].targetPort: 15008
        Service.spec.selector.gateway.networking.k8s.io/gateway-name: "gate"
        Service.spec.type: "ClusterIP"
        Deployment.apiVersion: "apps/v1"
        Deployment.kind: "Deployment"
        Deployment.metadata.labels.app.kubernetes.io/managed-by: "weft-controller"
        Deployment.metadata.labels.gateway.networking.k8s.io/gateway-class-name: "weft-waypoint"
        Deployment.metadata.labels.gateway.networking.k8s.io/gateway-name: "gate"
        Deployment.metadata.name: "gate"
        Deployment.metadata.namespace: "shop"
        Deployment.metadata.ownerReferences[0].apiVersion: "gateway.networking.k8s.io/v1"
        Deployment.metadata.ownerReferences[0].controller: true
        Deployment.metadata.ownerReferences[0].kind: "Gateway"
        Deployment.metadata.ownerReferences[0].name: "gate"
        Deployment.metadata.ownerReferences[0].uid: "u-1"
        Deployment.spec.selector.matchLabels.gateway.networking.k8s.io/gateway-name: "gate"
        Deployment.spec.strategy.rollingUpdate.maxSurge: 1
        Deployment.spec.strategy.rollingUpdate.maxUnavailable: 0
        Deployment.spec.strategy.type: "RollingUpdate"
        Deployment.spec.template.metadata.annotations.prometheus.io/path: "/metrics"
        Deployment.spec.template.metadata.annotations.prometheus.io/port: "15000"
        Deployment.spec.template.metadata.annotations.prometheus.io/scrape: "true"
        Deployment.spec.template.metadata.annotations.weft.io/ca-root: "PEM"
        Deployment.spec.template.metadata.labels.app.kubernetes.io/managed-by: "weft-controller"
        Deployment.spec.template.metadata.labels.gateway.networking.k8s.io/gateway-class-name: "weft-waypoint"
        Deployment.spec.template.metadata.labels.gateway.networking.k8s.io/gateway-name: "gate"
        Deployment.spec.template.metadata.labels.istio.io/dataplane-mode: "none"
        Deployment.spec.template.spec.automountServiceAccountToken: false
        Deployment.spec.template.spec.containers[0].env[0].name: "POD_NAME"
        Deployment.spec.template.spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: "metadata.name"
        Deployment.spec.template.spec.containers[0].env[1].name: "POD_NAMESPACE"
        Deployment.spec.template.spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: "metadata.namespace"
        Deployment.spec.template.spec.containers[0].env[2].name: "NODE_NAME"
        Deployment.spec.template.spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: "spec.nodeName"
        Deployment.spec.template.spec.containers[0].env[3].name: "GATEWAY_NAME"
        Deployment.spec.template.spec.containers[0].env[3].value: "gate"
        Deployment.spec.template.spec.containers[0].env[4].name: "SERVICE_ACCOUNT"
        Deployment.spec.template.spec.containers[0].env[4].value: "gate"
        Deployment.spec.template.spec.containers[0].env[5].name: "XDS_ADDRESS"
        Deployment.spec.template.spec.containers[0].env[5].value: "10.96.0.9:15012"
        Deployment.spec.template.spec.containers[0].env[6].name: "XDS_SERVER_NAME"
        Deployment.spec.template.spec.containers[0].env[6].value: "weft-controller.weft-system.svc"
        Deployment.spec.template.spec.containers[0].env[7].name: "XDS_ROOT_CA"
        Deployment.spec.template.spec.containers[0].env[7].value: "/var/run/weft/roots/root-cert.pem"
        Deployment.spec.template.spec.containers[0].env[8].name: "AUTH_TOKEN_FILE"
        Deployment.spec.template.spec.containers[0].env[8].value: "/var/run/weft/token/token"
        Deployment.spec.template.spec.containers[0].env[9].name: "CLUSTER_ID"
        Deployment.spec.template.spec.containers[0].env[9].value: "Kubernetes"
        Deployment.spec.template.spec.containers[0].env[10].name: "TRUST_DOMAIN"
        Deployment.spec.template.spec.containers[0].env[10].value: "cluster.local"
        Deployment.spec.template.spec.containers[0].env[11].name: "ADMIN_ADDRESS"
        Deployment.spec.template.spec.containers[0].env[11].value: "[::]:15000"
        Deployment.spec.template.spec.containers[0].env[12].name: "DRAIN_SECONDS"
        Deployment.spec.template.spec.containers[0].env[12].value: "20"
        Deployment.spec.template.spec.containers[0].image: "localhost/weft/mesh-waypoint:dev"
        Deployment.spec.template.spec.containers[0].imagePullPolicy: "IfNotPresent"
        Deployment.spec.template.spec.containers[0].lifecycle.preStop.sleep.seconds: 5
        Deployment.spec.template.spec.containers[0].name: "waypoint"
        Deployment.spec.template.spec.containers[0].ports[0].containerPort: 15008
        Deployment.spec.template.spec.containers[0].ports[0].name: "hbone"
        Deployment.spec.template.spec.containers[0].ports[0].protocol: "TCP"
        Deployment.spec.template.spec.containers[0].ports[1].containerPort: 15000
        Deployment.spec.template.spec.containers[0].ports[1].name: "admin"
        Deployment.spec.template.spec.containers[0].ports[1].protocol: "TCP"
        Deployment.spec.template.spec.containers[0].readinessProbe.httpGet.path: "/healthz/ready"
        Deployment.spec.template.spec.containers[0].readinessProbe.httpGet.port: "admin"
        Deployment.spec.template.spec.containers[0].readinessProbe.periodSeconds: 2
        Deployment.spec.template.spec.containers[0].resources.limits.memory: "1Gi"
        Deployment.spec.template.spec.containers[0].resources.requests.cpu: "100m"
        Deployment.spec.template.spec.containers[0].resources.requests.memory: "128Mi"
        Deployment.spec.template.spec.containers[0].securityContext.allowPrivilegeEscalation: false
        Deployment.spec.template.spec.containers[0].securityContext.capabilities.drop: ["ALL"]
        Deployment.spec.template.spec.containers[0].securityContext.readOnlyRootFilesystem: true
        Deployment.spec.template.spec.containers[0].securityContext.runAsNonRoot: true
        Deployment.spec.template.spec.containers[0].securityContext.runAsUser: 65532
        Deployment.spec.template.spec.containers[0].securityContext.seccompProfile.type: "RuntimeDefault"
        Deployment.spec.template.spec.containers[0].volumeMounts[0].mountPath: "/var/run/weft/roots"
        Deployment.spec.template.spec.containers[0].volumeMounts[0].name: "roots"
        Deployment.spec.template.spec.containers[0].volumeMounts[0].readOnly: true
        Deployment.spec.template.spec.containers[0].volumeMounts[1].mountPath: "/var/run/weft/token"
        Deployment.spec.template.spec.containers[0].volumeMounts[1].name: "token"
        Deployment.spec.template.spec.containers[0].volumeMounts[1].readOnly: true
        Deployment.spec.template.spec.serviceAccountName: "gate"
        Deployment.spec.template.spec.terminationGracePeriodSeconds: 40
        Deployment.spec.template.spec.topologySpreadConstraints[0].labelSelector.matchLabels.gateway.networking.k8s.io/gateway-name: "gate"
        Deployment.spec.template.spec.topologySpreadConstraints[0].maxSkew: 1
        Deployment.spec.template.spec.topologySpreadConstraints[0].topologyKey: "kubernetes.io/hostname"
        Deployment.spec.template.spec.topologySpreadConstraints[0].whenUnsatisfiable: "ScheduleAnyway"
        Deployment.spec.template.spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath: "metadata.annotations['weft.io/ca-root']"
        Deployment.spec.template.spec.volumes[0].downwardAPI.items[0].path: "root-cert.pem"
        Deployment.spec.template.spec.volumes[0].name: "roots"
        Deployment.spec.template.spec.volumes[1].name: "token"
        Deployment.spec.template.spec.volumes[1].projected.sources[0].serviceAccountToken.audience: "istio-ca"
        Deployment.spec.template.spec.volumes[1].projected.sources[0].serviceAccountToken.expirationSeconds: 3600
        Deployment.spec.template.spec.volumes[1].projected.sources[0].serviceAccountToken.path: "token""#]].assert_eq(&out.join("\n"));
}

#[test]
fn what_the_gateway_says_goes_onto_its_objects_and_ours_wins() {
    let infrastructure = json!({"infrastructure": {
        "labels": {"team": "a", "gateway.networking.k8s.io/gateway-name": "other", "istio.io/dataplane-mode": "weft"},
        "annotations": {"note": "b", "prometheus.io/port": "1", "weft.io/ca-root": "no"},
    }});
    let objects = made(json!({"weft.io/replicas": "3", "weft.io/cpu-limit": "2"}), infrastructure).unwrap();
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Service", "Deployment", "PodDisruptionBudget"]);
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["team"], "a");
        assert_eq!(object["metadata"]["labels"][GATEWAY_LABEL], "gate");
        assert_eq!(object["metadata"]["annotations"]["note"], "b");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u-1");
    }
    let template = &objects[2]["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["istio.io/dataplane-mode"]), (&json!("a"), &json!("none")));
    let annotations = &template["metadata"]["annotations"];
    assert_eq!((&annotations["prometheus.io/port"], &annotations["weft.io/ca-root"]), (&json!("1"), &json!("PEM")));
    assert_eq!(objects[2]["spec"]["replicas"], 3);
    assert_eq!(template["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(objects[3]["spec"], json!({"maxUnavailable": 1, "selector": {"matchLabels": {GATEWAY_LABEL: "gate"}}}));
}

#[test]
fn what_a_gateway_cannot_have_is_said_all_at_once() {
    let mut wrong = gateway(
        json!({"weft.io/replicas": "x"}),
        json!({"addresses": [{"value": "10.0.0.1"}], "infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "a"}}}),
    );
    wrong.metadata.name = "a.b".into();
    assert_eq!(
        objects(&wrong, &config(), "PEM", None).unwrap_err(),
        [
            "weft.io/replicas: \"x\" is no number from 0 to 1000",
            "metadata.name: a Service of this name cannot be; 63 characters at most, no dots",
            "spec.infrastructure.parametersRef: annotations of the Gateway say what there is to say",
            "spec.addresses: a waypoint has the address that its Service gets",
        ]
    );
}

#[test]
fn objects_are_of_the_kinds_that_are_looked_at_in_their_order() {
    let objects = made(json!({"weft.io/min-available": "1"}), json!({})).unwrap();
    let made: Vec<_> =
        objects.iter().map(|o| (o["apiVersion"].as_str().unwrap(), o["kind"].as_str().unwrap())).collect();
    let kinds = kinds();
    let known: Vec<_> = kinds.iter().map(|kind| (&*kind.api_version, &*kind.kind)).collect();
    assert_eq!(made, known);
}
