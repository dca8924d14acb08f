use expect_test::expect;

use super::{WORLD, check_models, models};

/// ConfigMap `istio` with this as its `mesh`.
pub(super) fn config(mesh: &str) -> String {
    let text: String = mesh.lines().map(|line| format!("\n    {line}")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |{text}\n  meshNetworks: 'networks: {{}}'\n"
    )
}

fn custom(provider: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: ask, namespace: shop}}, spec: {{targetRefs: \
         [{{kind: Service, name: web}}], action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/x]}}}}]}}]}}}}\n"
    )
}

#[test]
fn an_authorizer_is_told_with_all_that_it_is_to_do() {
    let mesh = r"extensionProviders:
- name: guard
  envoyExtAuthzHttp:
    service: shop/api.shop.svc.cluster.local
    port: 80
    timeout: 2s
    pathPrefix: /check
    failOpen: true
    clearRouteCache: true
    statusOnError: '503'
    includeHeadersInCheck: [x-old]
    includeRequestHeadersInCheck: [X-A, x-b*, '*-c']
    includeAdditionalHeadersInCheck: {x-from: gate}
    includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true, packAsBytes: true}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnDeny: [x-why]
    headersToDownstreamOnAllow: [x-note]
";
    check_models(
        &[config(mesh), custom("guard")].concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              policy {action: {custom: {allow_partial_body: true, fail_open: true, headers_to_downstream_on_allow: [{exact: x-note}], headers_to_downstream_on_deny: [{exact: x-why}], headers_to_upstream: [{exact: x-user}], include_additional_headers: [[x-from, gate]], include_request_headers: [{exact: X-A}, {prefix: x-b}, {suffix: -c}, {exact: x-old}], max_body_bytes: 1024, path_prefix: /check, port: 80, protocol: http, provider: guard, service: shop/api.shop.svc.cluster.local, status_on_error: 503, timeout: 2s}}, name: shop/ask, rules: [{to: [{paths: [{text: {exact: /x}}]}]}]}
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.includeRequestBodyInCheck.packAsBytes: the body is told as text
        "#]],
    );
    let mesh =
        "extensionProviders:\n- name: opa\n  envoyExtAuthzGrpc: {service: api.shop.svc.cluster.local, port: 81}\n";
    check_models(
        &[config(mesh), custom("opa")].concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              policy {action: {custom: {max_body_bytes: 0, path_prefix: , port: 81, protocol: grpc, provider: opa, service: shop/api.shop.svc.cluster.local, status_on_error: 403, timeout: 600s}}, name: shop/ask, rules: [{to: [{paths: [{text: {exact: /x}}]}]}]}
        "#]],
    );
}

#[test]
fn who_cannot_be_asked_lets_nothing_pass() {
    let mesh = r"extensionProviders:
- {name: trace, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411, enable64bitTraceId: true}}
- {name: otel, opentelemetry: {service: otel.obs.svc.cluster.local, port: 4318, http: {path: /v1/traces, timeout: 1s, headers: [{name: a, value: b}]}}}
- {name: gone, envoyExtAuthzGrpc: {service: gone.shop.svc.cluster.local, port: 81}}
- {name: port, envoyExtAuthzGrpc: {service: api.shop.svc.cluster.local, port: 82}}
- {name: log, envoyFileAccessLog: {path: /dev/stdout}}
";
    for (provider, why) in [
        ("trace", "provider \"trace\" is no authorizer"),
        ("otel", "provider \"otel\" is no authorizer"),
        ("log", "provider \"log\" is no authorizer"),
        ("nobody", "the mesh's configuration has no provider \"nobody\""),
        ("gone", "there is no service gone.shop.svc.cluster.local"),
        ("port", "api.shop.svc.cluster.local has no port 82"),
    ] {
        let said = models(&[WORLD, &config(mesh), &custom(provider)].concat());
        assert!(said.contains("policy {action: deny, name: shop/ask"), "{provider}: {said}");
        let finding = format!(
            "! warning fails_closed: AuthorizationPolicy shop/ask: spec.provider.name: {why}; what it would be asked about is denied\n"
        );
        assert!(said.contains(&finding), "{finding}{said}");
    }
}

