use expect_test::expect;

use super::{WORLD, check_models, models};

fn route(kind: &str, name: &str, rest: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, {rest}}}, spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: shop}}], rules: {rules}}}}}\n"
    )
}

#[test]
fn the_more_specific_condition_comes_first() {
    let yaml = [
        route(
            "HTTPRoute",
            "old",
            "namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'",
            "[{name: rest, backendRefs: [{name: web, port: 80}]}, \
             {matches: [{path: {type: RegularExpression, value: '/r.*'}}], backendRefs: [{name: web, port: 80}]}, \
             {matches: [{path: {value: /v2}}, {path: {value: /v2/long}}, {path: {value: /v2}, method: GET}], backendRefs: [{name: web, port: 80}]}]",
        ),
        route(
            "HTTPRoute",
            "young",
            "namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z'",
            "[{matches: [{path: {type: Exact, value: /e}, headers: [{name: A, value: b}], queryParams: [{name: q, value: 'x+', type: RegularExpression}]}, \
             {path: {value: /v2}, headers: [{name: A, value: b}]}, {path: {value: /v2}}], backendRefs: [{name: api, port: 80, weight: 3}, {name: web, port: 80, weight: 0}]}]",
        ),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {headers: [{name: a, value: {exact: b}}], path: {kind: exact, value: /e}, query: [{name: q, value: {regex: x+}}]} -> 3
            if {path: {kind: elements, value: /v2/long}} -> 2
            if {method: {exact: GET}, path: {kind: elements, value: /v2}} -> 2
            if {headers: [{name: a, value: {exact: b}}], path: {kind: elements, value: /v2}} -> 3
            if {path: {kind: elements, value: /v2}} -> 2
            if {path: {kind: elements, value: /v2}} -> 3
            if {path: {kind: elements, value: /}} -> 0
            if {path: {kind: regex, value: /r.*}} -> 1
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/old#rest}
            1: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/old#1}
            2: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/old#2}
            3: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/api.shop.svc.cluster.local}}, weight: 3}, {to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 0}], otherwise: 500}}, origin: HTTPRoute/shop/young#0}
    "#]],
    );
}

