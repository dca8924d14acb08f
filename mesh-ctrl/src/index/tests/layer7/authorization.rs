use expect_test::expect;

use super::super::check;
use super::{WORLD, check_models};

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

#[test]
fn policies_attached_to_a_service_its_waypoint_or_the_class_are_in_force() {
    let yaml = [
        policy(
            "a",
            "shop",
            "targetRefs: [{kind: Service, name: web}], rules: [{to: [{operation: {methods: [GET], paths: ['/a/*', '/b/{*}', '*.html', '*'], hosts: ['*.Example']}}]}]",
        ),
        policy(
            "b",
            "shop",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]",
        ),
        policy(
            "c",
            "istio-system",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}], action: AUDIT, rules: [{}]",
        ),
        policy("d", "bank", "targetRefs: [{kind: Service, name: web}], rules: [{}]"),
        policy("e", "shop", "targetRefs: [{kind: Service, name: api}]"),
        policy("f", "shop", "rules: [{from: [{source: {namespaces: [dev]}}]}]"),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              policy {action: audit, name: istio-system/c, rules: [{}]}
              policy {action: allow, name: shop/a, rules: [{to: [{hosts: [{suffix: .example}], methods: [{exact: GET}], paths: [{text: {prefix: /a/}}, {template: /b/{*}}, {text: {suffix: .html}}, {text: present}]}]}]}
              policy {action: deny, name: shop/b, rules: [{from: [{namespaces: [{exact: dev}]}]}]}
              policy {action: allow, name: shop/f, rules: [{from: [{namespaces: [{exact: dev}]}]}]}
            ! warning no_effect: AuthorizationPolicy shop/e: spec.targetRefs[0]: no waypoint serves Service api; the policy is not in force for it
            ! warning unresolved: AuthorizationPolicy bank/d: spec.targetRefs[0]: there is no Service web; the policy is not in force for it
        "#]],
    );
}

#[test]
fn every_field_is_taken() {
    let rules = "rules: [{from: [{source: {principals: ['*/sa/x', 'td/ns/a/*'], notPrincipals: ['*'], requestPrincipals: ['iss/sub'], notRequestPrincipals: [x], namespaces: [a], notNamespaces: [b], \
                 ipBlocks: [10.0.0.1], notIpBlocks: [10.0.0.0/8], remoteIpBlocks: [1.2.3.0/24], notRemoteIpBlocks: [1.2.3.4]}}, {source: {serviceAccounts: [x, o/y], notServiceAccounts: [z]}}], \
                 to: [{operation: {ports: ['80'], notPorts: ['81'], notMethods: [PUT], notPaths: [/x], notHosts: [h]}}], \
                 when: [{key: 'request.headers[X-A]', values: [b, 'c*']}, {key: 'request.auth.claims[a][b]', notValues: [c]}, {key: request.auth.audiences, values: [w]}, {key: source.ip, values: [10.0.0.0/8]}, \
                 {key: source.serviceAccount, values: [s]}, {key: destination.port, values: ['80']}, {key: connection.sni, values: ['*.x']}]}]";
    check_models(
        &policy("a", "shop", &format!("targetRefs: [{{kind: Service, name: web}}], {rules}")),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              policy {action: allow, name: shop/a, rules: [{from: [{ip_blocks: [10.0.0.1/32], namespaces: [{exact: a}], not_ip_blocks: [10.0.0.0/8], not_namespaces: [{exact: b}], not_principals: [present], not_remote_ip_blocks: [1.2.3.4/32], not_request_principals: [{exact: x}], principals: [{suffix: /sa/x}, {prefix: td/ns/a/}], remote_ip_blocks: [1.2.3.0/24], request_principals: [{exact: iss/sub}]}, {not_service_accounts: [[shop, z]], service_accounts: [[shop, x], [o, y]]}], to: [{not_hosts: [{exact: h}], not_methods: [{exact: PUT}], not_paths: [{text: {exact: /x}}], not_ports: [81], ports: [80]}], when: [{key: {request_header: x-a}, values: [{exact: b}, {prefix: c}]}, {key: {claim: [a, b]}, not_values: [{exact: c}]}, {key: audiences, values: [{exact: w}]}, {key: source_ip, values: [{exact: 10.0.0.0/8}]}, {key: source_service_account, values: [{exact: shop/s}]}, {key: destination_port, values: [{exact: 80}]}, {key: sni, values: [{suffix: .x}]}]}]}
        "#]],
    );
}

