use expect_test::expect;

use super::{Index, built, check, manifest, pod};

#[test]
fn a_pod_as_kubectl_prints_it_becomes_a_workload() {
    check(
        r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata:
    name: a
    labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1, topology.istio.io/subzone: rack7}
- apiVersion: v1
  kind: Pod
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
    creationTimestamp: "2026-01-02T03:04:05Z"
    labels: {app: web, version: v2, pod-template-hash: 6b7f9c}
    name: web-6b7f9c-x2x4q
    namespace: shop
    ownerReferences: [{apiVersion: apps/v1, blockOwnerDeletion: true, controller: true, kind: ReplicaSet, name: web-6b7f9c, uid: u}]
    resourceVersion: "7"
    uid: 0b7d
  spec:
    containers:
    - {image: "web:2", name: web, ports: [{containerPort: 8080, name: http, protocol: TCP}], resources: {}}
    nodeName: a
    serviceAccountName: web
    tolerations: [{effect: NoExecute, key: k, operator: Exists, tolerationSeconds: 300}]
  status:
    conditions:
    - {lastProbeTime: null, status: "True", type: Ready}
    phase: Running
    podIP: 10.0.0.7
    podIPs: [{ip: 10.0.0.7}, {ip: "fd00::7"}]
"#,
        expect![[r#"
            c1//Pod/shop/web-6b7f9c-x2x4q ip=10.0.0.7,fd00::7 sa=web node=a as=deployment/web canonical=web@v2 at=eu/eu-1/rack7
        "#]],
    );
}

#[test]
fn canonical_names_come_from_labels_in_istios_order() {
    check(
        &[
            pod("a", "10.0.0.1", "app: x, app.kubernetes.io/name: y, service.istio.io/canonical-name: z"),
            pod("b", "10.0.0.2", "app: x, app.kubernetes.io/name: y, app.kubernetes.io/version: '3', version: '2'"),
            pod("c", "10.0.0.3", "service.istio.io/canonical-revision: r, app.kubernetes.io/version: '3'"),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/shop/a ip=10.0.0.1 node=a canonical=z@latest
            c1//Pod/shop/b ip=10.0.0.2 node=a canonical=y@3
            c1//Pod/shop/c ip=10.0.0.3 node=a canonical=c@r
        "#]],
    );
}

fn owned(name: &str, labels: &str, kind: &str, owner: &str) -> String {
    let reference = format!("ownerReferences: [{{controller: true, kind: {kind}, name: {owner}}}], name: {name},");
    pod(name, "10.0.0.1", labels).replacen(&format!("name: {name},"), &reference, 1)
}

#[test]
fn owners_name_the_workload() {
    check(
        &owned("p1", "pod-template-hash: abc", "ReplicaSet", "web-abc"),
        expect![[r#"
        c1//Pod/shop/p1 ip=10.0.0.1 node=a as=deployment/web
    "#]],
    );
    check(
        &owned("p2", "x: y", "ReplicaSet", "web-abc"),
        expect![[r#"
        c1//Pod/shop/p2 ip=10.0.0.1 node=a
    "#]],
    );
    check(
        &owned("p3", "x: y", "Job", "import"),
        expect![[r#"
        c1//Pod/shop/p3 ip=10.0.0.1 node=a as=job/import
    "#]],
    );
    check(
        &owned("p4", "x: y", "Job", "nightly-29271840"),
        expect![[r#"
        c1//Pod/shop/p4 ip=10.0.0.1 node=a as=cronjob/nightly
    "#]],
    );
    check(
        &owned("db-0", "x: y", "StatefulSet", "db"),
        expect![[r#"
        c1//Pod/shop/db-0 ip=10.0.0.1 node=a
    "#]],
    );
    check(
        &[
            owned("p5", "x: y", "ReplicaSet", "canary"),
            "---\n{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: canary, namespace: shop, ownerReferences: [{controller: true, kind: Deployment, name: web}]}}\n".into(),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/shop/p5 ip=10.0.0.1 node=a as=deployment/web
        "#]],
    );
    check(
        &[
            owned("p6", "x: y", "Job", "odd-29271840"),
            "---\n{apiVersion: batch/v1, kind: Job, metadata: {name: odd-29271840, namespace: shop}}\n".into(),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/shop/p6 ip=10.0.0.1 node=a as=job/odd-29271840
        "#]],
    );
}

#[test]
fn life_cycle_decides_health_and_presence() {
    check(
        &pod("p", "10.0.0.1", "").replace("'True'", "'False'"),
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a unhealthy
    "#]],
    );
    check(&pod("p", "10.0.0.1", "").replace("phase: Running", "phase: Succeeded"), expect![""]);
    check(&pod("p", "10.0.0.1", "").replace("phase: Running", "phase: Failed"), expect![""]);
    let starting = pod("p", "10.0.0.1", "").replace("podIP: 10.0.0.1, ", "").replace("'True'", "'False'");
    check(
        &starting,
        expect![[r#"
            c1//Pod/shop/p node=a unhealthy
        "#]],
    );
    check(&starting.replace("nodeName: a", "schedulerName: slow"), expect![""]);
    check(&starting.replace("nodeName: a", "nodeName: a, hostNetwork: true"), expect![""]);
    check(
        &pod("p", "10.0.0.1", "").replace("labels:", "deletionTimestamp: '2026-01-01T00:00:00Z', labels:"),
        expect![[r#"
            c1//Pod/shop/p ip=10.0.0.1 node=a unhealthy
        "#]],
    );
    check(
        &pod("p", "10.0.0.1", "").replace("nodeName: a", "nodeName: a, hostNetwork: true"),
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a host-network
    "#]],
    );
    check(
        &pod("p", "10.0.0.1", "").replace("nodeName: a", "nodeName: a, serviceAccountName: 'a b'"),
        expect![[r#"
        ! error no_effect: Pod shop/p: no identity: path "ns/shop/sa/a b" is not /ns/<namespace>/sa/<service-account>
    "#]],
    );
}

#[test]
fn a_node_may_ask_for_the_identities_scheduled_to_it() {
    let yaml = [
        pod("a", "10.0.0.1", "").replace("nodeName: a", "nodeName: a, serviceAccountName: web"),
        pod("b", "10.0.0.2", "").replace("podIP: 10.0.0.2, ", "").replace("Running", "Pending"),
        pod("c", "10.0.0.3", "").replace("nodeName: a", "nodeName: b, serviceAccountName: other"),
        pod("d", "10.0.0.4", "").replace("nodeName: a", "serviceAccountName: unscheduled"),
        pod("e", "10.0.0.5", "")
            .replace("nodeName: a", "nodeName: a, serviceAccountName: ended")
            .replace("Running", "Failed"),
    ];
    let (index, _) = built(&yaml.concat());
    expect![[r#"
        {
            spiffe://cluster.local/ns/shop/sa/default,
            spiffe://cluster.local/ns/shop/sa/web,
        }
    "#]]
    .assert_debug_eq(&index.identities_on_node("a"));
    expect![[r#"
        {}
    "#]]
    .assert_debug_eq(&index.identities_on_node(""));
}

#[test]
fn a_workload_entrys_annotation_names_its_node() {
    let entry = |annotations: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: shop, annotations: {{{annotations}}}}}, spec: {{address: 192.0.2.1, serviceAccount: vm}}}}\n"
        )
    };
    check(
        &entry("weft.io/node: host-1.example.org"),
        expect![[r#"
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 sa=vm node=host-1.example.org
        "#]],
    );
    for wrong in ["''", "'a b'", "-a", "a..b", "Host-1", "'a/b'"] {
        let (index, _) = built(&entry(&format!("weft.io/node: {wrong}")));
        let findings: Vec<String> = index.findings().iter().map(ToString::to_string).collect();
        let [one] = findings.as_slice() else { panic!("{wrong}: {findings:?}") };
        let said = "error no_effect: WorkloadEntry shop/vm: metadata.annotations[weft.io/node]: ";
        assert!(one.starts_with(said), "{one}");
        for node in [wrong.trim_matches('\''), "a", "", "-a"] {
            assert!(index.identities_on_node(node).is_empty(), "{wrong} at {node}");
        }
    }
    // Its place is its node's, unless it says.
    let node = "{apiVersion: v1, kind: Node, metadata: {name: a, labels: {topology.kubernetes.io/zone: z1}}}\n";
    check(
        &[node, &entry("weft.io/node: a")].concat(),
        expect![[r#"
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 sa=vm node=a at=/z1/
        "#]],
    );
    check(
        &[node, &entry("weft.io/node: a").replace("serviceAccount: vm", "serviceAccount: vm, locality: eu/z2")]
            .concat(),
        expect![[r#"
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 sa=vm node=a at=eu/z2/
        "#]],
    );
}

#[test]
fn the_agent_of_the_node_that_an_entry_names_may_ask_for_its_identity() {
    let entry = |node: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: shop, annotations: {{weft.io/node: {node}}}}}, spec: {{address: 192.0.2.1, serviceAccount: vm}}}}\n"
        )
    };
    let yaml = [pod("web", "10.0.0.1", "").replace("nodeName: a", "nodeName: a, serviceAccountName: web"), entry("a")];
    let (mut index, _) = built(&yaml.concat());
    let on = |index: &Index, node: &str| {
        index.identities_on_node(node).iter().map(|id| id.service_account().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((on(&index, "a"), on(&index, "b"), on(&index, "")), (vec!["vm".into(), "web".into()], vec![], vec![]));
    index.apply(manifest("t", &entry("b")));
    assert_eq!((on(&index, "a"), on(&index, "b")), (vec!["web".to_owned()], vec!["vm".to_owned()]));
    index.apply(manifest("t", &entry("b").replace("weft.io/node", "example.org/node")));
    assert_eq!((on(&index, "a"), on(&index, "b")), (vec!["web".to_owned()], vec![]));
}

#[test]
fn workload_entries_are_workloads_too() {
    let entry = |spec: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: shop, labels: {{app: vm}}}}, spec: {spec}}}"
        )
    };
    check(
        &entry(
            "{address: 192.0.2.1, serviceAccount: vm, locality: eu/eu-1/r, weight: 3, network: dc, labels: {version: v1}}",
        ),
        expect![[r#"
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 network=dc sa=vm canonical=vm@v1 capacity=3 at=eu/eu-1/r
        "#]],
    );
    check(
        &entry("{address: vm.example.org, labels: {networking.istio.io/tunnel: http}}"),
        expect![[r#"
        c1/networking.istio.io/WorkloadEntry/shop/vm host=vm.example.org hbone
    "#]],
    );
    check(
        &entry("{address: 'not a host'}"),
        expect![[r#"
            ! error refused: t.yaml:1: WorkloadEntry shop/vm: spec.address: "not a host" is neither an IP address nor a host name
        "#]],
    );
    check(
        &entry("{adress: 192.0.2.1}"),
        expect![[r#"
            ! error refused: t.yaml:1: WorkloadEntry shop/vm: spec.adress: there is no field "adress" here; did you mean "address"?
        "#]],
    );
    let old = entry("{address: 192.0.2.1}");
    check(
        &old.replace("io/v1,", "io/v1beta1,"),
        expect![[r#"
        c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1
    "#]],
    );
    check(
        &old.replace("io/v1,", "io/v1alpha3,"),
        expect![[r#"
        c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1
    "#]],
    );
    check(
        &old.replace("io/v1,", "io/v2,"),
        expect![[r#"
        ! error refused: t.yaml:1: WorkloadEntry shop/vm: apiVersion: networking.istio.io/v2 of WorkloadEntry is not served
    "#]],
    );
}

#[test]
fn an_annotation_of_the_pod_or_its_namespace_asks_for_encryption() {
    let pod = |annotation: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, annotations: {{{annotation}}}}}, spec: {{nodeName: a}}, status: {{phase: Running, podIP: 10.0.0.1, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
        )
    };
    let namespace =
        "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {weft.io/encrypt: always}}}\n";
    check(
        &pod("weft.io/encrypt: always"),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 node=a encrypt-always
        "#]],
    );
    check(
        &[&pod(""), namespace].concat(),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 node=a encrypt-always
        "#]],
    );
    check(
        &pod("weft.io/encrypt: alwyas"),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 node=a encrypt-always
            ! warning fails_closed: Pod shop/web: metadata.annotations[weft.io/encrypt]: "alwyas" is not known and taken for "always"
        "#]],
    );
    check(
        &pod(""),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 node=a
        "#]],
    );
}