#[test]
fn filters_of_rules_and_backends_are_taken() {
    let rules = "[{name: r, matches: [{path: {value: /r}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]}, \
                 {name: w, matches: [{path: {value: /w}}], timeouts: {request: 1s, backendRequest: 500ms}, filters: [{type: URLRewrite, urlRewrite: {hostname: h.example, path: {type: ReplaceFullPath, replaceFullPath: /y}}}, \
                 {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], remove: [C]}}, \
                 {type: RequestMirror, requestMirror: {backendRef: {name: api, port: 80}, fraction: {numerator: 1, denominator: 3}}}, \
                 {type: CORS, cors: {allowOrigins: ['https://*.example.com'], allowMethods: ['*']}}], \
                 backendRefs: [{name: web, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: D, value: e}]}}]}]}, \
                 {name: x, matches: [{path: {value: /x}}], filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}], backendRefs: [{name: web, port: 80}]}, \
                 {name: none, timeouts: {request: 0s}}]";
    check_models(
        &route("HTTPRoute", "a", "namespace: shop", rules),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: elements, value: /r}} -> 0
            if {path: {kind: elements, value: /w}} -> 1
            if {path: {kind: elements, value: /x}} -> 2
            if {path: {kind: elements, value: /}} -> 3
            0: {action: {redirect: {path: {elements: /x}, port: default, scheme: https, status: 302}}, origin: HTTPRoute/shop/a#r}
            1: {action: {forward: {backends: [{response_headers: {add: [[d, e]]}, to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500, rewrite: {authority: h.example, path: {full: /y}}}}, cors: {max_age: 5s, methods: [*], origins: [{regex: https://.*\.example\.com}]}, mirrors: [{share: 333333, to: {service: {port: 80, service: shop/api.shop.svc.cluster.local}}}], origin: HTTPRoute/shop/a#w, request_headers: {remove: [c], set: [[a, b]]}, retries: {attempts: 2, per_try_timeout: 500ms}, timeout: 1s}
            2: {action: {respond: {status: 500}}, origin: HTTPRoute/shop/a#x}
            3: {action: {forward: {otherwise: 404}}, origin: HTTPRoute/shop/a#none}
        ! warning unresolved: HTTPRoute shop/a: spec.rules[2].filters[0]: no such filter is carried out; what it is for gets 500
    "#]],
    );
}

#[test]
fn a_backend_elsewhere_needs_a_grant_and_what_is_missing_is_answered_with_500() {
    let yaml = [
        &route(
            "HTTPRoute",
            "a",
            "namespace: shop",
            "[{backendRefs: [{name: far, namespace: bank, port: 80}, {name: nowhere, port: 80}, {name: web, port: 9}, {name: b, kind: Bucket, group: s.io}]}]",
        ),
        "---\n{apiVersion: v1, kind: Service, metadata: {name: far, namespace: bank}, spec: {ports: [{port: 80}]}}\n",
        "---\n{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: bank}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service, name: far}]}}\n",
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {path: {kind: elements, value: /}} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: bank/far.bank.svc.cluster.local}}, weight: 1}, {to: {missing: {status: 500, why: there is no Service shop/nowhere}}, weight: 1}, {to: {missing: {status: 500, why: web.shop.svc.cluster.local has no port 9}}, weight: 1}, {to: {missing: {status: 500, why: a backend of kind s.io/Bucket is not known}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/a#0}
            ! warning skipped: HTTPRoute shop/a: spec.rules[0].backendRefs[3]: a backend of kind s.io/Bucket is not known; its share is answered with 500
            ! warning unresolved: HTTPRoute shop/a: spec.rules[0].backendRefs[1]: there is no Service shop/nowhere; its share is answered with 500
            ! warning unresolved: HTTPRoute shop/a: spec.rules[0].backendRefs[2]: web.shop.svc.cluster.local has no port 9; its share is answered with 500
        "#]],
    );
    check_models(
        &yaml[..2].concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {path: {kind: elements, value: /}} -> 0
                0: {action: {forward: {backends: [{to: {missing: {status: 500, why: no ReferenceGrant in bank lets Service far be named}}, weight: 1}, {to: {missing: {status: 500, why: there is no Service shop/nowhere}}, weight: 1}, {to: {missing: {status: 500, why: web.shop.svc.cluster.local has no port 9}}, weight: 1}, {to: {missing: {status: 500, why: a backend of kind s.io/Bucket is not known}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/a#0}
            ! warning skipped: HTTPRoute shop/a: spec.rules[0].backendRefs[3]: a backend of kind s.io/Bucket is not known; its share is answered with 500
            ! warning unresolved: HTTPRoute shop/a: spec.rules[0].backendRefs[1]: there is no Service shop/nowhere; its share is answered with 500
            ! warning unresolved: HTTPRoute shop/a: spec.rules[0].backendRefs[2]: web.shop.svc.cluster.local has no port 9; its share is answered with 500
            ! warning not_granted: HTTPRoute shop/a: spec.rules[0].backendRefs[0]: no ReferenceGrant in bank lets Service far be named; its share is answered with 500
        "#]],
    );
}

#[test]
fn calls_are_paths() {
    let rules = "[{matches: [{method: {service: a.S, method: M}}, {method: {service: a.S}}, {method: {method: M}}, {method: {type: RegularExpression, service: 'a.+'}}, {headers: [{name: X, value: y}]}], backendRefs: [{name: web, port: 80}]}]";
    check_models(
        &route("GRPCRoute", "g", "namespace: shop", rules),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: exact, value: /a.S/M}} -> 0
            if {path: {kind: prefix, value: /a.S/}} -> 0
            if {path: {kind: regex, value: /(?:a.+)/[^/]+}} -> 0
            if {path: {kind: regex, value: /[^/]+/M}} -> 0
            if {headers: [{name: x, value: {exact: y}}]} -> 0
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: GRPCRoute/shop/g#0}
    "#]],
    );
}

#[test]
fn a_route_is_for_a_port_for_the_whole_waypoint_or_for_its_namespaces_clients() {
    let rules = "[{backendRefs: [{name: web, namespace: shop, port: 80}]}]";
    let route = |rest: &str| route("HTTPRoute", "a", rest, rules);
    check_models(
        &route("namespace: shop").replace("name: web, namespace: shop}]", "name: web, port: 81}]"),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
        "#]],
    );
    check_models(
        &route("namespace: shop").replace("group: '', kind: Service, name: web, namespace: shop", "name: wp"),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
                if {path: {kind: elements, value: /}} -> 0
                0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/a#0}
        "#]],
    );
    let grant = "---\n{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: shop}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank}], to: [{group: '', kind: Service}]}}\n";
    check_models(
        &[&route("namespace: bank"), grant].concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: elements, value: /}, source: {namespaces: [bank]}} -> 0
            if {source: {namespaces: [bank]}} -> 1
            if {} -> 2
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/bank/a#0}
            1: {action: {respond: {status: 404}}, origin: none}
            2: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: default}
    "#]],
    );
    // Nobody is there to carry these out.
    check_models(
        &route("namespace: shop").replace("name: web, namespace: shop}]", "name: api}]"),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
        ! warning no_effect: HTTPRoute shop/a: spec.parentRefs[0]: no waypoint serves Service shop/api; the route is not in force for it
    "#]],
    );
    check_models(
        &route("namespace: shop").replace("name: web, namespace: shop}]", "name: gone}]"),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
        ! warning unresolved: HTTPRoute shop/a: spec.parentRefs[0]: there is no Service shop/gone
    "#]],
    );
}

#[test]
fn routes_and_virtual_services_stand_one_after_another() {
    let yaml = [
        route("HTTPRoute", "a", "namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'", "[{matches: [{path: {value: /a}}], backendRefs: [{name: web, port: 80}]}]"),
        "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z'}, spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}}\n".into(),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: elements, value: /a}} -> 0
            if {} -> 1
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/a#0}
            1: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 503}}, origin: VirtualService/shop/web#0}
    "#]],
    );
}

#[test]
fn connections_have_routes_too() {
    let yaml = [
        route("TCPRoute", "t", "namespace: shop", "[{backendRefs: [{name: web, port: 80, weight: 2}, {name: api, port: 80}]}]").replace("kind: Service, name: web", "kind: Service, name: db"),
        route("TLSRoute", "s", "namespace: shop", "[{backendRefs: [{name: web, port: 80}]}]").replace("kind: Service, name: web", "kind: Service, name: db").replace("rules:", "hostnames: [a.example], rules:"),
        "---\n{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {ports: [{name: tcp-db, port: 5432}]}}\n".into(),
    ];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/db.shop.svc.cluster.local
          5432 tcp
            tcp {backends: [[2, {service: {port: 80, service: shop/web.shop.svc.cluster.local}}], [1, {service: {port: 80, service: shop/api.shop.svc.cluster.local}}]], origin: TCPRoute/shop/t#0}
            tls {sni: [a.example], then: {backends: [[1, {service: {port: 80, service: shop/web.shop.svc.cluster.local}}]], origin: TLSRoute/shop/s#0}}
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
    "#]],
    );
}

#[test]
fn retries_and_sessions_of_the_experimental_channel_are_carried_out() {
    let to = "backendRefs: [{name: web, port: 80}]";
    let http = format!(
        "[{{name: codes, matches: [{{path: {{value: /c}}}}], retry: {{codes: [500, 503], attempts: 4, backoff: 50ms}}, timeouts: {{backendRequest: 1s}}, {to}}}, \
         {{name: plain, matches: [{{path: {{value: /p}}}}], retry: {{}}, sessionPersistence: {{}}, {to}}}, \
         {{name: none, matches: [{{path: {{value: /n}}}}], retry: {{attempts: 0}}, sessionPersistence: {{sessionName: s, absoluteTimeout: 1h, idleTimeout: 1m, cookieConfig: {{lifetimeType: Permanent}}}}, {to}}}]"
    );
    let grpc = format!("[{{name: calls, sessionPersistence: {{sessionName: x-s, type: Header}}, {to}}}]");
    let yaml = [route("HTTPRoute", "h", "namespace: shop", &http), route("GRPCRoute", "g", "namespace: shop", &grpc)];
    check_models(
        &yaml.concat(),
        expect![[r#"
        shop/wp/shop/web.shop.svc.cluster.local
          80 http
            if {path: {kind: elements, value: /c}} -> 1
            if {path: {kind: elements, value: /p}} -> 2
            if {path: {kind: elements, value: /n}} -> 3
            if {} -> 0
            0: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: GRPCRoute/shop/g#calls, session: {by: {header: {name: x-s}}}}
            1: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/h#codes, retries: {attempts: 4, backoff: 50ms, on: {connect_failure: true, grpc: [1, 14], refused_stream: true, reset: true, statuses: [500, 503]}, per_try_timeout: 1s}}
            2: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/h#plain, retries: {attempts: 2, on: {connect_failure: true, grpc: [1, 14], refused_stream: true, reset: true}}, session: {by: {cookie: {name: weft-session, path: /}}}}
            3: {action: {forward: {backends: [{to: {service: {port: 80, service: shop/web.shop.svc.cluster.local}}, weight: 1}], otherwise: 500}}, origin: HTTPRoute/shop/h#none, retries: {attempts: 0, on: {connect_failure: true, grpc: [1, 14], refused_stream: true, reset: true}}, session: {absolute_timeout: 3600s, by: {cookie: {name: s, path: /, permanent: true}}}}
        ! info no_effect: HTTPRoute shop/h: spec.rules[2].sessionPersistence.idleTimeout: a session ends by absoluteTimeout alone
    "#]],
    );
}

#[test]
fn a_session_that_nobody_could_keep_is_refused() {
    for (session, place) in [
        ("{sessionName: 'a b'}", "spec.rules[0].sessionPersistence.sessionName"),
        ("{cookieConfig: {lifetimeType: Permanent}}", "spec.rules[0].sessionPersistence"),
        ("{type: Header, cookieConfig: {lifetimeType: Session}}", "spec.rules[0].sessionPersistence.cookieConfig"),
        ("{kind: Header}", "spec.rules[0].sessionPersistence.kind"),
    ] {
        let rules = format!("[{{sessionPersistence: {session}, backendRefs: [{{name: web, port: 80}}]}}]");
        let said = models(&[WORLD, &route("HTTPRoute", "h", "namespace: shop", &rules)].concat());
        let refused = said.lines().find(|line| line.starts_with("! error refused"));
        assert!(refused.is_some_and(|line| line.contains(&format!("HTTPRoute shop/h: {place}: "))), "{said}");
    }
}
