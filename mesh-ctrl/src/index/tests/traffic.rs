use expect_test::{Expect, expect};

use super::check;

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}\n";

fn rule(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

/// The rule's effect on one service of its own namespace.
fn alone(policy: &str, expect: Expect) {
    check(&format!("{WEB}{}", rule("shop", "r", &format!("host: web, trafficPolicy: {{{policy}}}"))), expect);
}

fn limit(host: &str, most: u32) -> String {
    format!("host: {host}, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {most}}}}}}}")
}

/// Who gets which limit.
fn limits(rules: &[String], expect: &str) {
    let (index, published) = super::built(&format!("{WEB}{}", rules.concat()));
    let text = super::text(&index, &published);
    let seen: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let (whose, rest) = line.strip_prefix("  for ")?.split_once(':')?;
            let most = rest.split_once("max_connections: Some(")?.1.split_once(')')?.0;
            Some(format!("{whose}={most}"))
        })
        .collect();
    assert_eq!(seen.join(" "), expect, "{text}");
}

#[test]
fn everything_that_l4_knows_is_told() {
    alone(
        "connectionPool: {tcp: {maxConnections: 7, connectTimeout: 30ms, idleTimeout: 1h, maxConnectionDuration: 1.5s, tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}}}",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
              for others: TrafficPolicy { balance: LeastConnections, pool: ConnectionPool { max_connections: Some(7), connect_timeout: Some(30ms), keepalive: Some(Keepalive { probes: Some(3), time: Some(7200s), interval: Some(75s) }), idle_timeout: Some(3600s), max_duration: Some(1.5s) }, outliers: None, locality: None }
        "#]],
    );
    alone(
        "outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 34, minHealthPercent: 20}",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
              for others: TrafficPolicy { balance: LeastConnections, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: Some(OutlierDetection { consecutive_failures: 3, interval: 300s, base_ejection: 900s, max_ejection_percent: 34, min_health_percent: 20 }), locality: Some(Failover { scopes: [Region, Zone, Subzone], regions: {} }) }
        "#]],
    );
    alone(
        "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 1}, loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
              for others: TrafficPolicy { balance: RoundRobin, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: Some(OutlierDetection { consecutive_failures: 2, interval: 10s, base_ejection: 30s, max_ejection_percent: 10, min_health_percent: 0 }), locality: None }
        "#]],
    );
    alone(
        "outlierDetection: {consecutive5xxErrors: 0}, loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 101}}, localityLbSetting: {failover: [{from: us, to: eu}], failoverPriority: [topology.istio.io/network, topology.kubernetes.io/region, app, kubernetes.io/hostname]}}",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
              for others: TrafficPolicy { balance: SourceIp, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: Some(OutlierDetection { consecutive_failures: 0, interval: 10s, base_ejection: 30s, max_ejection_percent: 10, min_health_percent: 0 }), locality: Some(Failover { scopes: [Network, Region], regions: {"us": "eu"} }) }
            ! info no_effect: DestinationRule shop/r: spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[2]: agents know topology labels only; this one and those after it are left out
        "#]],
    );
    alone(
        "loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/a/*', to: {'eu/a/*': 80, us: 20}}]}}",
        expect![[r#"
        shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
          for others: TrafficPolicy { balance: LeastConnections, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: None, locality: Some(Distribute([Distribution { from: Place("eu/a/*"), to: [(Place("eu/a/*"), 80), (Place("us"), 20)] }])) }
    "#]],
    );
    alone(
        "connectionPool: {tcp: {maxConnections: 1}}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
              for others: TrafficPolicy { balance: LeastConnections, pool: ConnectionPool { max_connections: Some(1), connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: None, locality: None }
              for others at 80: TrafficPolicy { balance: Random, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: None, locality: None }
        "#]],
    );
}

#[test]
fn what_has_no_effect_is_said() {
    alone(
        "loadBalancer: {consistentHash: {httpHeaderName: x-user}, warmup: {duration: 30s}, localityLbSetting: {failover: [{from: us, to: eu}]}}, connectionPool: {http: {http2MaxRequests: 3}}, tls: {mode: SIMPLE}, tunnel: {}",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
            ! error refused: t.yaml:3: DestinationRule shop/r: spec.trafficPolicy.tunnel.targetHost: targetHost is missing
        "#]],
    );
    alone(
        "loadBalancer: {simple: PASSTHROUGH}, tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]",
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
              for others: TrafficPolicy { balance: LeastConnections, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: None, locality: None }
              for others at 80: TrafficPolicy { balance: LeastConnections, pool: ConnectionPool { max_connections: None, connect_timeout: None, keepalive: None, idle_timeout: None, max_duration: None }, outliers: None, locality: None }
            ! info no_effect: DestinationRule shop/r: spec.trafficPolicy.loadBalancer.simple: an agent has to know the endpoint, to know who may answer there
            ! info no_effect: DestinationRule shop/r: spec.trafficPolicy.portLevelSettings[0].tls: the destination says whether it takes plaintext: PeerAuthentication
            ! info no_effect: DestinationRule shop/r: spec.trafficPolicy.tls: the mesh's own mutual TLS needs no asking for
        "#]],
    );
    check(
        &format!(
            "{WEB}{}",
            rule(
                "shop",
                "r",
                "host: web, subsets: [{name: v1, labels: {version: v1}}], workloadSelector: {matchLabels: {app: x}}"
            )
        ),
        expect![[r#"
            shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80
            ! info no_effect: DestinationRule shop/r: spec.subsets: needs a waypoint
            ! info no_effect: DestinationRule shop/r: spec.workloadSelector: the rule is in force for every client that sees it
        "#]],
    );
}

#[test]
fn a_mistake_is_refused_by_field() {
    for (policy, field) in [
        ("loadBalancer: {simple: ROUND_ROBIN, consistentHash: {useSourceIp: true}}", "loadBalancer"),
        ("loadBalancer: {consistentHash: {}}", "loadBalancer.consistentHash"),
        ("loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}", "loadBalancer.consistentHash"),
        ("loadBalancer: {simple: FASTEST}", "loadBalancer.simple"),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 50}}]}}",
            "loadBalancer.localityLbSetting.distribute[0]",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}}",
            "loadBalancer.localityLbSetting",
        ),
        (
            "outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}",
            "loadBalancer.localityLbSetting.failover[0]",
        ),
        (
            "outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a/z, to: b}]}}",
            "loadBalancer.localityLbSetting.failover[0]",
        ),
        ("connectionPool: {tcp: {maxConnections: -1}}", "connectionPool.tcp.maxConnections"),
        ("connectionPool: {tcp: {connectTimeout: 0s}}", "connectionPool.tcp.connectTimeout"),
        ("connectionPool: {tcp: {connectTimeout: 5}}", "connectionPool.tcp.connectTimeout"),
        ("connectionPool: {tcp: {tcpKeepalive: {time: 10ms}}}", "connectionPool.tcp.tcpKeepalive.time"),
        ("connectionPool: {tcp: {maxConnection: 5}}", "connectionPool.tcp.maxConnection"),
        ("outlierDetection: {maxEjectionPercent: 101}", "outlierDetection.maxEjectionPercent"),
        ("outlierDetection: {interval: 0s}", "outlierDetection.interval"),
        (
            "portLevelSettings: [{port: {number: 80}, tls: {}}, {port: {number: 80}, tls: {}}]",
            "portLevelSettings[1].port.number",
        ),
        ("portLevelSettings: [{port: {number: 0}, tls: {}}]", "portLevelSettings[0].port"),
    ] {
        let (index, published) = super::built(&rule("shop", "r", &format!("host: web, trafficPolicy: {{{policy}}}")));
        let text = super::text(&index, &published);
        assert!(
            text.contains(&format!("refused: t.yaml:2: DestinationRule shop/r: spec.trafficPolicy.{field}: ")),
            "{policy}: {text}"
        );
    }
}

