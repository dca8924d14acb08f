//! Who is told spans: providers of the mesh's configuration, by Telemetry or as the mesh's default.

use expect_test::expect;

use super::mesh_config::config;
use super::*;

/// Collectors in `obs`, one of which has no port 9411.
const COLLECTORS: &str = r"---
{apiVersion: v1, kind: Service, metadata: {name: otel, namespace: obs}, spec: {clusterIP: 10.96.1.1, ports: [{name: grpc, port: 4317}, {name: http, port: 4318}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: zipkin, namespace: obs}, spec: {clusterIP: 10.96.1.2, ports: [{name: http, port: 9411}]}}
";

const PROVIDERS: &str = r"extensionProviders:
- name: grpc
  opentelemetry: {service: otel.obs.svc.cluster.local, port: 4317, maxTagLength: 64, grpc: {timeout: 2s, initialMetadata: [{name: X-Tenant, value: shop}]}}
- name: http
  opentelemetry:
    service: obs/otel.obs.svc.cluster.local
    port: 4318
    http: {path: /in, timeout: 1s, headers: [{name: Authorization, envName: TOKEN}]}
    resourceDetectors: {environment: {}}
- {name: zipkin, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411, path: /spans, enable64bitTraceId: true, traceContextOption: USE_B3}}
- {name: plain, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}}
- {name: gone, zipkin: {service: gone.obs.svc.cluster.local, port: 9411}}
- {name: port, zipkin: {service: otel.obs.svc.cluster.local, port: 9411}}
- {name: guard, envoyExtAuthzGrpc: {service: otel.obs.svc.cluster.local, port: 4317}}
";

fn telemetry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

/// What the model of `web` and the findings say of tracing.
fn check(mesh: &str, telemetries: &[String], expect: &Expect) {
    let said = models(&[WORLD, COLLECTORS, &config(&[PROVIDERS, mesh].concat()), &telemetries.concat()].concat());
    let lines =
        said.lines().filter(|line| !line.starts_with("shop/") && *line != "  80 http" && !UNUSED.contains(line));
    expect.assert_eq(&lines.map(|line| format!("{}\n", line.trim_start())).collect::<String>());
}

/// Of the providers themselves, the same everywhere.
const UNUSED: &str = "! info no_effect: ConfigMap istio-system/istio: data.mesh.extensionProviders[1].opentelemetry.resourceDetectors: has no effect on spans\n\
                      ! info no_effect: ConfigMap istio-system/istio: data.mesh.extensionProviders[2].zipkin.traceContextOption: has no effect on spans\n";

