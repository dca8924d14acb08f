//! Which rule a request meets, and which it does not.

use crate::ask::{Ask, ask, get};
use crate::intent::Intent;

pub(crate) fn table() -> Vec<Intent> {
    let targets = [
        "/exact",
        "/exact?a=b",
        "/exact/",
        "/Exact",
        "/api",
        "/apifoo",
        "/api/a/b?c=d",
        "/ap",
        "/num/12",
        "/num/12a",
        "/num/",
        "/x/num/1",
        "/case",
        "/CASEY",
        "/head",
        "/query?v=1",
        "/query?v=2&v=1",
        "/query?v=1&v=2",
        "/query?v=abc",
        "/query?v=abcd",
        "/query?flag",
        "/query?flag=",
        "/query?flag=1",
        "/query?V=1",
        "/query?v=%31",
        "/query",
        "/method",
        "/none",
    ];
    let heads: [&[&str]; 11] = [
        &["x-a: one", "x-b: bb"],
        &["x-a: one", "x-b: c"],
        &["x-a: two", "x-b: b"],
        &["x-a: two", "x-a: one", "x-b: b"],
        &["x-c: prefixed"],
        &["x-c: not pre", "x-c: prefixed"],
        &["x-d;"],
        &["x-d:"],
        &["X-D: any", "x-e: no"],
        &["x-e: no"],
        &["x-e: no", "x-e: yes"],
    ];
    let hosts: [&[&str]; 5] = [
        &["host: reviews"],
        &["host: reviews:80"],
        &["host: REVIEWS"],
        &["Host: reviews", "x-forwarded-proto: https"],
        &["Host: web", "x-forwarded-proto: https"],
    ];
    let methods = ["DELETE", "PUT", "POST", "PATCH"].map(|method| ask(method, "/method/a", &[]));
    let second = [
        Ask::second("GET", "/exact?a=b", &[]),
        Ask::second("GET", "/head", &[("x-a", "one"), ("x-b", "bb")]),
        Ask::second("GET", "/none", &[]),
    ];
    let asks = targets.map(get).into_iter().chain(heads.map(|head| ask("GET", "/head", head)));
    let asks = asks.chain(hosts.map(|host| ask("GET", "/", host))).chain(methods).chain(second);
    let routes = [
        "/",
        "/v2",
        "/v2/",
        "/v2/a?b=c",
        "/v2foo",
        "/v2/deep",
        "/v2/deep/a",
        "/v2/deeper",
        "/v3",
        "/v3/",
        "/v3/a?b",
        "/v33",
        "/moved",
        "/moved/a?b=c",
        "/movedaway",
        "/secure",
        "/secure?a",
        "/nowhere",
    ];
    let set = "/set?set=x-set:own&set=x-add:own&set=x-gone:own";
    let set = ask("GET", set, &["x-set: own", "x-add: own", "x-gone: own"]);
    let ports = ["web:80"].map(|host| ask("GET", "/secure", &[&format!("host: {host}")]));
    let moved = ["web:80", "web:8080"].map(|host| ask("GET", "/moved/a", &[&format!("host: {host}")]));
    vec![
        Intent::new("matching", asks),
        Intent::new("gateway-api", routes.map(get).into_iter().chain([set]).chain(ports).chain(moved)),
    ]
}