#[test]
fn the_clients_namespace_comes_first_then_the_services_then_the_root() {
    let web = "web.shop.svc.cluster.local";
    limits(&[rule("shop", "r", &limit("web", 1))], "others=1");
    limits(
        &[rule("istio-system", "r", &limit(web, 9)), rule("shop", "r", &limit("web", 1))],
        "others=1 istio-system=9",
    );
    limits(&[rule("istio-system", "r", &limit("'*.local'", 9))], "others=9");
    limits(&[rule("shop", "r", &limit("web", 1)), rule("bank", "r", &limit(web, 2))], "others=1 bank=2");
    // A short name is one of the rule's own namespace.
    limits(&[rule("bank", "r", &limit("web", 2))], "");
    let dot = format!("{}, exportTo: ['.']", limit("web", 1));
    limits(&[rule("shop", "r", &dot), rule("istio-system", "r", &limit("'*'", 9))], "others=9 shop=1");
    let bank = format!("{}, exportTo: [bank]", limit("web", 1));
    limits(&[rule("shop", "r", &bank), rule("istio-system", "r", &limit("'*'", 9))], "others=9 bank=1 shop=1");
}

#[test]
fn the_most_specific_host_wins_alone_and_of_one_host_the_oldest() {
    let (wide, near) = (limit("'*.shop.svc.cluster.local'", 2), limit("web", 1));
    limits(&[rule("shop", "a", &wide), rule("shop", "b", &near)], "others=1");
    let old =
        rule("shop", "z", &limit("web", 3)).replace("name: z", "creationTimestamp: '2026-01-01T00:00:00Z', name: z");
    limits(&[rule("shop", "b", &near), old.clone()], "others=3");
    // One without a traffic policy leaves the word to the next.
    let silent = old.replace(&limit("web", 3), "host: web, subsets: []");
    limits(&[silent, rule("shop", "b", &near)], "others=1");
}
