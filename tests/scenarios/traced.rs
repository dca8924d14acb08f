//! Spans of a waypoint on their way to collectors of the mesh, which its configuration names.

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::program::Program;
use weft_tests::reviews::Reviews;
use weft_tests::wait::{PATIENCE, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The span of the request for `path`, if the collector has it.
fn span(collector: &Program, path: &str) -> Option<Value> {
    let log = collector.log();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["tags"]["http.url"].as_str().is_some_and(|url| url.ends_with(path)))
}

#[test]
fn a_collector_in_the_mesh_is_told_through_the_tunnel_and_another_one_after_a_change() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-traced", &["v1"])?;
    let mesh = &reviews.mesh;
    mesh.namespace("obs", true)?;
    let otel = mesh.enrolled(mesh.pod("otel").namespace("obs"), "b")?;
    let first = apps::collector(&otel, 4317)?;
    let second = apps::collector(&otel, 4318)?;
    mesh.until_captured(&otel)?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: otel, namespace: obs}\nspec: {clusterIP: 10.96.0.31, clusterIPs: \
                   [10.96.0.31], selector: {app: otel}, ports: [{name: first, port: 14317, targetPort: 4317}, {name: second, port: \
                   14318, targetPort: 4318}]}\n";
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
                  defaultProviders: {tracing: [first]}\n    extensionProviders:\n    - name: first\n      opentelemetry: {service: \
                  otel.obs.svc.cluster.local, port: 14317}\n    - name: second\n      opentelemetry: {service: \
                  otel.obs.svc.cluster.local, port: 14318}\n";
    // Nobody is heard in plain text.
    let strict = security("PeerAuthentication", "obs", "strict", "{mtls: {mode: STRICT}}");
    let world = [service, config, &strict].join("---\n");
    reviews.apply(&world)?;

    let sampled = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    assert_eq!(reviews.ask("/one", &[&sampled])?.status, 200);
    let told = until("a span at the mesh's collector", PATIENCE, || span(&first, "/one"))?;
    assert_eq!((&told["trace"], &told["parent"]), (&TRACE.into(), &"00f067aa0ba902b7".into()));
    assert_eq!(told["service"], "gate.shop");
    assert_eq!(told["name"], "reviews.shop.svc.cluster.local:80/*");
    assert_eq!(told["tags"]["istio.source_principal"], "spiffe://cluster.local/ns/shop/sa/web");
    // Its agent knows who came, and how.
    let at = otel.at(4317).to_string();
    mesh.agent("b").until_access(&[&at, "spiffe://cluster.local/ns/shop/sa/gate", "mutual_tls"])?;

    let telemetry = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: reviews, namespace: shop}\nspec: {targetRefs: \
                     [{kind: Service, name: reviews}], tracing: [{providers: [{name: second}], randomSamplingPercentage: 100}]}\n";
    reviews.apply(&[&world, telemetry].join("---\n"))?;
    assert_eq!(reviews.ask("/two", &[])?.status, 200);
    until("a span at the service's own collector", PATIENCE, || span(&second, "/two"))?;
    ensure!(span(&first, "/two").is_none(), "the mesh's collector was told as well");
    Ok(())
}
