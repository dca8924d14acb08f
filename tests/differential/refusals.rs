//! Who is turned away, and how he is told.

use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::tokens::Issuer;

use crate::ask::{Ask, ask, get};
use crate::intent::Intent;

pub(crate) fn table() -> Result<Vec<Intent>> {
    Ok(vec![
        denied(),
        tokens()?,
        Intent::new("limited", [get("/a"), get("/b"), get("/c"), Ask::second("GET", "/d", &[])]),
    ])
}

fn denied() -> Intent {
    let targets = [
        "/",
        "/admin",
        "/admin/a",
        "/adminfoo",
        "/Admin",
        "//admin",
        "/./admin",
        "/%61dmin",
        "/a/../admin",
        "/admin%2Fx",
        "/admin;x",
        "/a.php",
        "/a.php?b",
        "/a?b.php",
        "/\\admin",
        "/moved",
        "/admin-said",
        "/templated/a/x",
        "/templated/a/b/x",
        "/templated//x",
        "/deep/",
        "/deep",
        "/deep/a/b",
        "/token",
    ];
    let others = [
        ask("DELETE", "/", &[]),
        ask("GET", "/", &["host: secret.example"]),
        ask("GET", "/", &["host: SECRET.example"]),
        ask("GET", "/", &["host: secret.example:80"]),
        ask("GET", "/token", &["x-token: admin"]),
        ask("GET", "/token", &["x-token: guest"]),
        ask("POST", "/admin", &["content-type: application/grpc", "content-length: 0"]),
        ask("HEAD", "/admin", &[]),
        Ask::second("GET", "/admin", &[]),
    ];
    Intent::new("denied", targets.map(get).into_iter().chain(others))
}

fn tokens() -> Result<Intent> {
    let issuer = Issuer::new()?;
    let claims = |more: Value| {
        let mut claims =
            json!({"iss": "https://issuer.test", "sub": "ann", "aud": "shop", "exp": now() + 600, "group": "staff"});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    };
    let bearer = |issuer: &Issuer, more: Value| {
        issuer.token(&claims(more)).map(|token| format!("authorization: Bearer {token}"))
    };
    let good = bearer(&issuer, json!({}))?;
    let mut heads = vec![
        good.clone(),
        bearer(&issuer, json!({"exp": now() - 600}))?,
        bearer(&issuer, json!({"exp": now() - 30}))?,
        bearer(&issuer, json!({"nbf": now() + 600}))?,
        bearer(&issuer, json!({"aud": "other"}))?,
        bearer(&issuer, json!({"aud": ["other", "shop"]}))?,
        bearer(&issuer, json!({"iss": "https://other.test"}))?,
        bearer(&Issuer::new()?, json!({}))?,
        bearer(&issuer, json!({"group": ["a", "b"]}))?,
        bearer(&issuer, json!({"group": 7}))?,
        bearer(&issuer, json!({"exp": null}))?,
        format!("{}AAAAAAAA", &good[..good.len() - 8]),
        good.replace("Bearer", "bearer"),
        good.replace("Bearer ", "Bearer  "),
        "authorization: Bearer".to_owned(),
        "authorization: Bearer ".to_owned(),
        "authorization: Bearer a.b.c".to_owned(),
        "authorization: Bearer abc".to_owned(),
        "authorization: Basic YTpi".to_owned(),
        "x-group: forged".to_owned(),
    ];
    heads.push(format!("{good}\r\nx-group: forged"));
    let token = good.rsplit(' ').next().unwrap_or_default();
    let asks = heads.iter().map(|head| ask("GET", "/a", &[head])).chain([
        get("/a"),
        get(&format!("/a?access_token={token}&b=c")),
        get("/a?b=c&access_token=bad"),
    ]);
    let mut intent = Intent::new("tokens", asks);
    intent.replaced.push(("${KEYS}", issuer.keys().to_string()));
    Ok(intent)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