#[test]
fn a_provider_is_told_with_all_that_it_says() {
    let by = |provider: &str| [telemetry("t", "shop", &format!("tracing: [{{providers: [{{name: {provider}}}]}}]"))];
    check("", &[], &expect![[""]]);
    check(
        "",
        &by("grpc"),
        &expect![[r#"
              telemetry {tracing: {provider: {headers: [[x-tenant, {literal: shop}]], longest_path: 64, path: , place: {service: obs/otel.obs.svc.cluster.local}, port: 4317, protocol: otlp_grpc, timeout: 2s}}}
        "#]],
    );
    check(
        "",
        &by("http"),
        &expect![[r#"
              telemetry {tracing: {provider: {headers: [[authorization, {environment: TOKEN}]], path: /in, place: {service: obs/otel.obs.svc.cluster.local}, port: 4318, protocol: otlp_http, timeout: 1s}}}
        "#]],
    );
    check(
        "",
        &by("zipkin"),
        &expect![[r#"
              telemetry {tracing: {provider: {path: /spans, place: {service: obs/zipkin.obs.svc.cluster.local}, port: 9411, protocol: zipkin, short_ids: true}}}
        "#]],
    );
    check(
        "",
        &by("plain"),
        &expect![[r#"
              telemetry {tracing: {provider: {path: , place: {service: obs/zipkin.obs.svc.cluster.local}, port: 9411, protocol: zipkin}}}
        "#]],
    );
    let said = models(&[WORLD, COLLECTORS, &config(PROVIDERS)].concat());
    assert!(said.ends_with(UNUSED), "{said}");
}

#[test]
fn the_nearest_provider_and_percentage_hold() {
    let mesh = "defaultProviders: {tracing: [plain, grpc]}\ndefaultConfig: {tracing: {sampling: 5}}\n";
    let everywhere =
        telemetry("m", "istio-system", "tracing: [{providers: [{name: grpc}], randomSamplingPercentage: 7}]");
    let here =
        telemetry("s", "shop", "tracing: [{providers: [{name: plain}, {name: grpc}]}, {providers: [{name: grpc}]}]");
    let client = telemetry("c", "shop", "tracing: [{match: {mode: CLIENT}, providers: [{name: grpc}]}]");
    let silent = telemetry("s", "shop", "tracing: [{randomSamplingPercentage: 9}]");
    check(
        mesh,
        &[],
        &expect![[r#"
            telemetry {tracing: {provider: {path: , place: {service: obs/zipkin.obs.svc.cluster.local}, port: 9411, protocol: zipkin}, sampling: 50000}}
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[1]: only the first of them is told
        "#]],
    );
    check(
        mesh,
        std::slice::from_ref(&everywhere),
        &expect![[r#"
            telemetry {tracing: {provider: {headers: [[x-tenant, {literal: shop}]], longest_path: 64, path: , place: {service: obs/otel.obs.svc.cluster.local}, port: 4317, protocol: otlp_grpc, timeout: 2s}, sampling: 70000}}
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[1]: only the first of them is told
        "#]],
    );
    check(
        mesh,
        &[everywhere.clone(), here],
        &expect![[r#"
            telemetry {tracing: {provider: {path: , place: {service: obs/zipkin.obs.svc.cluster.local}, port: 9411, protocol: zipkin}, sampling: 70000}}
            ! info no_effect: Telemetry shop/s: spec.tracing[0].providers[1]: only the first of them is told
            ! info no_effect: Telemetry shop/s: spec.tracing[1]: only the first of them is carried out
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[1]: only the first of them is told
        "#]],
    );
    check(
        mesh,
        &[everywhere, silent],
        &expect![[r#"
            telemetry {tracing: {provider: {headers: [[x-tenant, {literal: shop}]], longest_path: 64, path: , place: {service: obs/otel.obs.svc.cluster.local}, port: 4317, protocol: otlp_grpc, timeout: 2s}, sampling: 90000}}
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[1]: only the first of them is told
        "#]],
    );
    check(
        mesh,
        &[client],
        &expect![[r#"
            telemetry {tracing: {provider: {path: , place: {service: obs/zipkin.obs.svc.cluster.local}, port: 9411, protocol: zipkin}, sampling: 50000}}
            ! info no_effect: ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[1]: only the first of them is told
        "#]],
    );
}

#[test]
fn who_cannot_be_told_is_reported_and_nobody_else_is_told() {
    for (provider, why) in [
        ("nobody", "the mesh's configuration has no provider \"nobody\""),
        ("gone", "there is no service gone.obs.svc.cluster.local"),
        ("port", "otel.obs.svc.cluster.local has no port 9411"),
        ("guard", "provider \"guard\" takes no spans"),
    ] {
        let named = telemetry("t", "shop", &format!("tracing: [{{providers: [{{name: {provider}}}]}}]"));
        let default = format!("defaultProviders: {{tracing: [{provider}]}}\n");
        let at_telemetry = format!("Telemetry shop/t: spec.tracing[0].providers[0].name: {why}; nothing is traced");
        let at_default = format!(
            "ConfigMap istio-system/istio: data.mesh.defaultProviders.tracing[0]: {why}; nothing is traced where no Telemetry names another"
        );
        for (mesh, telemetry, finding) in
            [("defaultProviders: {tracing: [grpc]}\n", &*named, at_telemetry), (&default, "", at_default)]
        {
            let said = models(&[WORLD, COLLECTORS, &config(&[PROVIDERS, mesh].concat()), telemetry].concat());
            assert!(said.contains("  telemetry {tracing: {disabled: true}}\n"), "{provider}: {said}");
            assert!(said.contains(&format!("! warning unresolved: {finding}\n")), "{finding}: {said}");
        }
    }
}

#[test]
fn a_provider_that_changes_changes_the_model() {
    let telemetry = telemetry("t", "shop", "tracing: [{providers: [{name: plain}]}]");
    let (mut index, mut published) = built(&[WORLD, &config(PROVIDERS), &telemetry].concat());
    let mut tracing = |yaml: &str| {
        published.take(index.apply(manifest("t", yaml)));
        let model = published.layer7.values().next().expect("a model").telemetry.tracing.clone();
        let findings = index.findings().iter().filter(|finding| finding.code == Code::Unresolved).count();
        (model.disabled, model.provider.as_ref().map(|provider| provider.path.to_string()), findings)
    };
    assert_eq!(tracing(""), (true, None, 1));
    assert_eq!(tracing(COLLECTORS), (false, Some(String::new()), 0));
    let moved = PROVIDERS.replace("port: 9411}}\n- {name: gone", "port: 9411, path: /x}}\n- {name: gone");
    assert_eq!(tracing(&config(&moved)), (false, Some("/x".to_owned()), 0));
}

#[test]
fn a_provider_that_cannot_be_read_is_refused_with_its_place() {
    for (provider, expected) in [
        ("zipkin: {service: s, port: 80, path: spans}", "zipkin.path: \"spans\" is no path that begins with '/'"),
        (
            "zipkin: {service: s, port: 80, headers: [{name: a b, value: c}]}",
            "zipkin.headers[0].name: \"a b\" is no name",
        ),
        (
            "opentelemetry: {service: s, port: 80, http: {headers: [{name: a}]}}",
            "opentelemetry.http.headers[0]: has to have one",
        ),
        (
            "opentelemetry: {service: s, port: 80, grpc: {initialMetadata: [{name: a, value: \"b\\n\"}]}}",
            "initialMetadata[0].value: is no value",
        ),
        (
            "zipkin: {service: s, port: 80, headers: [{name: Host, value: c}]}",
            "zipkin.headers[0].name: host is written",
        ),
        ("opentelemetry: {service: s, port: 80, http: {pth: /x}}", "opentelemetry.http.pth: unknown field"),
        ("opentelemetry: {service: s, port: 0}", "opentelemetry.port:"),
    ] {
        let said = models(&[WORLD, &config(&format!("extensionProviders:\n- {{name: a, {provider}}}\n"))].concat());
        let place = "data.mesh.extensionProviders[0].";
        assert!(
            said.contains("! error refused") && said.contains(place) && said.contains(expected),
            "{expected}: {said}"
        );
    }
}
