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
    alone("clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: 8080}]", expect![[]]);
    alone(
        "clusterIPs: [10.96.0.7, 'fd00:96::7'], clusterIP: 10.96.0.7, ipFamilies: [IPv4, IPv6], ports: [{port: 80}]",
        expect![[]],
    );
    alone("clusterIP: None, ports: [{port: 80, name: http-web}]", expect![[]]);
    alone(
        "clusterIP: 10.96.0.7, ipFamilies: [IPv6], ports: [{port: 80, targetPort: web, appProtocol: kubernetes.io/h2c}]",
        expect![[]],
    );
    alone(
        "clusterIP: 10.96.0.7, ports: [{port: 53, protocol: UDP, name: dns}, {port: 53, name: dns-tcp}, {port: 9, targetPort: '99', name: grpc}]",
        expect![[]],
    );
    alone("type: ExternalName, externalName: example.org, ports: [{port: 80}]", expect![[]]);
    alone("type: LoadBalancer, clusterIP: 10.96.0.7, ports: [{port: 80, nodePort: 30080}]", expect![[]]);
    alone("clusterIP: 10.96.0.7, ports: [{port: 70000}]", expect![[]]);
    alone("clusterIP: nonsense, ports: [{port: 80}]", expect![[]]);
}

#[test]
fn preferences_for_near_endpoints() {
    alone("clusterIP: None, publishNotReadyAddresses: true", expect![[]]);
    alone("clusterIP: 10.96.0.7, internalTrafficPolicy: Local", expect![[]]);
    alone("clusterIP: 10.96.0.7, trafficDistribution: PreferClose", expect![[]]);
    alone("clusterIP: 10.96.0.7, trafficDistribution: PreferSameZone", expect![[]]);
    alone("clusterIP: 10.96.0.7, trafficDistribution: PreferSameNode", expect![[]]);
    alone("clusterIP: 10.96.0.7, trafficDistribution: PreferMoon", expect![[]]);
    check(
        &service(", annotations: {networking.istio.io/traffic-distribution: PreferClose}", "clusterIP: None"),
        expect![[]],
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
        expect![[]],
    );
    // All labels of a selector are asked for.
    check(
        &[
            service("", "selector: {app: web, tier: x}, ports: [{port: 80}]"),
            pod("one", "10.0.0.1", "app: web, tier: x"),
            pod("two", "10.0.0.2", "app: web"),
        ]
        .concat(),
        expect![[]],
    );
    // Without a selector no pod is found.
    check(&[service("", "ports: [{port: 80}]"), pod("one", "10.0.0.1", "app: web")].concat(), expect![[]]);
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
    check(&[web(), two(), slice("s", one, "{name: http, port: 8081}")].concat(), expect![[]]);
    // A slice that says of a pod which is fine that it does not serve.
    let unready =
        "{addresses: [10.0.0.1], conditions: {ready: false, serving: false}, targetRef: {kind: Pod, name: one}}";
    check(
        &[web(), pod("one", "10.0.0.1", "app: web"), slice("s", unready, "{name: http, port: 8081}")].concat(),
        expect![[]],
    );
    // One that is not ready by itself stays an endpoint, unhealthy.
    let pod_unready = pod("one", "10.0.0.1", "app: web").replace("'True'", "'False'");
    check(&[web(), pod_unready, slice("s", unready, "{name: http, port: 8081}")].concat(), expect![[]]);
    // Two slices of one pod complete each other's ports.
    check(
        &[
            service("", "selector: {app: web}, ports: [{port: 80, name: http}, {port: 90, name: admin}]"),
            pod("one", "10.0.0.1", "app: web"),
            slice("s1", one, "{name: http, port: 8081}"),
            slice("s2", one, "{name: admin, port: 9091}"),
        ]
        .concat(),
        expect![[]],
    );
}

#[test]
fn endpoints_that_are_no_pods_become_workloads() {
    let web = service("", "clusterIP: 10.96.0.7, ports: [{port: 80, name: http}]");
    let endpoints = "{addresses: [192.0.2.1], zone: z1}, {addresses: [192.0.2.2], conditions: {ready: false}}";
    check(&[web.clone(), slice("s", endpoints, "{name: http, port: 8081}")].concat(), expect![[]]);
    check(&[web.clone(), slice("s", "{addresses: [192.0.2.1]}", "{name: http}")].concat(), expect![[]]);
    check(&[web, slice("s", endpoints, "").replace("addressType: IPv4", "addressType: FQDN")].concat(), expect![[]]);
    // Of no service: nothing.
    check(&slice("s", endpoints, "{port: 1}"), expect![[]]);
}

#[test]
fn services_select_workload_entries() {
    check(
        &[
            service("", "selector: {app: web}, ports: [{port: 80, targetPort: 8080, name: http}, {port: 81, targetPort: web, name: b}]"),
            "---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 192.0.2.1, labels: {app: web}, ports: {http: 7070, web: 7071}}}\n".into(),
        ]
        .concat(),
        expect![[]],
    );
}
