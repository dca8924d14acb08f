//! nginx's configuration: a server for each host, a test of the header, an address that is allowed, an access log. It keeps no
//! histogram and no counters by route, and speaks HTTP/1.1 to the backends of plain HTTP/2.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use super::address::{self, Door, SERVER_NAME};
use super::authority::ROOT;
use super::routes::Routes;
use super::talk::{HEADER, Kind};

/// The file. `dir`: where it may write; `master`: with a process that can be told to read it again.
pub(super) fn file(ip: IpAddr, routes: Routes, dir: &Path, certificates: &Path, log: &Path, master: bool) -> String {
    let mut text = String::new();
    let (dir, log, root) = (dir.display(), log.display(), certificates.join(ROOT));
    let pem = |name: &str| certificates.join(name).display().to_string();
    let (own, key) = (pem("proxy.pem"), pem("proxy.key"));
    let on = if master { "on" } else { "off" };
    let (header, value) = (HEADER.0.replace('-', "_"), HEADER.1);
    let mut write = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("memory takes it");
    write(format_args!(
        "user root;\ndaemon off;\nmaster_process {on};\nworker_processes 1;\nworker_rlimit_nofile 65536;\npid {dir}/nginx.pid;\n\
         error_log stderr warn;\nevents {{ worker_connections 32768; }}\nhttp {{\n\
         log_format full '$time_iso8601 \"$request\" $status $body_bytes_sent $request_length $request_time \
         $upstream_response_time \"$http_x_forwarded_for\" \"$http_user_agent\" \"$http_x_request_id\" \"$host\" \
         $upstream_addr $remote_addr $server_addr $server_name';\n\
         access_log {log} full buffer=64k flush=1s;\n\
         keepalive_requests 1000000000;\nkeepalive_timeout 3600s;\nserver_names_hash_max_size 8192;\n\
         http2_max_concurrent_streams 1000;\nproxy_max_temp_file_size 0;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         client_body_temp_path {dir}/body;\nproxy_temp_path {dir}/proxy;\nfastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi;\nscgi_temp_path {dir}/scgi;\n"
    ));
    for door in Door::ALL {
        let (name, to) = (door.name(), upstream(door));
        write(format_args!(
            "upstream {name} {{ server {to}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 3600s; }}\n"
        ));
    }
    for door in Door::ALL {
        let (name, port, h2) = (door.name(), door.proxy(), if door.kind == Kind::Http1 { "" } else { " http2" });
        let ssl = if door.tls { " ssl" } else { "" };
        let scheme = match (door.kind, door.tls) {
            (Kind::Grpc, false) => "grpc_pass grpc",
            (Kind::Grpc, true) => "grpc_pass grpcs",
            (_, false) => "proxy_pass http",
            (_, true) => "proxy_pass https",
        };
        let mutual = match door.tls {
            false => String::new(),
            true => {
                let way = if door.kind == Kind::Grpc { "grpc" } else { "proxy" };
                format!(
                    "ssl_certificate {own};\nssl_certificate_key {key};\nssl_protocols TLSv1.3;\n\
                     ssl_client_certificate {root};\nssl_verify_client on;\n{way}_ssl_certificate {own};\n\
                     {way}_ssl_certificate_key {key};\n{way}_ssl_trusted_certificate {root};\n{way}_ssl_verify on;\n\
                     {way}_ssl_name {SERVER_NAME};\n{way}_ssl_protocols TLSv1.3;\n",
                    root = root.display()
                )
            }
        };
        let routes = if door == (Door { kind: Kind::Http1, tls: false }) { routes } else { Routes::Few };
        for (host, routes) in routes.hosts() {
            write(format_args!("server {{\nlisten {ip}:{port}{h2}{ssl};\nserver_name {host};\n{mutual}"));
            for route in routes {
                let path = route.path;
                let then = match route.answer {
                    Some(status) => format!("return {status};"),
                    None => format!("{scheme}://{name};"),
                };
                write(format_args!(
                    "location {path} {{ if ($http_{header} != {value}) {{ return 404; }} allow 127.0.0.0/8; deny all; \
                     {then} }}\n"
                ));
            }
            write(format_args!("}}\n"));
        }
    }
    write(format_args!("}}\n"));
    text
}

/// HTTP/2 towards backends it has for gRPC only.
fn upstream(door: Door) -> std::net::SocketAddr {
    match door.kind {
        Kind::Http2 => address::backend(Door { kind: Kind::Http1, ..door }),
        _ => address::backend(door),
    }
}
