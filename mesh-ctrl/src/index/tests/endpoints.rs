use expect_test::{Expect, expect};

use super::{check, pod};

fn service(metadata: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop{metadata}}}, spec: {{{spec}}}}}\n"
    )
}

fn alone(spec: &str, expect: Expect) {
    check(&service("", spec), expect);
}

#[test]
fn services_as_they_are_written() {
    alone(
        "clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: 8080}]",
        expect![[r#"
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->8080
    "#]],
    );
    alone(
        "clusterIPs: [10.96.0.7, 'fd00:96::7'], clusterIP: 10.96.0.7, ipFamilies: [IPv4, IPv6], ports: [{port: 80}]",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7 n1/fd00:96::7] 80->80 Dual
        "#]],
    );
    alone(
        "clusterIP: None, ports: [{port: 80, name: http-web}]",
        expect![[r#"
        shop/web.shop.svc.cluster.local [] 80->80(app 1)
    "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, ipFamilies: [IPv6], ports: [{port: 80, targetPort: web, appProtocol: kubernetes.io/h2c}]",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->0(app 2) Ipv6Only
        "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, ports: [{port: 53, protocol: UDP, name: dns}, {port: 53, name: dns-tcp}, {port: 9, targetPort: '99', name: grpc}]",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] 53->53 9->99(app 3)
        "#]],
    );
    alone(
        "type: ExternalName, externalName: example.org, ports: [{port: 80}]",
        expect![[r#"
        ! info no_effect: Service shop/web: spec.type: an ExternalName is an alias in DNS; connections go to the name behind it
    "#]],
    );
    alone(
        "type: LoadBalancer, clusterIP: 10.96.0.7, ports: [{port: 80, nodePort: 30080}]",
        expect![[r#"
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->80
    "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, ports: [{port: 70000}]",
        expect![[r#"
        ! error refused: t.yaml:2: Service shop/web: spec.ports[0].port: invalid value: integer `70000`, expected a port from 1 to 65535
    "#]],
    );
    alone(
        "clusterIP: nonsense, ports: [{port: 80}]",
        expect![[r#"
        ! error refused: t.yaml:2: Service shop/web: spec.clusterIP: "nonsense" is no IP address
    "#]],
    );
}

#[test]
fn preferences_for_near_endpoints() {
    alone(
        "clusterIP: None, publishNotReadyAddresses: true",
        expect![[r#"
            shop/web.shop.svc.cluster.local [] Any[] allow-unhealthy
        "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, internalTrafficPolicy: Local",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] Strict[Node]
        "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, trafficDistribution: PreferClose",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] Failover[Network, Region, Zone, Subzone]
        "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, trafficDistribution: PreferSameZone",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] Failover[Network, Region, Zone, Subzone]
        "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, trafficDistribution: PreferSameNode",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] Failover[Network, Region, Zone, Subzone, Node]
        "#]],
    );
    alone(
        "clusterIP: 10.96.0.7, trafficDistribution: PreferMoon",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.7]
        "#]],
    );
    check(
        &service(", annotations: {networking.istio.io/traffic-distribution: PreferClose}", "clusterIP: None"),
        expect![[r#"
            shop/web.shop.svc.cluster.local [] Failover[Network, Region, Zone, Subzone]
        "#]],
    );
}

#[test]
fn selectors_find_endpoints_and_named_ports_resolve_at_each() {
    check(
        &[
            service("", "selector: {app: web}, clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: web, name: a}, {port: 81, targetPort: gone, name: b}, {port: 82, name: c}]"),
            pod("one", "10.0.0.1", "app: web, tier: x"),
            pod("two", "10.0.0.2", "app: web").replace("containerPort: 8080", "containerPort: 9090"),
            pod("other", "10.0.0.3", "app: db"),
            pod("elsewhere", "10.0.0.4", "app: web").replace("namespace: shop", "namespace: bank"),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/bank/elsewhere ip=10.0.0.4 node=a canonical=web@latest
            c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest
              in shop/web.shop.svc.cluster.local 80->8080 81->0 82->82
            c1//Pod/shop/other ip=10.0.0.3 node=a canonical=db@latest
            c1//Pod/shop/two ip=10.0.0.2 node=a canonical=web@latest
              in shop/web.shop.svc.cluster.local 80->9090 81->0 82->82
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->0 81->0 82->82
        "#]],
    );
    // All labels of a selector are asked for.
    check(
        &[
            service("", "selector: {app: web, tier: x}, ports: [{port: 80}]"),
            pod("one", "10.0.0.1", "app: web, tier: x"),
            pod("two", "10.0.0.2", "app: web"),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest
              in shop/web.shop.svc.cluster.local 80->80
            c1//Pod/shop/two ip=10.0.0.2 node=a canonical=web@latest
            shop/web.shop.svc.cluster.local [] 80->80
        "#]],
    );
    // Without a selector no pod is found.
    check(
        &[service("", "ports: [{port: 80}]"), pod("one", "10.0.0.1", "app: web")].concat(),
        expect![[r#"
        c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest
        shop/web.shop.svc.cluster.local [] 80->80
    "#]],
    );
}

fn slice(name: &str, endpoints: &str, ports: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}, endpoints: [{endpoints}], ports: [{ports}]}}\n"
    )
}

#[test]
fn slices_decide_where_there_are_any() {
    let web =
        || service("", "selector: {app: web}, clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: web, name: http}]");
    let two = || [pod("one", "10.0.0.1", "app: web"), pod("two", "10.0.0.2", "app: web")].concat();
    let one = "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: one}}";
    check(
        &[web(), two(), slice("s", one, "{name: http, port: 8081}")].concat(),
        expect![[r#"
        c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest
          in shop/web.shop.svc.cluster.local 80->8081
        c1//Pod/shop/two ip=10.0.0.2 node=a canonical=web@latest
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->0(app 1)
    "#]],
    );
    // A slice that says of a pod which is fine that it does not serve.
    let unready =
        "{addresses: [10.0.0.1], conditions: {ready: false, serving: false}, targetRef: {kind: Pod, name: one}}";
    check(
        &[web(), pod("one", "10.0.0.1", "app: web"), slice("s", unready, "{name: http, port: 8081}")].concat(),
        expect![[r#"
            c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest
            shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->0(app 1)
        "#]],
    );
    // One that is not ready by itself stays an endpoint, unhealthy.
    let pod_unready = pod("one", "10.0.0.1", "app: web").replace("'True'", "'False'");
    check(
        &[web(), pod_unready, slice("s", unready, "{name: http, port: 8081}")].concat(),
        expect![[r#"
        c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest unhealthy
          in shop/web.shop.svc.cluster.local 80->8081
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->0(app 1)
    "#]],
    );
    // Two slices of one pod complete each other's ports.
    check(
        &[
            service("", "selector: {app: web}, ports: [{port: 80, name: http}, {port: 90, name: admin}]"),
            pod("one", "10.0.0.1", "app: web"),
            slice("s1", one, "{name: http, port: 8081}"),
            slice("s2", one, "{name: admin, port: 9091}"),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/shop/one ip=10.0.0.1 node=a canonical=web@latest
              in shop/web.shop.svc.cluster.local 80->8081 90->9091
            shop/web.shop.svc.cluster.local [] 80->80(app 1) 90->90
        "#]],
    );
}

#[test]
fn endpoints_that_are_no_pods_become_workloads() {
    let web = service("", "clusterIP: 10.96.0.7, ports: [{port: 80, name: http}]");
    let endpoints = "{addresses: [192.0.2.1], zone: z1}, {addresses: [192.0.2.2], conditions: {ready: false}}";
    check(
        &[web.clone(), slice("s", endpoints, "{name: http, port: 8081}")].concat(),
        expect![[r#"
        c1/discovery.k8s.io/EndpointSlice/shop/s/192.0.2.1 ip=192.0.2.1 at=/z1/
          in shop/web.shop.svc.cluster.local 80->8081
        c1/discovery.k8s.io/EndpointSlice/shop/s/192.0.2.2 ip=192.0.2.2 unhealthy
          in shop/web.shop.svc.cluster.local 80->8081
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->80(app 1)
    "#]],
    );
    check(
        &[web.clone(), slice("s", "{addresses: [192.0.2.1]}", "{name: http}")].concat(),
        expect![[r#"
        c1/discovery.k8s.io/EndpointSlice/shop/s/192.0.2.1 ip=192.0.2.1
          in shop/web.shop.svc.cluster.local 80->80
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->80(app 1)
    "#]],
    );
    check(
        &[web, slice("s", endpoints, "").replace("addressType: IPv4", "addressType: FQDN")].concat(),
        expect![[r#"
        shop/web.shop.svc.cluster.local [n1/10.96.0.7] 80->80(app 1)
    "#]],
    );
    // Of no service: nothing.
    check(&slice("s", endpoints, "{port: 1}"), expect![""]);
}

#[test]
fn services_select_workload_entries() {
    check(
        &[
            service("", "selector: {app: web}, ports: [{port: 80, targetPort: 8080, name: http}, {port: 81, targetPort: web, name: b}]"),
            "---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 192.0.2.1, labels: {app: web}, ports: {http: 7070, web: 7071}}}\n".into(),
        ]
        .concat(),
        expect![[r#"
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 canonical=web@latest
              in shop/web.shop.svc.cluster.local 80->7070 81->7071
            shop/web.shop.svc.cluster.local [] 80->8080(app 1) 81->0
        "#]],
    );
}
