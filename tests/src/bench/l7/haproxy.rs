//! HAProxy's configuration: one rule a route, by host, path and header, an address that is allowed, and a log line on standard
//! output, one write each. It keeps counters by frontend and server, and no histogram.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use super::address::{self, Door, SERVER_NAME};
use super::authority::ROOT;
use super::routes::Routes;
use super::talk::{HEADER, Kind};

/// The file.
pub(super) fn file(ip: IpAddr, routes: Routes, certificates: &Path) -> String {
    let mut text = String::new();
    let (root, pem) = (certificates.join(ROOT), certificates.join("proxy-both.pem"));
    let (root, pem) = (root.display(), pem.display());
    let (header, value) = HEADER;
    let mut write = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("memory takes it");
    write(format_args!(
        "global\n  nbthread 1\n  maxconn 8000\n  log stdout format raw local0 info\n  tune.h2.max-concurrent-streams 1000\n\
         defaults\n  mode http\n  log global\n  option httplog\n  http-reuse always\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n"
    ));
    for door in Door::ALL {
        let (name, port, to) = (door.name(), door.proxy(), address::backend(door));
        let proto = match (door.kind, door.tls) {
            (Kind::Http1 | Kind::Large, _) => "",
            (_, false) => " proto h2",
            (_, true) => " alpn h2",
        };
        let (bind, server) = match door.tls {
            false => (String::new(), String::new()),
            true => (
                format!(" ssl crt {pem} ca-file {root} verify required ssl-min-ver TLSv1.3"),
                format!(
                    " ssl crt {pem} ca-file {root} verify required verifyhost {SERVER_NAME} sni str({SERVER_NAME})"
                ),
            ),
        };
        write(format_args!(
            "frontend {name}\n  bind {ip}:{port}{bind}{proto}\n  http-request deny unless {{ src 127.0.0.0/8 }}\n"
        ));
        let routes = if door == (Door { kind: Kind::Http1, tls: false }) { routes } else { Routes::Few };
        for route in routes.hosts().into_iter().flat_map(|(_, routes)| routes) {
            let (host, path) = (route.host, route.path);
            let holds = format!(
                "{{ req.hdr(host) -m str {host} }} {{ path -m beg {path} }} {{ req.hdr({header}) -m str {value} }}"
            );
            match route.answer {
                Some(status) => write(format_args!("  http-request return status {status} if {holds}\n")),
                None => write(format_args!("  use_backend {name} if {holds}\n")),
            }
        }
        write(format_args!("backend {name}\n  server s {to}{server}{proto} pool-max-conn -1\n"));
    }
    text
}
