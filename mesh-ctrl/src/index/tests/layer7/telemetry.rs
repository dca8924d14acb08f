use expect_test::expect;

use super::{WORLD, check_models, models};

#[test]
fn tokens_are_looked_at_where_a_waypoint_is() {
    let one = |name: &str, namespace: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
        )
    };
    let rules = "jwtRules: [{issuer: i, audiences: [a], jwksUri: 'https://k.example/keys', fromHeaders: [{name: X-Token, prefix: 'T '}], fromParams: [t], fromCookies: [c], \
                 outputPayloadToHeader: X-P, outputClaimToHeaders: [{header: X-C, claim: a.b}], forwardOriginalToken: true, timeout: 2s, spaceDelimitedClaims: [roles]}, {issuer: j}]";
    let yaml = [
        one("target", "shop", &format!("targetRefs: [{{kind: Service, name: web}}], {rules}")),
        one("selected", "shop", "selector: {matchLabels: {app: web}}, jwtRules: [{issuer: s}]"),
        one("others", "shop", "selector: {matchLabels: {app: api}}, jwtRules: [{issuer: o}]"),
        one("mesh", "istio-system", "jwtRules: [{issuer: m}]"),
        one("bank", "bank", "jwtRules: [{issuer: b}]"),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          jwt {issuer: m, keys: discover, origin: istio-system/mesh}
          jwt {issuer: s, keys: discover, origin: shop/selected}
          jwt {audiences: [a], claim_headers: [[x-c, [a, b]]], cookies: [c], forward: true, headers: [{name: x-token, prefix: T }], issuer: i, keys: {uri: https://k.example/keys}, origin: shop/target, params: [t], payload_header: x-p, space_delimited: [roles], timeout_seconds: 2}
          jwt {issuer: j, keys: discover, origin: shop/target}
        ! warning no_effect: RequestAuthentication bank/bank: no waypoint serves what it is for; tokens are not looked at
        ! warning no_effect: RequestAuthentication shop/others: no waypoint serves what it is for; tokens are not looked at
    "#]],
    );
}

#[test]
fn telemetry_that_is_nearer_says_more() {
    let one = |name: &str, namespace: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
        )
    };
    let yaml = [
        one(
            "mesh",
            "istio-system",
            "accessLogging: [{disabled: true}], tracing: [{randomSamplingPercentage: 10, customTags: {a: {literal: {value: x}}, f: {formatter: {value: y}}}}]",
        ),
        one(
            "shop",
            "shop",
            "tracing: [{randomSamplingPercentage: 50}], metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {method: {value: request.method}, source_app: {operation: REMOVE}}}, {match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: true}, {match: {customMetric: istio_x}, disabled: true}]}]",
        ),
        one(
            "web",
            "shop",
            "targetRefs: [{kind: Service, name: web}], accessLogging: [{filter: {expression: 'response.code >= 400'}}]",
        ),
        one(
            "wp",
            "shop",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], tracing: [{disableSpanReporting: true, customTags: {h: {header: {name: X-H, defaultValue: d}}}}]",
        ),
        one(
            "pods",
            "shop",
            "selector: {matchLabels: {app: web}}, accessLogging: [{providers: [{name: envoy}, {name: als}], disabled: true}], metrics: [{providers: [{name: prometheus}, {name: sd}]}]",
        ),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              telemetry {access_log: {enabled: true, filter: response.code >= 400}, metrics: {overrides: {requests_total: {labels: {method: request.method}}, x: {disabled: true}}}, tracing: {disabled: true, sampling: 500000, tags: {h: {header: {default: d, name: x-h}}}}}
            ! info no_effect: Telemetry istio-system/mesh: spec.tracing[0].customTags.f: a tag of this form is left out
            ! info no_effect: Telemetry shop/pods: spec.accessLogging[0].providers[1]: is not told; what stands beside it holds all the same
            ! info no_effect: Telemetry shop/pods: spec.metrics[0].providers[1]: is not told; what stands beside it holds all the same
            ! info no_effect: Telemetry shop/pods: spec.selector: waypoints are told by targetRefs; agents read no Telemetry
        "#]],
    );
}

#[test]
fn what_is_said_of_all_metrics_later_goes_before_what_was_said_of_one() {
    let one = |name: &str, namespace: &str, overrides: &str| {
        format!(
            "---\n{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{metrics: [{{overrides: [{overrides}]}}]}}}}\n"
        )
    };
    let yaml = [
        one("mesh", "istio-system", "{match: {metric: REQUEST_COUNT}, disabled: false, tagOverrides: {a: {value: b}}}"),
        one("shop", "shop", "{disabled: true, tagOverrides: {a: {value: c}}}, {match: {metric: REQUEST_SIZE}}"),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          telemetry {metrics: {overrides: {ALL_METRICS: {disabled: true, labels: {a: c}}, requests_total: {disabled: true, labels: {a: c}}}}}
    "#]],
    );
}

#[test]
fn a_waypoint_for_workloads_has_a_model_without_ports() {
    let gateway = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: all, namespace: shop, labels: {istio.io/waypoint-for: all}}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n\
                   ---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}\n";
    check_models(
        gateway,
        expect![[r#"
        shop/all/*
          policy {action: allow, name: shop/p, rules: [{to: [{methods: [{exact: GET}]}]}]}
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          policy {action: allow, name: shop/p, rules: [{to: [{methods: [{exact: GET}]}]}]}
    "#]],
    );
}

#[test]
fn what_is_no_expression_is_reported() {
    let telemetry = "---\n{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: t, namespace: shop}, spec: {accessLogging: [{filter: {expression: 'response.code >= 400'}}, {filter: {expression: 'response.code >='}}], \
                     metrics: [{overrides: [{disabled: false}, {tagOverrides: {a: {value: request.method}, b: {value: 'f('}, c: {operation: REMOVE}}}]}]}}\n";
    let said = models(&[WORLD, telemetry].concat());
    let found: Vec<_> = said.lines().filter(|line| line.starts_with('!')).collect();
    let [filter, label] = &found[..] else { panic!("{said}") };
    for (line, start) in [
        (filter, "spec.accessLogging[1].filter.expression: is not taken, and all is logged: "),
        (label, "spec.metrics[0].overrides[1].tagOverrides.b.value: is not taken, and the label stays what it was: "),
    ] {
        let why = line.strip_prefix(&format!("! warning no_effect: Telemetry shop/t: {start}"));
        assert!(why.is_some_and(|why| !why.is_empty()), "{line}");
    }
}
