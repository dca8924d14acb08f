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
        expect![[r#"
            shop/a.example.org [n1/192.0.2.10 n1/192.0.2.11] 443->443 Passthrough[]
            shop/b.example.org [n1/192.0.2.10 n1/192.0.2.11] 443->443 Passthrough[]
            ! info no_effect: ServiceEntry shop/ext: spec.addresses[2]: ranges of addresses are not captured
        "#]],
    );
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web, protocol: HTTP, targetPort: 8080}, {number: 53, name: dns, protocol: UDP}], resolution: STATIC, exportTo: ['.'], subjectAltNames: ['spiffe://td/ns/a/sa/b']",
        expect![[r#"
            shop/a.example.org [] 80->8080(app 1) sans=spiffe://td/ns/a/sa/b
            ! info no_effect: ServiceEntry shop/ext: spec.exportTo: visible in every namespace all the same
        "#]],
    );
    check(
        &entry("ext", "hosts: [a.example.org], ports: [{number: 80, name: web}], resolution: DNS")
            .replace("}}\n", "}, status: {addresses: [{host: a.example.org, value: 240.240.0.1}, {host: x, value: 240.240.0.2}], conditions: []}}\n"),
        expect![[r#"
            c1/networking.istio.io/ServiceEntry/shop/ext/a.example.org host=a.example.org
              in shop/a.example.org 80->80
            shop/a.example.org [n1/240.240.0.1] 80->80
        "#]],
    );
}

#[test]
fn endpoints_are_workloads() {
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web, targetPort: 8080}], resolution: STATIC, location: MESH_INTERNAL, endpoints: [{address: 192.0.2.1, ports: {web: 7070}, labels: {networking.istio.io/tunnel: http, app: x}, serviceAccount: sa, locality: r/z, weight: 5, network: n2}, {address: 192.0.2.2}, {address: 192.0.2.2, ports: {web: 1}}]",
        expect![[r#"
            c1/networking.istio.io/ServiceEntry/shop/ext/192.0.2.1 ip=192.0.2.1 network=n2 hbone sa=sa canonical=x@latest capacity=5 at=r/z/
              in shop/a.example.org 80->7070
            c1/networking.istio.io/ServiceEntry/shop/ext/192.0.2.2 ip=192.0.2.2
              in shop/a.example.org 80->8080
            shop/a.example.org [] 80->8080
            ! warning no_effect: ServiceEntry shop/ext: spec.endpoints[2]: 192.0.2.2 is listed before; one workload has one set of ports
        "#]],
    );
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web}], resolution: DNS, endpoints: [{address: real.example.org}]",
        expect![[r#"
            c1/networking.istio.io/ServiceEntry/shop/ext/real.example.org host=real.example.org
              in shop/a.example.org 80->80
            shop/a.example.org [] 80->80
        "#]],
    );
    alone(
        "hosts: [a.example.org], ports: [{number: 80, name: web}], resolution: DNS",
        expect![[r#"
        c1/networking.istio.io/ServiceEntry/shop/ext/a.example.org host=a.example.org
          in shop/a.example.org 80->80
        shop/a.example.org [] 80->80
    "#]],
    );
    alone(
        "hosts: ['*.example.org'], ports: [{number: 80, name: web}], resolution: NONE",
        expect![[r#"
            shop/*.example.org [] 80->80 Passthrough[]
        "#]],
    );
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
        expect![[r#"
            c1//Pod/shop/p ip=10.0.0.1 node=a canonical=web@latest
              in shop/a.mesh 80->8080
            c1//Pod/shop/q ip=10.0.0.2 node=a canonical=db@latest
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 canonical=web@latest
              in shop/a.mesh 80->7070
            shop/a.mesh [] 80->8080
        "#]],
    );
}

#[test]
fn mistakes_are_refused_with_their_field() {
    alone(
        "hosts: []",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.hosts: 0 items, 1 is the least
        "#]],
    );
    alone(
        "hosts: ['a b']",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.hosts[0]: "a b" is no host name: it has a label that is none: letters, digits and '-' within, 63 at most
        "#]],
    );
    alone(
        "hosts: [a.b], resolutoin: DNS",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.resolutoin: there is no field "resolutoin" here; did you mean "resolution"?
        "#]],
    );
    alone(
        "hosts: [a.b], resolution: dns",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.resolution: "dns" is none of NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS; did you mean "DNS"?
        "#]],
    );
    alone(
        "hosts: [a.b], ports: [{number: 0, name: x}]",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.ports[0].number: 0 is less than 1
        "#]],
    );
    alone(
        "hosts: [a.b], ports: [{number: 80, name: x}, {number: 80, name: y}]",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.ports[1].number: the number 80 is there twice
        "#]],
    );
    alone(
        "hosts: [a.b], addresses: [300.0.0.1]",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.addresses[0]: "300.0.0.1" is neither an address nor a block
        "#]],
    );
    alone(
        "hosts: [a.b], resolution: STATIC, endpoints: [{address: host.example}]",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.endpoints[0].address: "host.example" is no IP address, as STATIC needs
        "#]],
    );
    alone(
        "hosts: [a.b], workloadSelector: {matchLabels: {a: b}}",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec.workloadSelector.matchLabels: there is no field "matchLabels" here; known: labels
        "#]],
    );
    alone(
        "hosts: [a.b], workloadSelector: {labels: {a: b}}, endpoints: [{address: 192.0.2.1}]",
        expect![[r#"
            ! error refused: t.yaml:2: ServiceEntry shop/ext: spec: workloadSelector and endpoints exclude each other
        "#]],
    );
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
        expect![[r#"
            bank/a.mesh [] 80->80
            c1/networking.istio.io/ServiceEntry/bank/oldest/192.0.2.1 ip=192.0.2.1
              in bank/a.mesh 80->80
            c1/networking.istio.io/ServiceEntry/shop/old/192.0.2.1 ip=192.0.2.1
              in shop/a.mesh 80->80
            c1/networking.istio.io/ServiceEntry/shop/young/192.0.2.1 ip=192.0.2.1
            shop/a.mesh [] 80->80 not-canonical
            ! warning conflict: ServiceEntry shop/young: spec.hosts: hostname a.mesh is taken by ServiceEntry shop/old
        "#]],
    );
    // Kubernetes' own service is the stronger.
    check(
        &[
            entry("fake", "hosts: [web.shop.svc.cluster.local], addresses: [192.0.2.1], ports: [{number: 80, name: web}]"),
            "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}\n".into(),
        ]
        .concat(),
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->80
            ! warning conflict: ServiceEntry shop/fake: spec.hosts: hostname web.shop.svc.cluster.local is taken by Service shop/web
        "#]],
    );
}