#[test]
fn what_cannot_be_asked_fails_closed() {
    let target = "targetRefs: [{kind: Service, name: web}]";
    let yaml = [
        policy(
            "custom",
            "shop",
            &format!(
                "{target}, action: CUSTOM, provider: {{name: opa}}, rules: [{{to: [{{operation: {{paths: [/x]}}}}]}}]"
            ),
        ),
        policy(
            "allow",
            "shop",
            &format!("{target}, rules: [{{when: [{{key: 'experimental.envoy.filters.x[z]', values: [a]}}]}}]"),
        ),
        policy(
            "deny",
            "shop",
            &format!(
                "{target}, action: DENY, rules: [{{to: [{{operation: {{methods: [PUT]}}}}], when: [{{key: 'experimental.envoy.filters.x[z]', values: [a]}}]}}]"
            ),
        ),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              policy {action: allow, name: shop/allow, rules: []}
              policy {action: deny, name: shop/custom, rules: [{to: [{paths: [{text: {exact: /x}}]}]}]}
              policy {action: deny, name: shop/deny, rules: [{to: [{methods: [{exact: PUT}]}]}]}
            ! warning fails_closed: AuthorizationPolicy shop/allow: spec.rules[0].when[0].key: experimental.envoy.filters.x[z] is not known; ALLOW and AUDIT drop the rule, DENY denies without regard to it
            ! warning fails_closed: AuthorizationPolicy shop/custom: spec.provider.name: the mesh's configuration has no provider "opa"; what it would be asked about is denied
            ! warning fails_closed: AuthorizationPolicy shop/deny: spec.rules[0].when[0].key: experimental.envoy.filters.x[z] is not known; ALLOW and AUDIT drop the rule, DENY denies without regard to it
        "#]],
    );
}