#[test]
fn what_holds_for_the_whole_mesh_is_in_every_model() {
    let mesh = r"trustDomain: elsewhere
trustDomainAliases: [old.local, older.local]
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
defaultConfig: {tracing: {sampling: 5}, discoveryAddress: istiod:15012}
defaultProviders: {tracing: [trace]}
accessLogFile: /var/log/access
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
enablePrometheusMerge: true
";
    let policy = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, \
                  rules: [{from: [{source: {principals: [old.local/ns/a/sa/b, other/ns/a/sa/b, cluster.local/ns/a/sa/b, '*/sa/c']}}], when: [{key: source.principal, \
                  notValues: [cluster.local/ns/a/sa/x]}]}]}}\n";
    check_models(
        &[&config(mesh), policy].concat(),
        expect![[r#"
            shop/wp/shop/web.shop.svc.cluster.local
              80 http
              policy {action: allow, name: shop/p, rules: [{from: [{principals: [{exact: cluster.local/ns/a/sa/b}, {exact: old.local/ns/a/sa/b}, {exact: older.local/ns/a/sa/b}, {exact: other/ns/a/sa/b}, {suffix: /sa/c}]}], when: [{key: source_principal, not_values: [{exact: cluster.local/ns/a/sa/x}, {exact: old.local/ns/a/sa/x}, {exact: older.local/ns/a/sa/x}]}]}]}
              path decode_and_merge_slashes
              telemetry {tracing: {disabled: true, sampling: 50000}}
            ! warning no_effect: ConfigMap istio-system/istio: data.mesh.trustDomain: elsewhere is not the controller's, which is cluster.local
            ! warning unresolved: ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[0]: the mesh's configuration has no provider "trace"; nothing is traced where no Telemetry names another
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.accessLogFile: the access log goes to standard output, not to /var/log/access
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.enablePrometheusMerge: is carried out nowhere
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.outboundTrafficPolicy.mode: REGISTRY_ONLY is not carried out: what is not in the mesh is reached as without it
        "#]],
    );
    let (_, published) = super::super::built(&[WORLD, &config(mesh), policy].concat());
    let at_agents =
        super::super::policy_text(published.policies.values().find(|p| &*p.key.name == "p").expect("a policy"));
    expect![[r#"
        shop/p selector ALLOW
          if {principal=cluster.local/ns/a/sa/b,old.local/ns/a/sa/b,older.local/ns/a/sa/b,other/ns/a/sa/b,*/sa/c} AND {not-principal=cluster.local/ns/a/sa/x,old.local/ns/a/sa/x,older.local/ns/a/sa/x}
    "#]]
    .assert_eq(&at_agents);
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused_with_its_place() {
    for (mesh, expected) in [
        ("extensionProviders: [\n- a", "data.mesh: line 2"),
        (
            "extensionProviders:\n- {name: a, envoyExtAuthzGrpc: {service: s, port: 0}}",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.port:",
        ),
        (
            "extensionProviders:\n- {name: a, envoyExtAuthzGrpc: {service: s, port: 80, failOpn: true}}",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.failOpn: unknown field",
        ),
        (
            "extensionProviders:\n- {name: a, envoyExtAuthzHttp: {service: s, port: 80, statusOnError: '99'}}",
            "data.mesh.extensionProviders[0].envoyExtAuthzHttp.statusOnError: \"99\" is no HTTP status",
        ),
        (
            "extensionProviders:\n- {name: a, zipkin: {service: s, port: 80}}\n- {name: a, zipkin: {service: s, port: 80}}",
            "data.mesh.extensionProviders[1].name: \"a\" is there twice",
        ),
        ("pathNormalization: {normalization: SOME}", "data.mesh.pathNormalization.normalization: unknown variant"),
        ("[]", "data.mesh"),
    ] {
        let said = models(&[WORLD, &config(mesh)].concat());
        assert!(
            said.contains("! error refused")
                && said.contains("ConfigMap istio-system/istio")
                && said.contains(expected),
            "{expected}: {said}"
        );
    }
}

#[test]
fn other_config_maps_are_somebody_elses() {
    let aliased = config("pathNormalization: {normalization: NONE}\naccessLogFile: /x");
    let elsewhere = aliased.replace("istio-system", "shop");
    let plain = models(WORLD);
    assert_eq!(models(&[WORLD, &elsewhere].concat()), plain);
    let named = models(&[WORLD, &aliased.replace("name: istio,", "name: other,")].concat());
    assert!(named.contains("skipped") && !named.contains("path"), "{named}");
}
