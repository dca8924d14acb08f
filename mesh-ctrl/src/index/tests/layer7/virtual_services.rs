use expect_test::expect;

use super::check_models;

/// A VirtualService for `web` with these rules.
fn rules(http: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: web, namespace: shop}}, spec: {{hosts: [web], http: {http}}}}}\n"
    )
}

#[test]
fn a_service_without_rules_has_a_model_all_the_same() {
    check_models(
        "",
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
    "#]],
    );
}

#[test]
fn every_condition_of_a_match_block_is_taken() {
    check_models(
        &rules(
            "[{name: all, match: [{uri: {exact: /a}, scheme: {exact: https}, method: {regex: GET|PUT}, authority: {prefix: web}, \
             headers: {X-One: {exact: '1'}, x-two: {}}, withoutHeaders: {x-three: {prefix: t}}, queryParams: {q: {exact: ''}}, \
             ignoreUriCase: true, port: 80}, {uri: {prefix: /b}}, {uri: {regex: '/c.*'}}, {port: 81}, {gateways: [other]}, \
             {gateways: [mesh], sourceLabels: {app: client}}, {sourceNamespace: bank}], route: [{destination: {host: web}}]}, \
             {match: [{port: 81}], route: [{destination: {host: web}}]}]",
        ),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {authority: {prefix: web}, headers: [{name: x-one, value: {exact: 1}}, {name: x-two, value: present}, {inverted: true, name: x-three, value: {prefix: t}}], method: {regex: GET|PUT}, path: {ignore_case: true, kind: exact, value: /a}, query: [{name: q, value: {exact: }}], scheme: {exact: https}} -> 0
                if {path: {kind: prefix, value: /b}} -> 0
                if {path: {kind: regex, value: /c.*}} -> 0
                if {source: {workloads: [c1//Pod/bank/client]}} -> 0
                if {source: {namespaces: [bank]}} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#all}
        "#]],
    );
}

#[test]
fn destinations_are_resolved_and_what_is_missing_is_answered_with_503() {
    check_models(
        &rules(
            "[{route: [{destination: {host: web}, weight: 1, headers: {request: {set: {X-A: a}, remove: [X-B]}}}, \
             {destination: {host: api, port: {number: 81}}, weight: 3}, \
             {destination: {host: nowhere}, weight: 1}, {destination: {host: web, subset: v9}, weight: 1}, \
             {destination: {host: web.shop.svc.cluster.local, port: {number: 9}}, weight: 1}]}, \
             {route: [{destination: {host: api}}]}]",
        ),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {} -> 0
                if {} -> 1
                0: {action: {forward: {backends: [{request_headers: {remove: [x-b], set: [[x-a, a]]}, to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}, {to: {service: {port: 81, service: shop/api.shop.svc.cluster.local}}, weight: 3}, {to: {missing: {status: 503, why: there is no service nowhere.shop.svc.cluster.local}}, weight: 1}, {to: {missing: {status: 503, why: web.shop.svc.cluster.local has no subset v9}}, weight: 1}, {to: {missing: {status: 503, why: web.shop.svc.cluster.local has no port 9}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0}
                1: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/api.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#1}
            ! warning unresolved: VirtualService shop/web: spec.http[0].route[2].destination.host: there is no service nowhere.shop.svc.cluster.local; its share is answered with 503
            ! warning unresolved: VirtualService shop/web: spec.http[0].route[3].destination.subset: web.shop.svc.cluster.local has no subset v9; its share is answered with 503
            ! warning unresolved: VirtualService shop/web: spec.http[0].route[4].destination.port: web.shop.svc.cluster.local has no port 9; its share is answered with 503
        "#]],
    );
}

#[test]
fn whatever_a_rule_does_is_taken() {
    check_models(
        &rules(
            "[{match: [{uri: {prefix: /r}}], redirect: {uri: /x, authority: h, redirectCode: 308}}, \
             {match: [{uri: {prefix: /s}}], redirect: {scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}}, \
             {match: [{uri: {prefix: /d}}], directResponse: {status: 418, body: {bytes: aGk}}}, \
             {match: [{uri: {prefix: /e}}], directResponse: {status: 503, body: {string: no}}}, \
             {match: [{uri: {prefix: /w}}], rewrite: {uri: /v, authority: other}, route: [{destination: {host: web}}]}, \
             {match: [{uri: {prefix: /x}}], rewrite: {uriRegexRewrite: {match: 'a+', rewrite: b}}, route: [{destination: {host: web}}]}, \
             {timeout: 2s, fault: {delay: {fixedDelay: 1s, percentage: {value: 0.5}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, \
              mirrors: [{destination: {host: api, port: {number: 80}}, percentage: {value: 10}}, {destination: {host: web}, percentage: {value: 0}}], \
              corsPolicy: {allowOrigins: [{exact: '*'}, {regex: 'https://.*'}], allowMethods: [GET], maxAge: 60s, allowCredentials: true}, \
              headers: {response: {add: {x-y: z}}}, route: [{destination: {host: web}}]}]",
        ),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {path: {kind: prefix, value: /r}} -> 0
                if {path: {kind: prefix, value: /s}} -> 1
                if {path: {kind: prefix, value: /d}} -> 2
                if {path: {kind: prefix, value: /e}} -> 3
                if {path: {kind: prefix, value: /w}} -> 4
                if {path: {kind: prefix, value: /x}} -> 5
                if {} -> 6
                0: {action: {redirect: {authority: h, path: {full: /x}, port: keep, status: 308}}, origin: VirtualService/shop/web#0}
                1: {action: {redirect: {port: keep, scheme: https, status: 301}}, origin: VirtualService/shop/web#1}
                2: {action: {respond: {body: [104, 105], status: 418}}, origin: VirtualService/shop/web#2}
                3: {action: {respond: {body: [110, 111], status: 503}}, origin: VirtualService/shop/web#3}
                4: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503, rewrite: {authority: other, path: {prefix: /v}}}}, origin: VirtualService/shop/web#4}
                5: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503, rewrite: {path: {regex: {pattern: a+, substitution: b}}}}}, origin: VirtualService/shop/web#5}
                6: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, cors: {credentials: true, forward_unmatched: true, max_age: 60s, methods: [GET], origins: [present, {regex: https://.*}]}, fault: {abort: {share: 1000000, with: {grpc: 14}}, delay: {share: 5000, time: 1s}}, mirrors: [{share: 100000, to: {service: {port: 80, service: shop/api.shop.svc.cluster.local}}}], origin: VirtualService/shop/web#6, response_headers: {add: [[x-y, z]]}, timeout: 2s}
            ! info no_effect: VirtualService shop/web: spec.http[1].redirect.derivePort: the port that was asked for stays
        "#]],
    );
}

#[test]
fn a_fault_without_a_percentage_meets_nobody_and_an_old_mirror_percent_counts() {
    check_models(
        &rules(
            "[{fault: {delay: {fixedDelay: 1s}, abort: {httpStatus: 500}}, mirror: {host: api, port: {number: 80}}, mirrorPercent: 5, \
             corsPolicy: {allowOrigin: ['*'], unmatchedPreflights: IGNORE}, route: [{destination: {host: web}}]}]",
        ),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, cors: {origins: [present]}, mirrors: [{share: 50000, to: {service: {port: 80, service: shop/api.shop.svc.cluster.local}}}], origin: VirtualService/shop/web#0}
            ! warning no_effect: VirtualService shop/web: spec.http[0].fault.abort: without a percentage no request meets it
            ! warning no_effect: VirtualService shop/web: spec.http[0].fault.delay: without a percentage no request meets it
        "#]],
    );
}

#[test]
fn conditions_for_retries_are_names_and_numbers() {
    for (retries, expect) in [
        (
            "{attempts: 0}",
            expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0, retries: {attempts: 0}}
        "#]],
        ),
        (
            "{attempts: 5}",
            expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0, retries: {attempts: 5}}
        "#]],
        ),
        (
            "{attempts: 3, perTryTimeout: 2s, retryOn: '5xx,418,429,reset,connect-failure,unavailable', retryIgnorePreviousHosts: false, backoff: 50ms}",
            expect![[r#"
                shop/wp/shop/web.shop.svc.cluster.local
                  80 http
                    if {} -> 0
                    0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0, retries: {attempts: 3, backoff: 50ms, on: {any_5xx: true, connect_failure: true, grpc: [14], reset: true, statuses: [418, 429]}, per_try_timeout: 2s}}
            "#]],
        ),
        (
            "{attempts: 1, retryOn: 'gateway-error,retriable-4xx,envoy-ratelimited'}",
            expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0, retries: {attempts: 1, on: {gateway_error: true, retriable_4xx: true}}}
            ! info no_effect: VirtualService shop/web: spec.http[0].retries.retryOn: envoy-ratelimited is no condition here
        "#]],
        ),
    ] {
        check_models(&rules(&format!("[{{retries: {retries}, route: [{{destination: {{host: web}}}}]}}]")), expect);
    }
}

#[test]
fn several_for_one_host_stand_one_after_another_the_older_first() {
    let one = |name: &str, time: &str, host: &str, uri: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-0{time}-01T00:00:00Z'}}, \
             spec: {{hosts: ['{host}'], http: [{{match: [{{uri: {{prefix: {uri}}}}}], route: [{{destination: {{host: web}}}}]}}]}}}}\n"
        )
    };
    let yaml = [
        one("young", "3", "web", "/young"),
        one("old", "1", "web.shop.svc.cluster.local", "/old"),
        one("wild", "2", "*.shop.svc.cluster.local", "/wild"),
        one("other", "1", "api", "/other"),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: prefix, value: /old}} -> 0
            if {path: {kind: prefix, value: /wild}} -> 1
            if {path: {kind: prefix, value: /young}} -> 2
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/old#0}
            1: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/wild#0}
            2: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/young#0}
        ! warning no_effect: VirtualService shop/other: spec.hosts[0]: no waypoint serves api.shop.svc.cluster.local; the rules are not in force for it
    "#]],
    );
}

#[test]
fn rules_of_a_clients_namespace_stand_in_front_for_its_clients() {
    let consumer = "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: mine, namespace: bank}, spec: {hosts: [web.shop.svc.cluster.local], \
                    http: [{match: [{uri: {prefix: /bank}}, {sourceNamespace: other}], route: [{destination: {host: web.shop.svc.cluster.local}}]}]}}\n";
    check_models(
        consumer,
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: prefix, value: /bank}, source: {namespaces: [bank]}} -> 0
            if {source: {namespaces: [bank]}} -> 1
            if {} -> 2
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/bank/mine#0}
            1: {action: {respond: {status: 404}}, origin: none}
            2: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: default}
    "#]],
    );
    check_models(
        &[&rules("[{route: [{destination: {host: web}}]}]"), consumer].concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: prefix, value: /bank}, source: {namespaces: [bank]}} -> 0
            if {source: {namespaces: [bank]}} -> 1
            if {} -> 2
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/bank/mine#0}
            1: {action: {respond: {status: 404}}, origin: none}
            2: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0}
    "#]],
    );
    // Exported to nobody else by its own namespace, and for gateways alone.
    let export = |to: &str| {
        rules("[{route: [{destination: {host: web}}]}]").replace("hosts: [web]", &format!("hosts: [web], {to}"))
    };
    check_models(
        &export("exportTo: [bank, .]"),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {} -> 0
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0}
    "#]],
    );
    check_models(
        &export("exportTo: [bank]"),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {source: {namespaces: [bank]}} -> 0
            if {} -> 1
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0}
            1: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: default}
    "#]],
    );
    check_models(
        &export("gateways: [edge]"),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
        ! info no_effect: VirtualService shop/web: spec.gateways: for gateways alone, and this is a mesh without them
    "#]],
    );
}

