//! The other side: Envoy itself, told by hand what Istio would tell it.
//!
//! An intent's file has `routes` of the only virtual host, and where it needs them `filters` before the router, fields of the
//! `virtual_host` and of the connection `manager`, and `clusters` beside those of all. What Istio says for every waypoint is here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use weft_tests::place::Place;
use weft_tests::program::Program;

use crate::backends::at;

/// The network of its backends.
pub(crate) const SIDE: u8 = 2;

/// Runs it with a listener for each of these files.
pub(crate) async fn start(place: &Place, intents: &[(&str, Value, SocketAddr)]) -> Result<Program> {
    let listeners: Vec<Value> = intents.iter().map(|(name, file, address)| listener(name, file, *address)).collect();
    let common = [("web", &["web"][..]), ("other", &["other"]), ("pair", &["pair-1", "pair-2"]), ("dead", &["dead"])];
    let mut clusters: Vec<Value> = common.iter().map(|(name, backends)| cluster(name, backends)).collect();
    for (name, file, _) in intents {
        for own in file["clusters"].as_array().into_iter().flatten() {
            let of = own["of"].as_str().context("a cluster is of a service")?;
            let (_, backends) = common.iter().find(|(name, _)| *name == of).context("of a service that there is")?;
            let mut made = cluster(&format!("{name}/{of}"), backends);
            merge(&mut made, &own["with"]);
            clusters.push(made);
        }
    }
    let node = json!({ "id": "peer", "cluster": "peer" });
    let bootstrap = json!({
        "node": node,
        "layered_runtime": { "layers": [{ "name": "istio", "static_layer": {
            "envoy.reloadable_features.http_reject_path_with_fragment": false,
        } }] },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    let file = place.dir().join("envoy.json");
    std::fs::write(&file, bootstrap.to_string())?;
    let launch =
        place.command("envoy").args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "--config-path"]);
    let mut program = launch.arg(&file).start()?;
    let begun = Instant::now();
    let (.., last) = intents.last().context("an intent")?;
    while TcpStream::connect(last).await.is_err() {
        if program.ended().is_some() || begun.elapsed() > Duration::from_secs(15) {
            bail!("Envoy does not come up: {}", program.log());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(program)
}

fn listener(name: &str, file: &Value, address: SocketAddr) -> Value {
    let mut routes = file["routes"].clone();
    for route in routes.as_array_mut().into_iter().flatten() {
        if let Some(action) = route["route"].as_object_mut() {
            // Its own default are 15 s.
            action.entry("timeout").or_insert("0s".into());
        }
    }
    let mut host = json!({
        "name": name, "domains": ["*"], "routes": routes,
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
            "num_retries": 2,
            "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            } }],
            "host_selection_retry_max_attempts": 5,
        },
    });
    merge(&mut host, &file["virtual_host"]);
    let router = json!({ "name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    } });
    let own = file["filters"].as_array().cloned().unwrap_or_default();
    let filters: Vec<Value> = own.into_iter().chain([router]).collect();
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "server_name": "istio-envoy",
        "use_remote_address": false,
        "skip_xff_append": true,
        "preserve_external_request_id": true,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "forward_client_cert_details": "SANITIZE",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "http_filters": filters,
        "delayed_close_timeout": "0.05s",
        "route_config": { "name": name, "virtual_hosts": [host], "most_specific_header_mutations_wins": true },
    });
    merge(&mut manager, &file["manager"]);
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager });
    json!({ "name": name, "address": socket(address), "filter_chains": [{ "filters": [filter] }] })
}

fn cluster(name: &str, backends: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        backends.iter().map(|backend| json!({ "endpoint": { "address": socket(at(SIDE, backend)) } })).collect();
    let most = u32::MAX;
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
        "circuit_breakers": { "thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
        }] },
        "common_lb_config": { "healthy_panic_threshold": { "value": 0.0 } },
    })
}

/// Fields of `more` in place of those of `into`.
fn merge(into: &mut Value, more: &Value) {
    let empty = Map::new();
    for (name, value) in more.as_object().unwrap_or(&empty) {
        into[name] = value.clone();
    }
}

fn socket(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}
