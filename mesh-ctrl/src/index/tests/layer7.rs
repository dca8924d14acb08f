//! What waypoints are told, as text: what is as it would be without anybody's word is left out.

mod authorization;
mod destinations;
mod mesh_config;
mod no_effect;
mod gateway_api;
mod incremental;
mod rate_limits;
mod telemetry;
mod tracing;
mod virtual_services;

use std::fmt::Write;

use expect_test::Expect;
use mesh_core::l7::destination;
use mesh_core::l7::route::{HttpRoutes, Retries};
use serde::Serialize;
use serde_json::Value;

use super::*;

/// Namespace `shop` with a waypoint, the services `web` and `api` with two pods each, and who calls: `app: client`.
const WORLD: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: shop}, spec: {gatewayClassName: weft-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {clusterIP: 10.96.0.2, selector: {app: api}, ports: [{name: http, port: 80}, {name: grpc, port: 81}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop, labels: {app: web, version: v1}}, status: {podIP: 10.0.0.1, phase: Running}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-2, namespace: shop, labels: {app: web, version: v2}}, status: {podIP: 10.0.0.2, phase: Running}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: bank, labels: {app: client}}, status: {podIP: 10.0.0.3, phase: Running}}
---
";

/// The models and findings that `yaml` adds to the world.
fn check_models(yaml: &str, expect: Expect) {
    expect.assert_eq(&models(&[WORLD, yaml].concat()));
}

fn models(yaml: &str) -> String {
    let (index, published) = built(yaml);
    let mut out = String::new();
    published.layer7.values().for_each(|model| render(&mut out, model));
    for finding in index.findings() {
        writeln!(out, "! {finding}").unwrap();
    }
    out
}

pub(super) fn render(out: &mut String, model: &Layer7) {
    writeln!(out, "{}", model.name()).unwrap();
    for (number, port) in &model.ports {
        writeln!(out, "  {number} {}", brief(&port.protocol)).unwrap();
        port.http.iter().for_each(|http| routes(out, http));
        port.tcp.iter().for_each(|route| writeln!(out, "    tcp {}", brief(route)).unwrap());
        port.tls.iter().for_each(|route| writeln!(out, "    tls {}", brief(route)).unwrap());
    }
    for (key, known) in &model.destinations {
        let mut known = known.clone();
        known.protocols.clear();
        if known != destination::Destination::default() {
            writeln!(out, "  to {key}: {}", brief(&known)).unwrap();
        }
    }
    model.policies.iter().for_each(|policy| writeln!(out, "  policy {}", brief(policy)).unwrap());
    model.jwt.iter().for_each(|rule| writeln!(out, "  jwt {}", brief(rule)).unwrap());
    model.rate_limits.iter().for_each(|limit| writeln!(out, "  limit {}", brief(limit)).unwrap());
    if model.path_normalization != Default::default() {
        writeln!(out, "  path {}", brief(&model.path_normalization)).unwrap();
    }
    if model.telemetry != Default::default() {
        writeln!(out, "  telemetry {}", brief(&model.telemetry)).unwrap();
    }
}

fn routes(out: &mut String, http: &HttpRoutes) {
    for entry in &http.entries {
        writeln!(out, "    if {} -> {}", brief(&entry.matches), entry.rule).unwrap();
    }
    for (i, rule) in http.rules.iter().enumerate() {
        writeln!(out, "    {i}: {}", brief(rule)).unwrap();
    }
}

fn brief(item: &impl Serialize) -> String {
    let mut out = String::new();
    flow(&mut out, &serde_json::to_value(item).unwrap());
    out
}

fn is_default(key: &str, value: &Value) -> bool {
    let same = |default: Value| *value == default;
    match (key, value) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(list)) => list.is_empty() && !["rules", "members"].contains(&key),
        (_, Value::Object(map)) if map.iter().all(|(key, value)| is_default(key, value)) => true,
        ("retries", _) => same(serde_json::to_value(Retries::default()).unwrap()),
        ("pool", _) => same(serde_json::to_value(destination::Pool::default()).unwrap()),
        ("tls", _) => same("none".into()),
        ("balance", _) => same("least_request".into()),
        ("on", _) => same(serde_json::to_value(Retries::default().on).unwrap()),
        ("backoff", _) => same(serde_json::json!({"secs": 0, "nanos": 25_000_000})),
        ("other_host", _) => same(true.into()),
        ("max_keys", _) => same(10_000.into()),
        ("headers", _) => same("reference".into()),
        ("timeout_seconds", _) => same(5.into()),
        ("access_log", _) => same(serde_json::json!({"enabled": true, "filter": null})),
        _ => false,
    }
}

fn flow(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(text),
        Value::Array(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                flow(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => match (map.get("secs").and_then(Value::as_u64), map.get("nanos").and_then(Value::as_u64))
        {
            (Some(secs), Some(nanos)) => write!(out, "{:?}", std::time::Duration::new(secs, nanos as u32)).unwrap(),
            _ => {
                out.push('{');
                for (i, (key, value)) in map.iter().filter(|(key, value)| !is_default(key, value)).enumerate() {
                    write!(out, "{}{key}: ", if i > 0 { ", " } else { "" }).unwrap();
                    flow(out, value);
                }
                out.push('}');
            }
        },
        other => write!(out, "{other}").unwrap(),
    }
}
