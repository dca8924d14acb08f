//! What is made of requests and responses on their way.

use crate::ask::{Ask, ask, get, raw};
use crate::intent::Intent;

pub(crate) fn table() -> Vec<Intent> {
    let targets = [
        "/old/a?b=c",
        "/old",
        "/oldest",
        "/slash/a",
        "/root",
        "/root/a",
        "/rooted",
        "/exactly?a=b",
        "/regex/1",
        "/regex/1/abc/2/x?a/1",
        "/regex",
        "/moved?a=b",
        "/moved/a",
        "/away?a=b",
        "/port?a=b",
        "/said",
        "/empty",
        "/hosted/a",
        "/unknown",
        "/",
    ];
    let headers = [
        ask(
            "GET",
            "/headers?set=x-set:own&set=x-add:own&set=x-gone:own",
            &["x-set: own", "x-set: twice", "x-add: own", "x-gone: own", "x-both: own", "x-source: client"],
        ),
        ask("GET", "/headers?status=503", &[]),
        Ask::second("GET", "/headers", &[("x-source", "client")]),
        get("/split"),
    ];
    let ports = ["web:80", "web:8080", "WEB"]
        .into_iter()
        .flat_map(|host| ["/moved", "/away", "/port"].map(|target| ask("GET", target, &[&format!("host: {host}")])));
    let bodies = [
        raw(b"POST /said HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello"),
        ask("HEAD", "/said", &[]),
        ask("HEAD", "/old", &[]),
        Ask::second("GET", "/said", &[]),
        Ask::second("GET", "/moved?a=b", &[]),
    ];
    let preflight = |target: &str, origin: &str, method: &str| {
        let (origin, method) = (format!("origin: {origin}"), format!("access-control-request-method: {method}"));
        ask("OPTIONS", target, &[&origin, &method])
    };
    let shop = "https://shop.example";
    let own = "set=access-control-allow-origin:own&set=access-control-allow-methods:own";
    let cors = [
        preflight("/cors", shop, "GET"),
        preflight("/cors", shop, "DELETE"),
        preflight("/cors", "https://abc.test", "PUT"),
        preflight("/cors", "https://evil.example", "GET"),
        preflight("/ignore", shop, "GET"),
        preflight("/ignore", "https://evil.example", "GET").differs("who is not allowed is not told what others are"),
        preflight("/none", shop, "GET"),
        ask("OPTIONS", "/cors", &[&format!("origin: {shop}")]),
        ask("GET", "/cors", &[&format!("origin: {shop}")]),
        ask("GET", &format!("/cors?{own}"), &[&format!("origin: {shop}")]),
        ask("GET", &format!("/cors?{own}"), &["origin: https://evil.example"]),
        ask("GET", "/cors?status=503", &[&format!("origin: {shop}")]),
        get("/cors"),
    ];
    let mirrored = [
        get("/a?b=c"),
        get("/a?status=503&first=1"),
        raw(b"POST /body HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello"),
        raw(b"POST /chunks HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        get("/changed/a"),
        get("/dead"),
        get("/none"),
    ];
    let shapes = targets.map(get).into_iter().chain(headers).chain(ports).chain(bodies);
    vec![Intent::new("shapes", shapes), Intent::new("cors", cors), Intent::new("mirror", mirrored)]
}
