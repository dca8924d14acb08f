use expect_test::expect;

use super::{check_models, models};

fn policy(name: &str, age: u32, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: BackendTrafficPolicy, metadata: {{name: {name}, namespace: shop, \
         creationTimestamp: '2026-01-0{age}T00:00:00Z'}}, spec: {{{spec}}}}}\n"
    )
}

fn limited(requests: u32) -> String {
    format!("rateLimit: {{type: Local, local: {{rules: [{{limit: {{requests: {requests}, unit: Minute}}}}]}}}}")
}

const WEB: &str = "targetRefs: [{kind: Service, name: web}]";
const GATE: &str = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: wp}";

#[test]
fn a_limit_is_told_with_all_that_it_says() {
    let rules = "rateLimit: {local: {rules: [{clientSelectors: [{headers: [{name: ':identity', type: Distinct}, {name: x, value: y}]}, \
                 {sourceCIDR: {value: 10.0.0.0/8, type: Distinct}, path: {value: /a}}], limit: {requests: 3, unit: Hour}, shadowMode: true}, \
                 {limit: {requests: 0, unit: Month}, shared: true, cost: {request: {from: Number, number: 2}}}]}, global: {rules: []}}, \
                 retry: {numRetries: 2}";
    check_models(
        &policy("p", 1, &format!("{WEB}, {rules}")),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          limit {by: [identity, source_ip], dry_run: true, name: shop/p, per: 3600s, requests: 3, rules: [{to: [{paths: [{text: {exact: /a}}, {text: {prefix: /a/}}]}], when: [{key: {request_header: x}, values: [{exact: y}]}, {key: source_ip, values: [{exact: 10.0.0.0/8}]}]}]}
          limit {name: shop/p, per: 2592000s, requests: 0, rules: []}
        ! warning no_effect: BackendTrafficPolicy shop/p: spec.rateLimit.global: each waypoint counts for itself
        ! warning no_effect: BackendTrafficPolicy shop/p: spec.rateLimit.local.rules[1].cost: each request counts as one
        ! warning no_effect: BackendTrafficPolicy shop/p: spec.rateLimit.local.rules[1].shared: each service has buckets of its own
        ! warning no_effect: BackendTrafficPolicy shop/p: spec.retry: waypoints carry out rateLimit.local alone
    "#]],
    );
}

#[test]
fn the_nearest_holds_and_of_two_the_older() {
    let yaml = [
        policy("wide", 1, &format!("{GATE}, {}", limited(1))),
        policy("second", 3, &format!("{WEB}, {}", limited(2))),
        policy("first", 2, &format!("{WEB}, {}", limited(3))),
        policy("empty", 1, &format!("{WEB}, retry: {{}}")),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          limit {name: shop/first, per: 60s, requests: 3, rules: []}
        ! warning no_effect: BackendTrafficPolicy shop/empty: spec.retry: waypoints carry out rateLimit.local alone
        ! warning conflict: BackendTrafficPolicy shop/second: BackendTrafficPolicy shop/first is for the same, and holds
    "#]],
    );
}

#[test]
fn what_is_attached_to_nothing_is_told() {
    let yaml = [
        policy("wide", 1, &format!("{GATE}, {}", limited(1)).replace("name: wp", "name: wp, sectionName: mesh")),
        policy(
            "route",
            1,
            &format!("targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}}], {}", limited(1)),
        ),
        policy("gone", 1, &format!("targetRefs: [{{kind: Service, name: gone}}], {}", limited(1))),
        policy("api", 1, &format!("targetRefs: [{{kind: Service, name: api}}], {}", limited(1))),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
        ! warning no_effect: BackendTrafficPolicy shop/api: spec.targetRefs[0]: no waypoint serves Service api; the policy is not in force for it
        ! warning no_effect: BackendTrafficPolicy shop/route: spec.targetRefs[0]: policies are not attached to a HTTPRoute
        ! warning no_effect: BackendTrafficPolicy shop/wide: spec.targetRefs[0].sectionName: a limit is for a whole service; it is not in force for a part
        ! warning unresolved: BackendTrafficPolicy shop/gone: spec.targetRefs[0]: there is no Service gone; the policy is not in force for it
    "#]],
    );
}

#[test]
fn what_cannot_be_read_is_refused() {
    let base = policy("p", 1, &format!("{WEB}, {}", limited(1)));
    for (from, to, expected) in [
        ("unit: Minute", "unit: Week", "rules[0].limit.unit: unknown variant `Week`"),
        ("requests: 1", "requests: -1", "rules[0].limit.requests: invalid value"),
        ("{limit:", "{clientSelector: [], limit:", "rules[0].clientSelector: unknown field"),
        ("limit: {", "clientSelectors: [{}], limit: {", "rules[0].clientSelectors[0]: one of headers"),
        (
            "creationTimestamp:",
            "annotations: {weft.io/ratelimit-headers: maybe}, creationTimestamp:",
            "\"maybe\" is none of",
        ),
    ] {
        let text = base.replacen(from, to, 1);
        assert_ne!(text, base);
        let said = models(&[super::WORLD, &text].concat());
        assert!(said.contains("error refused") && said.contains(expected), "{expected}: {said}");
    }
}