#[test]
fn a_delegates_rules_hold_under_the_conditions_of_the_rule_that_leads_there() {
    let delegate = "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: d, namespace: bank}, spec: {http: [\
                    {match: [{uri: {prefix: /a/b}}, {method: {exact: GET}}], route: [{destination: {host: web.shop.svc.cluster.local}}]}, \
                    {match: [{uri: {prefix: /z}}], route: [{destination: {host: web.shop.svc.cluster.local}}]}]}}\n";
    let root = rules(
        "[{match: [{uri: {prefix: /a}}], timeout: 3s, delegate: {name: d, namespace: bank}}, {delegate: {name: gone}}]",
    );
    check_models(
        &[&root, delegate].concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: prefix, value: /a/b}} -> 0
            if {method: {exact: GET}, path: {kind: prefix, value: /a}} -> 0
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/bank/d#0, timeout: 3s}
        ! warning unresolved: VirtualService bank/d: spec.http[1].match: no request meets both its conditions and those of the rule that delegates to it
        ! warning unresolved: VirtualService shop/web: spec.http[1].delegate: there is no VirtualService shop/gone without hosts
    "#]],
    );
}

#[test]
fn connections_have_rules_of_their_own() {
    let yaml = r"
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{name: tcp-db, port: 5432}, {name: tls-db, port: 5433}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: db, namespace: shop}, spec: {hosts: [db.shop.svc.cluster.local], tcp: [
  {match: [{port: 5432, sourceLabels: {app: client}}, {port: 5432, sourceNamespace: bank}, {destinationSubnets: [10.1.0.0/16]}], route: [{destination: {host: api, port: {number: 80}}}]},
  {match: [{destinationSubnets: [10.96.0.0/16]}], route: [{destination: {host: db}, weight: 1}, {destination: {host: web}, weight: 2}]}],
  tls: [{match: [{port: 5433, sniHosts: [db.shop.svc.cluster.local]}], route: [{destination: {host: web, port: {number: 80}}}]}]}}
";
    check_models(
        yaml,
        expect![[r#"
            shop/wp/shop/db.shop.svc.cluster.local
              5432 tcp
                tcp {backends: [[1, {service: {port: 80, service: shop/api.shop.svc.cluster.local}}]], origin: VirtualService/shop/db#0, sources: [{workloads: [c1//Pod/bank/client]}, {namespaces: [bank]}]}
                tcp {backends: [[1, {service: {port: 5432, service: shop/db.shop.svc.cluster.local}}], [2, {service: {port: 80, service: shop/web.shop.svc.cluster.local}}]], origin: VirtualService/shop/db#1}
              5433 tls
                tcp {backends: [[1, {service: {port: 5433, service: shop/db.shop.svc.cluster.local}}], [2, {service: {port: 80, service: shop/web.shop.svc.cluster.local}}]], origin: VirtualService/shop/db#1}
                tls {sni: [db.shop.svc.cluster.local], then: {backends: [[1, {service: {port: 80, service: shop/web.shop.svc.cluster.local}}]], origin: VirtualService/shop/db#0}}
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
        "#]],
    );
}
