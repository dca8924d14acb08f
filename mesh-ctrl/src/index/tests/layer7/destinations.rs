use expect_test::expect;

use super::check_models;
use crate::source::Severity;

fn rule(name: &str, rest: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, {rest}}}, spec: {{{spec}}}}}\n"
    )
}

#[test]
fn a_subset_has_its_members_and_a_policy_put_together_field_by_field() {
    let spec = "host: web, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 5}, http: {http2MaxRequests: 7, maxRetries: 3}}, \
                portLevelSettings: [{port: {number: 80}, outlierDetection: {consecutive5xxErrors: 2}}]}, \
                subsets: [{name: v1, labels: {version: v1}}, {name: all, labels: {}}, \
                {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, path: /p, ttl: 0s}}}, \
                portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE, sni: s}}]}}]";
    check_models(
        &rule("web", "namespace: shop", spec),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          to shop/web.shop.svc.cluster.local: {general: {balance: round_robin, pool: {connect_timeout: 10s, idle_timeout: 3600s, max_connections: 5, max_requests: 7, max_retries: 3}}, ports: {80: {locality: {failover: {scopes: [region, zone, subzone]}}, outliers: {base_ejection: 30s, consecutive_5xx: 2, consecutive_gateway: 0, consecutive_local: 5, interval: 10s, max_ejection_percent: 10, min_health_percent: 0}}}, subsets: {all: {members: [c1//Pod/shop/web-1, c1//Pod/shop/web-2]}, v1: {members: [c1//Pod/shop/web-1]}, v2: {members: [c1//Pod/shop/web-2], policy: {general: {balance: {hash: {cookie: {name: c, path: /p, ttl: 0ns}}}, pool: {connect_timeout: 10s, idle_timeout: 3600s, max_connections: 5, max_requests: 7, max_retries: 3}}, ports: {80: {balance: {hash: {cookie: {name: c, path: /p, ttl: 0ns}}}, locality: {failover: {scopes: [region, zone, subzone]}}, outliers: {base_ejection: 30s, consecutive_5xx: 2, consecutive_gateway: 0, consecutive_local: 5, interval: 10s, max_ejection_percent: 10, min_health_percent: 0}}, 81: {tls: {originate: {sni: s}}}}}}}}
    "#]],
    );
}

#[test]
fn every_setting_of_a_policy_is_taken_and_what_no_waypoint_does_is_told() {
    let spec = "host: web, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: X-User}, warmup: {duration: 10s, minimumPercent: 20}, \
                localityLbSetting: {failover: [{from: a, to: b}]}}, \
                connectionPool: {tcp: {connectTimeout: 1s, idleTimeout: 0s, maxConnectionDuration: 1h, tcpKeepalive: {probes: 3, time: 60s}}, \
                http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 2, maxConcurrentStreams: 3, h2UpgradePolicy: UPGRADE}}, \
                outlierDetection: {consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true, maxEjectionPercent: 50, minHealthPercent: 10, interval: 1s, baseEjectionTime: 2s}, \
                tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r, subjectAltNames: [x]}, retryBudget: {percent: 20}}";
    check_models(
        &rule("web", "namespace: shop", spec),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              to shop/web.shop.svc.cluster.local: {general: {balance: {hash: {header: x-user}}, locality: {failover: {regions: {a: b}, scopes: [region, zone, subzone]}}, outliers: {base_ejection: 2s, consecutive_5xx: 5, consecutive_gateway: 3, consecutive_local: 5, interval: 1s, max_ejection_percent: 50, min_health_percent: 10, split_local: true}, pool: {connect_timeout: 1s, keepalive: {probes: 3, time: 60s}, max_concurrent_streams: 3, max_connection_duration: 3600s, max_pending: 1, max_requests_per_connection: 2, retry_budget: {least: 3, millipercent: 20000}, upgrade: true}, slow_start: {aggression: 1000, minimum_percent: 20, window: 10s}, tls: {originate: {client: {chain: /c, key: /k}, roots: {file: /r}, subject_alt_names: [x]}}}}
        "#]],
    );
}

#[test]
fn the_most_specific_host_wins_alone_and_subsets_of_one_host_come_together() {
    let yaml = [
        rule(
            "wild",
            "namespace: shop",
            "host: '*.shop.svc.cluster.local', trafficPolicy: {loadBalancer: {simple: RANDOM}}",
        ),
        rule(
            "young",
            "namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z'",
            "host: web, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: a, labels: {version: v2}}, {name: b, labels: {version: v2}}]",
        ),
        rule(
            "old",
            "namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'",
            "host: web, subsets: [{name: a, labels: {version: v1}}]",
        ),
        rule(
            "root",
            "namespace: istio-system",
            "host: web.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}",
        ),
        rule(
            "hidden",
            "namespace: bank",
            "host: web.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}",
        ),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          to shop/web.shop.svc.cluster.local: {general: {balance: round_robin}, subsets: {a: {members: [c1//Pod/shop/web-1]}, b: {members: [c1//Pod/shop/web-2]}}}
    "#]],
    );
}

#[test]
fn a_service_that_a_rule_leads_to_brings_its_own() {
    let yaml = [
        rule("api", "namespace: shop", "host: api, subsets: [{name: v1, labels: {version: v1}}]"),
        "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, spec: {hosts: [web], http: [{route: [{destination: {host: api, subset: v1, port: {number: 80}}}]}]}}\n".into(),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/api.shop.svc.cluster.local, subset: v1}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0}
              to shop/api.shop.svc.cluster.local: {subsets: {v1: {members: []}}}
            ! info no_effect: DestinationRule shop/api: spec.subsets: needs a waypoint
        "#]],
    );
}

#[test]
fn tls_to_endpoints_is_told_with_the_roots_of_secrets_and_no_keys() {
    let secrets = "---\n{apiVersion: v1, kind: Secret, metadata: {name: roots, namespace: shop}, data: {ca.crt: Uk9PVFM=, tls.key: S0VZ}}\n\
                   ---\n{apiVersion: v1, kind: Secret, metadata: {name: apart-cacert, namespace: shop}, stringData: {cacert: APART}}\n\
                   ---\n{apiVersion: v1, kind: Secret, metadata: {name: empty, namespace: shop}, type: Opaque}\n\
                   ---\n{apiVersion: v1, kind: Secret, metadata: {name: elsewhere, namespace: bank}, stringData: {ca.crt: OTHERS}}\n";
    let refused = |why: &str| {
        format!(
            "{{refused: {why}}}\n! warning unresolved: DestinationRule shop/web: {why} in shop; requests to web.shop.svc.cluster.local are answered with 503\n"
        )
    };
    let told = |what: &str| format!("{{originate: {what}}}\n");
    // What is told without more is the system's roots and the service's name.
    let bare = || "{}\n".to_owned();
    for (tls, expected) in [
        ("mode: DISABLE", "none\n".to_owned()),
        ("mode: ISTIO_MUTUAL", "none\n".to_owned()),
        ("mode: SIMPLE", bare()),
        ("mode: SIMPLE, caCertificates: system", bare()),
        (
            "mode: SIMPLE, sni: s, subjectAltNames: [a, b], caCertificates: /r",
            told("{roots: {file: /r}, sni: s, subject_alt_names: [a, b]}"),
        ),
        ("mode: SIMPLE, insecureSkipVerify: true", told("{insecure: true}")),
        ("mode: SIMPLE, credentialName: roots", told("{roots: {text: ROOTS}}")),
        ("mode: SIMPLE, credentialName: apart", told("{roots: {text: APART}}")),
        ("mode: SIMPLE, credentialName: empty", refused("Secret empty has no ca.crt")),
        ("mode: SIMPLE, credentialName: gone", refused("Secret gone is not known")),
        ("mode: SIMPLE, credentialName: elsewhere", refused("Secret elsewhere is not known")),
        (
            "mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r",
            told("{client: {chain: /c, key: /k}, roots: {file: /r}}"),
        ),
        (
            "mode: MUTUAL, credentialName: roots",
            refused("Secret roots is not told to waypoints, which have keys in files"),
        ),
    ] {
        let rule = rule("web", "namespace: shop", &format!("host: web, trafficPolicy: {{tls: {{{tls}}}}}"));
        let (index, published) = super::super::built(&[super::WORLD, secrets, &rule].concat());
        let model = published.layer7.values().next().expect("a model");
        let mut said = format!("{}\n", super::brief(&model.destinations.values().next().expect("itself").general.tls));
        let warnings = index.findings().into_iter().filter(|finding| finding.severity == Severity::Warning);
        warnings.for_each(|finding| said += &format!("! {finding}\n"));
        assert_eq!(said, expected, "{tls}");
        assert!(!format!("{model:?}").contains("KEY"));
    }
}

#[test]
fn a_secret_that_comes_changes_the_model() {
    let rule = rule("web", "namespace: shop", "host: web, trafficPolicy: {tls: {mode: SIMPLE, credentialName: late}}");
    let (mut index, mut published) = super::super::built(&[super::WORLD, &rule].concat());
    let shown = |published: &super::super::Published| format!("{:?}", published.layer7.values().next());
    assert!(shown(&published).contains("is not known"));
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: late, namespace: shop}, stringData: {ca.crt: ROOTS}}";
    published.take(index.apply(crate::source::manifest("s", secret)));
    assert!(shown(&published).contains("ROOTS"));
    assert!(index.findings().is_empty(), "{:?}", index.findings());
}
