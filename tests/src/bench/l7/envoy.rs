//! Envoy's configuration: one listener a door, with routes by host and header, an RBAC filter that allows, and an access log. It
//! counts requests and keeps histograms of how long they took by itself.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::address::{self, Door, Role, SERVER_NAME};
use super::authority::ROOT;
use super::routes::Routes;
use super::talk::{HEADER, Kind};

/// Files that it reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) certificates: PathBuf,
    pub(super) log: PathBuf,
    /// The routes of HTTP/1.1's door, which it watches.
    pub(super) routes: PathBuf,
}

/// The whole configuration but for the watched routes.
pub(super) fn bootstrap(ip: IpAddr, files: &Files) -> Value {
    let listeners: Vec<Value> = Door::ALL.iter().map(|door| listener(ip, *door, files)).collect();
    let clusters: Vec<Value> = Door::ALL.iter().map(|door| cluster(*door, &files.certificates)).collect();
    let node = json!({ "id": "bench", "cluster": "bench" });
    json!({ "node": node, "static_resources": { "listeners": listeners, "clusters": clusters } })
}

/// The watched file.
pub(super) fn watched(routes: Routes) -> Value {
    let mut configuration = table(Door { kind: Kind::Http1, tls: false }, routes);
    configuration["@type"] = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration".into();
    json!({ "version_info": format!("{routes:?}"), "resources": [configuration] })
}

fn listener(ip: IpAddr, door: Door, files: &Files) -> Value {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": door.name(),
        "codec_type": "AUTO",
        "http_filters": [
            { "name": "envoy.filters.http.rbac", "typed_config": rbac(door) },
            { "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            } },
        ],
        "access_log": [{ "name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": files.log,
            "log_format": { "text_format_source": { "inline_string": FORMAT } },
        } }],
    });
    match door {
        Door { kind: Kind::Http1, tls: false } => {
            manager["rds"] = json!({
                "route_config_name": door.name(),
                "config_source": { "path_config_source": { "path": files.routes } },
            });
        }
        _ => manager["route_config"] = table(door, Routes::Few),
    }
    let mut chain =
        json!({ "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] });
    if door.tls {
        let mut context = tls(door, "proxy", &files.certificates, &json!({}));
        context["@type"] = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext".into();
        context["require_client_certificate"] = true.into();
        chain["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": context });
    }
    json!({ "name": door.name(), "address": socket(ip, door.proxy()), "filter_chains": [chain] })
}

fn rbac(door: Door) -> Value {
    let methods =
        ["GET", "POST"].map(|method| json!({ "header": { "name": ":method", "string_match": { "exact": method } } }));
    let principal = match door.tls {
        true => json!({ "authenticated": { "principal_name": { "exact": Role::Client.identity().uri() } } }),
        false => json!({ "direct_remote_ip": { "address_prefix": "127.0.0.0", "prefix_len": 8 } }),
    };
    let policy = json!({ "permissions": [{ "or_rules": { "rules": methods } }], "principals": [principal] });
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": { "action": "ALLOW", "policies": { "client": policy } },
    })
}

fn table(door: Door, routes: Routes) -> Value {
    let hosts: Vec<Value> = routes
        .hosts()
        .into_iter()
        .map(|(host, routes)| {
            let routes: Vec<Value> = routes
                .into_iter()
                .map(|route| {
                    let (header, value) = HEADER;
                    let headers = json!([{ "name": header, "string_match": { "exact": value } }]);
                    let matches = json!({ "prefix": route.path, "headers": headers });
                    match route.answer {
                        Some(status) => json!({ "match": matches, "direct_response": { "status": status } }),
                        None => json!({ "match": matches, "route": { "cluster": door.name() } }),
                    }
                })
                .collect();
            json!({ "name": host, "domains": [host], "routes": routes })
        })
        .collect();
    json!({ "name": door.name(), "virtual_hosts": hosts })
}

fn cluster(door: Door, certificates: &Path) -> Value {
    let to = address::backend(door);
    let http = match door.kind {
        Kind::Http1 | Kind::Large => json!({ "http_protocol_options": {} }),
        Kind::Http2 | Kind::Grpc => json!({ "http2_protocol_options": {} }),
    };
    let mut cluster = json!({
        "name": door.name(),
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": door.name(),
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(to.ip(), to.port()) } }] }],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": http,
            },
        },
    });
    if door.tls {
        let name = json!({ "match_typed_subject_alt_names": [{
            "san_type": "DNS", "matcher": { "exact": SERVER_NAME },
        }] });
        let mut context = tls(door, "proxy", certificates, &name);
        context["@type"] = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".into();
        context["sni"] = SERVER_NAME.into();
        cluster["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": context });
    }
    cluster
}

/// What both directions of TLS have in common; `validation` is further asked of the peer.
fn tls(door: Door, role: &str, certificates: &Path, validation: &Value) -> Value {
    let mut validation = validation.clone();
    validation["trusted_ca"] = json!({ "filename": certificates.join(ROOT) });
    let protocol = match door.kind {
        Kind::Http1 | Kind::Large => "http/1.1",
        Kind::Http2 | Kind::Grpc => "h2",
    };
    json!({ "common_tls_context": {
        // Towards backends it would not offer 1.3 by itself.
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "alpn_protocols": [protocol],
        "tls_certificates": [{
            "certificate_chain": { "filename": certificates.join(format!("{role}.pem")) },
            "private_key": { "filename": certificates.join(format!("{role}.key")) },
        }],
        "validation_context": validation,
    } })
}

fn socket(ip: IpAddr, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

/// The fields of a mesh's access log.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";