/// The waypoint asks the request; the workload's agent lets the waypoint pass and fails closed for everybody else.
#[test]
fn a_policy_for_workloads_that_asks_for_requests_is_carried_out_at_their_waypoint() {
    let spec = |labels: &str| {
        format!(
            "selector: {{matchLabels: {{{labels}}}}}, rules: [{{from: [{{source: {{namespaces: [bank]}}}}], to: [{{operation: {{methods: [GET]}}}}]}}]"
        )
    };
    check(
        &[WORLD, &policy("a", "shop", &spec("version: v1"))].concat(),
        expect![[r#"
        c1//Pod/bank/client ip=10.0.0.3 unhealthy
        c1//Pod/shop/web-1 ip=10.0.0.1 canonical=web@v1 policies=shop/a unhealthy
          in shop/web.shop.svc.cluster.local 80->80
        c1//Pod/shop/web-2 ip=10.0.0.2 canonical=web@v2 unhealthy
          in shop/web.shop.svc.cluster.local 80->80
        shop/api.shop.svc.cluster.local [n1/10.96.0.2] 80->80(app 1) 81->81(app 3)
        shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80(app 1) waypoint=shop/wp.shop.svc.cluster.local:15008
        shop/a selector ALLOW
          if {principal=cluster.local/ns/shop/sa/wp}
    "#]],
    );
    check_models(
        &policy("a", "shop", &spec("version: v1")),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          policy {action: allow, name: shop/a, rules: [{from: [{namespaces: [{exact: bank}]}], to: [{methods: [{exact: GET}]}]}]}
    "#]],
    );
    // None of `web`'s pods: the agents alone, as without a waypoint.
    check_models(
        &policy("a", "shop", &spec("app: api")),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
        ! warning fails_closed: AuthorizationPolicy shop/a: spec.rules[0].to[0].operation.methods: not known at L4; the rule allows nothing
    "#]],
    );
    let deny = "action: DENY, rules: [{from: [{source: {namespaces: [bank]}}], to: [{operation: {paths: [/admin]}}]}]";
    check_models(
        &policy("a", "istio-system", deny),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          policy {action: deny, name: istio-system/a, rules: [{from: [{namespaces: [{exact: bank}]}], to: [{paths: [{text: {exact: /admin}}]}]}]}
    "#]],
    );
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}, spec: {serviceAccountName: waypoint}, status: {podIP: 10.0.0.9}}\n";
    check(
        &[WORLD, &policy("a", "shop", deny), pod].concat(),
        expect![[r#"
        c1//Pod/bank/client ip=10.0.0.3 unhealthy
        c1//Pod/shop/web-1 ip=10.0.0.1 canonical=web@v1 unhealthy
          in shop/web.shop.svc.cluster.local 80->80
        c1//Pod/shop/web-2 ip=10.0.0.2 canonical=web@v2 unhealthy
          in shop/web.shop.svc.cluster.local 80->80
        c1//Pod/shop/wp-1 ip=10.0.0.9 hbone sa=waypoint unhealthy native-tunnel
        shop/api.shop.svc.cluster.local [n1/10.96.0.2] 80->80(app 1) 81->81(app 3)
        shop/web.shop.svc.cluster.local [n1/10.96.0.1] 80->80(app 1) waypoint=shop/wp.shop.svc.cluster.local:15008
        shop/a namespace DENY
          if {ns=bank} AND {not-principal=cluster.local/ns/shop/sa/waypoint}
    "#]],
    );
}

#[test]
fn ports_of_workloads_are_those_of_the_service_that_lead_to_them() {
    let site = "---\n{apiVersion: v1, kind: Service, metadata: {name: site, namespace: shop}, spec: {clusterIP: 10.96.0.9, selector: {app: web}, \
                ports: [{name: http, port: 81, targetPort: 8080}, {name: http-b, port: 82, targetPort: named}]}}\n";
    let yaml = [
        site.to_owned(),
        policy(
            "a",
            "shop",
            "action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}, {to: [{operation: {ports: ['9']}}]}]",
        ),
        policy("b", "shop", "action: DENY, rules: [{to: [{operation: {notPorts: ['8080']}}]}]"),
        policy("c", "shop", "rules: [{when: [{key: destination.port, values: ['8080'], notValues: ['9']}]}]"),
        policy("d", "shop", "action: DENY, rules: [{when: [{key: destination.ip, values: [10.0.0.1]}]}]"),
        policy("e", "shop", "rules: [{when: [{key: destination.ip, values: [10.0.0.1]}]}]"),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/site.shop.svc.cluster.local
          81 http
          82 http
          policy {action: deny, name: shop/a, rules: [{to: [{ports: [81, 82]}]}, {to: [{ports: [82]}]}]}
          policy {action: deny, name: shop/b, rules: [{to: [{not_ports: [81]}]}]}
          policy {action: allow, name: shop/c, rules: [{when: [{key: destination_port, not_values: [{exact: 82}], values: [{exact: 81}]}]}]}
          policy {action: deny, name: shop/d, rules: [{}]}
          policy {action: allow, name: shop/e, rules: []}
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
          policy {action: deny, name: shop/a, rules: [{to: [{ports: [0]}]}, {to: [{ports: [0]}]}]}
          policy {action: deny, name: shop/b, rules: [{to: [{}]}]}
          policy {action: allow, name: shop/c, rules: [{when: [{key: destination_port, values: [{exact: 0}]}]}]}
          policy {action: deny, name: shop/d, rules: [{}]}
          policy {action: allow, name: shop/e, rules: []}
    "#]],
    );
}
