use expect_test::{Expect, expect};

use super::{check, pod};

fn entry(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}}}\n"
    )
}

fn alone(spec: &str, expect: Expect) {
    check(&entry("ext", spec), expect);
}

#[test]
fn hosts_are_services_with_every_address() {
    alone(
        "hosts: [a.example.org, b.example.org], addresses: [192.0.2.10, 192.0.2.11/32, 198.51.100.0/24], ports: [{number: 443, name: https, protocol: TLS}], location: MESH_EXTERNAL, resolution: NONE",
        expect![[]],
    );
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web, protocol: HTTP, targetPort: 8080}, {number: 53, name: dns, protocol: UDP}], resolution: STATIC, exportTo: ['.'], subjectAltNames: ['spiffe://td/ns/a/sa/b']",
        expect![[]],
    );
    check(
        &entry("ext", "hosts: [a.example.org], ports: [{number: 80, name: web}], resolution: DNS")
            .replace("}}\n", "}, status: {addresses: [{host: a.example.org, value: 240.240.0.1}, {host: x, value: 240.240.0.2}], conditions: []}}\n"),
        expect![[]],
    );
}

#[test]
fn endpoints_are_workloads() {
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web, targetPort: 8080}], resolution: STATIC, location: MESH_INTERNAL, endpoints: [{address: 192.0.2.1, ports: {web: 7070}, labels: {networking.istio.io/tunnel: http, app: x}, serviceAccount: sa, locality: r/z, weight: 5, network: n2}, {address: 192.0.2.2}, {address: 192.0.2.2, ports: {web: 1}}]",
        expect![[]],
    );
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web}], resolution: DNS, endpoints: [{address: real.example.org}]",
        expect![[]],
    );
    alone("hosts: [a.example.org, '*.example.org'], ports: [{number: 80, name: web}], resolution: DNS", expect![[]]);
}

#[test]
fn selectors_pick_pods_and_entries() {
    check(
        &[
            entry("ext", "hosts: [a.mesh], ports: [{number: 80, name: web, targetPort: 8080}], resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {labels: {app: web}}"),
            pod("p", "10.0.0.1", "app: web"),
            pod("q", "10.0.0.2", "app: db"),
            "---\n{apiVersion: networking.istio.io/v1beta1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop, labels: {app: web}}, spec: {address: 192.0.2.1, ports: {web: 7070}}}\n".into(),
        ]
        .concat(),
        expect![[]],
    );
}

#[test]
fn mistakes_are_refused_with_their_field() {
    alone("hosts: []", expect![[]]);
    alone("hosts: ['a b']", expect![[]]);
    alone("hosts: [a.b], resolutoin: DNS", expect![[]]);
    alone("hosts: [a.b], resolution: dns", expect![[]]);
    alone("hosts: [a.b], ports: [{number: 0, name: x}]", expect![[]]);
    alone("hosts: [a.b], ports: [{number: 80, name: x}, {number: 80, name: y}]", expect![[]]);
    alone("hosts: [a.b], addresses: [300.0.0.1]", expect![[]]);
    alone("hosts: [a.b], resolution: STATIC, endpoints: [{address: host.example}]", expect![[]]);
    alone("hosts: [a.b], workloadSelector: {matchLabels: {a: b}}", expect![[]]);
    alone("hosts: [a.b], workloadSelector: {labels: {a: b}}, endpoints: [{address: 192.0.2.1}]", expect![[]]);
}

#[test]
fn one_hostname_has_one_owner_in_a_namespace_and_one_canonical_service() {
    let same = |name: &str, time: &str, namespace: &str| {
        entry(
            name,
            "hosts: [a.mesh], ports: [{number: 80, name: web}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]",
        )
        .replace("namespace: shop", &format!("namespace: {namespace}, creationTimestamp: '{time}'"))
    };
    check(
        &[
            same("young", "2026-02-01T00:00:00Z", "shop"),
            same("old", "2026-01-01T00:00:00Z", "shop"),
            same("oldest", "2025-01-01T00:00:00Z", "bank"),
        ]
        .concat(),
        expect![[]],
    );
    // Kubernetes' own service is the stronger.
    check(
        &[
            entry("fake", "hosts: [web.shop.svc.cluster.local], addresses: [192.0.2.1], ports: [{number: 80, name: web}]"),
            "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}\n".into(),
        ]
        .concat(),
        expect![[]],
    );
}
