//! Who is reached through which waypoint.

use expect_test::expect;

use super::{check, pod};

const GATEWAY: &str = "\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: shop}, spec: {gatewayClassName: weft-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n";

fn service(name: &str, labels: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}\n"
    )
}

fn namespace(name: &str, labels: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}\n")
}

#[test]
fn a_things_own_label_wins_over_its_namespaces_and_none_is_none() {
    let yaml = [
        &namespace("shop", "istio.io/use-waypoint: wp"),
        &service("a", ""),
        &service("b", "istio.io/use-waypoint: none"),
        &service("wp", ""),
        GATEWAY,
    ];
    check(
        &yaml.map(|yaml| yaml.to_owned()).concat(),
        expect![[r#"
        shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=shop/wp.shop.svc.cluster.local:15008
        shop/b.shop.svc.cluster.local [n1/10.96.0.1] 80->80
        shop/wp.shop.svc.cluster.local [n1/10.96.0.1] 80->80
    "#]],
    );
}

#[test]
fn a_waypoint_that_is_not_there_is_asked_all_the_same() {
    let yaml = [service("a", "istio.io/use-waypoint: wp"), pod("p", "10.0.0.1", "istio.io/use-waypoint: wp")];
    check(
        &yaml.concat(),
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a waypoint=shop/wp.shop.svc.cluster.local:15008
        shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=shop/wp.shop.svc.cluster.local:15008
        ! warning unresolved: Pod shop/p: metadata.labels[istio.io/use-waypoint]: Gateway shop/wp does not exist; what goes through it fails
        ! warning unresolved: Service shop/a: metadata.labels[istio.io/use-waypoint]: Gateway shop/wp does not exist; what goes through it fails
    "#]],
    );
    // A gateway of another class is no waypoint.
    check(
        &[&yaml.concat(), &*GATEWAY.replace("weft-waypoint", "other")].concat(),
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a waypoint=shop/wp.shop.svc.cluster.local:15008
        shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=shop/wp.shop.svc.cluster.local:15008
        ! warning unresolved: Pod shop/p: metadata.labels[istio.io/use-waypoint]: Gateway shop/wp is no waypoint; what goes through it fails
        ! warning unresolved: Service shop/a: metadata.labels[istio.io/use-waypoint]: Gateway shop/wp is no waypoint; what goes through it fails
    "#]],
    );
}

#[test]
fn a_gateway_says_what_it_is_for() {
    let yaml = [
        namespace("shop", "istio.io/use-waypoint: wp"),
        service("a", ""),
        pod("p", "10.0.0.1", "app: p"),
        pod("q", "10.0.0.2", "istio.io/use-waypoint: wp"),
        pod("wp-1", "10.0.0.3", "gateway.networking.k8s.io/gateway-name: wp"),
        "---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 192.0.2.1}}\n".into(),
    ]
    .concat();
    for (what, expect) in [
        (
            "service",
            expect![[r#"
            c1//Pod/shop/p ip=10.0.0.1 node=a
            c1//Pod/shop/q ip=10.0.0.2 node=a
            c1//Pod/shop/wp-1 ip=10.0.0.3 hbone node=a native-tunnel
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=shop/wp.shop.svc.cluster.local:15008
            ! warning no_effect: Pod shop/q: metadata.labels[istio.io/use-waypoint]: Gateway shop/wp is not for workloads (istio.io/waypoint-for); it is not used
        "#]],
        ),
        (
            "workload",
            expect![[r#"
            c1//Pod/shop/p ip=10.0.0.1 node=a waypoint=shop/wp.shop.svc.cluster.local:15008
            c1//Pod/shop/q ip=10.0.0.2 node=a waypoint=shop/wp.shop.svc.cluster.local:15008
            c1//Pod/shop/wp-1 ip=10.0.0.3 hbone node=a native-tunnel
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 waypoint=shop/wp.shop.svc.cluster.local:15008
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80
        "#]],
        ),
        (
            "all",
            expect![[r#"
            c1//Pod/shop/p ip=10.0.0.1 node=a waypoint=shop/wp.shop.svc.cluster.local:15008
            c1//Pod/shop/q ip=10.0.0.2 node=a waypoint=shop/wp.shop.svc.cluster.local:15008
            c1//Pod/shop/wp-1 ip=10.0.0.3 hbone node=a native-tunnel
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 waypoint=shop/wp.shop.svc.cluster.local:15008
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=shop/wp.shop.svc.cluster.local:15008
        "#]],
        ),
        (
            "none",
            expect![[r#"
            c1//Pod/shop/p ip=10.0.0.1 node=a
            c1//Pod/shop/q ip=10.0.0.2 node=a
            c1//Pod/shop/wp-1 ip=10.0.0.3 hbone node=a native-tunnel
            c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80
            ! warning no_effect: Pod shop/q: metadata.labels[istio.io/use-waypoint]: Gateway shop/wp is not for workloads (istio.io/waypoint-for); it is not used
        "#]],
        ),
    ] {
        let gateway =
            GATEWAY.replace("namespace: shop", &format!("namespace: shop, labels: {{istio.io/waypoint-for: {what}}}"));
        check(&[&yaml, &*gateway].concat(), expect);
    }
}

#[test]
fn a_waypoint_elsewhere_has_to_take_the_namespace() {
    let gateway = |allowed: &str| {
        GATEWAY
            .replace("namespace: shop", "namespace: infra")
            .replace("protocol: HBONE", &format!("protocol: HBONE, allowedRoutes: {{namespaces: {{{allowed}}}}}"))
    };
    let yaml = [
        namespace("shop", "team: a"),
        service("a", "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra"),
    ]
    .concat();
    for (allowed, expect) in [
        (
            "from: Same",
            expect![[r#"
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=infra/wp.infra.svc.cluster.local:15008
            ! warning unresolved: Service shop/a: metadata.labels[istio.io/use-waypoint]: Gateway infra/wp does not take routes of this namespace; what goes through it fails
        "#]],
        ),
        (
            "from: All",
            expect![[r#"
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=infra/wp.infra.svc.cluster.local:15008
        "#]],
        ),
        (
            "from: Selector, selector: {matchLabels: {team: a}}",
            expect![[r#"
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=infra/wp.infra.svc.cluster.local:15008
        "#]],
        ),
        (
            "from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}",
            expect![[r#"
            shop/a.shop.svc.cluster.local [n1/10.96.0.1] 80->80 waypoint=infra/wp.infra.svc.cluster.local:15008
            ! warning unresolved: Service shop/a: metadata.labels[istio.io/use-waypoint]: Gateway infra/wp does not take routes of this namespace; what goes through it fails
        "#]],
        ),
    ] {
        check(&[&yaml, &*gateway(allowed)].concat(), expect);
    }
}

#[test]
fn a_service_entry_may_use_a_waypoint() {
    let entry = "---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: ext, namespace: shop, labels: {istio.io/use-waypoint: wp}}, spec: {hosts: [ext.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 192.0.2.9}]}}\n";
    check(
        &[entry, GATEWAY].concat(),
        expect![[r#"
        c1/networking.istio.io/ServiceEntry/shop/ext/192.0.2.9 ip=192.0.2.9
          in shop/ext.example 80->80
        shop/ext.example [] 80->80(app 1) waypoint=shop/wp.shop.svc.cluster.local:15008
    "#]],
    );
}
