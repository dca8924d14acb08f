//! Issuers that have their keys elsewhere: when they are asked, and what holds while they do not answer.

#[path = "support/bench.rs"]
#[allow(dead_code)]
mod bench;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use bench::{Bench, Server, nobody, serve, text};
use futures_util::future::join_all;
use http::{Request, Response};
use mesh_core::l7::authentication::{self, JwtRule};
use mesh_waypoint::keys::{Config, Keys};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// One key of an issuer's.
struct Key(&'static str, Ed25519KeyPair);

impl Key {
    fn new(id: &'static str) -> Self {
        Self(id, Ed25519KeyPair::generate().unwrap())
    }

    fn jwk(&self) -> Value {
        let x = BASE64_URL_SAFE_NO_PAD.encode(self.1.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.0, "x": x })
    }

    fn token(&self, claims: &Value) -> String {
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&json!({ "alg": "EdDSA", "kid": self.0 })), encode(claims));
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(self.1.sign(message.as_bytes())))
    }

    fn set(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }
}

/// What an issuer answers, to be changed while it serves.
#[derive(Clone, Default)]
struct Says(Arc<Mutex<(u16, String)>>);

impl Says {
    fn new(text: String) -> Self {
        let says = Self::default();
        says.put(200, text);
        says
    }

    fn put(&self, status: u16, text: String) {
        *self.0.lock().unwrap() = (status, text);
    }

    async fn serve(&self) -> Server {
        let says = self.clone();
        Server::start(move |_| {
            let (status, body) = says.0.lock().unwrap().clone();
            text(status, body)
        })
        .await
    }
}

fn rule(keys: authentication::Keys) -> JwtRule {
    JwtRule {
        origin: "shop/ra".into(),
        issuer: "idp".into(),
        audiences: Vec::new(),
        keys,
        headers: Vec::new(),
        params: Vec::new(),
        cookies: Vec::new(),
        payload_header: None,
        claim_headers: Vec::new(),
        forward: false,
        timeout_seconds: 0,
        space_delimited: Vec::new(),
    }
}

fn at(uri: String) -> JwtRule {
    rule(authentication::Keys::Uri(uri.into()))
}

async fn bench(rules: Vec<JwtRule>) -> Bench {
    Bench::new(&[], Keys::default(), |model| model.jwt = rules).await
}

/// Status and text for a request with a token of `key`.
async fn with(bench: &Bench, key: &Key) -> (u16, String) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    carrying(bench, &key.token(&json!({ "iss": "idp", "sub": "me", "aud": "web", "exp": now + 60 }))).await
}

async fn carrying(bench: &Bench, token: &str) -> (u16, String) {
    let response =
        bench.ask(Request::get("/").header("authorization", format!("Bearer {token}")).body("").unwrap()).await;
    (response.status().as_u16(), response.into_body())
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(20), "it never came to that");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ok() -> (u16, String) {
    (200, "ok".to_owned())
}

fn no_keys() -> (u16, String) {
    (401, "Jwks remote fetch is failed".to_owned())
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_who_need_them() {
    let (key, stranger) = (Key::new("a"), Key::new("a"));
    let server = Says::new(key.set()).serve().await;
    let bench = bench(vec![at(format!("http://{}/keys?v=1", server.address))]).await;
    assert_eq!(bench.ask(Request::get("/").body("").unwrap()).await.status(), 200);
    assert_eq!(server.count(), 0, "no token, no question");
    let all = join_all((0..20).map(|_| with(&bench, &key))).await;
    assert!(all.iter().all(|one| *one == ok()), "{all:?}");
    assert_eq!(with(&bench, &stranger).await, (401, "Jwt verification fails".to_owned()));
    assert_eq!(server.count(), 1);
    assert_eq!(server.seen()[0].uri().to_string(), "/keys?v=1");
    assert_eq!(server.seen()[0].headers()["host"], server.address.to_string());
}

#[tokio::test]
async fn a_new_key_is_found_and_unknown_ones_are_not_asked_for_again_and_again() {
    let (old, new, unknown) = (Key::new("old"), Key::new("new"), Key::new("unknown"));
    let says = Says::new(old.set());
    let server = says.serve().await;
    let bench = bench(vec![at(format!("http://{}/", server.address))]).await;
    assert_eq!(with(&bench, &old).await, ok());
    says.put(200, json!({ "keys": [old.jwk(), new.jwk()] }).to_string());
    let all = join_all((0..10).map(|_| with(&bench, &new))).await;
    assert!(all.iter().all(|one| *one == ok()), "{all:?}");
    assert_eq!(with(&bench, &old).await, ok());
    for _ in 0..3 {
        assert_eq!(with(&bench, &unknown).await.0, 401);
    }
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn old_keys_stay_in_use_while_the_issuer_does_not_answer() {
    let (key, new) = (Key::new("a"), Key::new("b"));
    let says = Says::new(key.set());
    let server = says.serve().await;
    let keys = Keys::new(Config {
        refresh: Duration::ZERO,
        retry: (Duration::from_millis(1), Duration::from_millis(1)),
        ..Config::default()
    });
    let bench = Bench::new(&[], keys, |model| model.jwt = vec![at(format!("http://{}/", server.address))]).await;
    assert_eq!(with(&bench, &key).await, ok());
    for (status, text) in [(500, "out of order"), (200, "no key set"), (302, ""), (200, "{\"keys\":[]}")] {
        says.put(status, text.to_owned());
        let before = server.count();
        until(async || {
            assert_eq!(with(&bench, &key).await, ok());
            server.count() > before + 1
        })
        .await;
    }
    // It is back, with another key: that is noticed in the background.
    says.put(200, new.set());
    until(async || with(&bench, &new).await == ok()).await;
    until(async || with(&bench, &key).await.0 == 401).await;
}

#[tokio::test]
async fn without_keys_no_token_passes_and_the_issuer_is_left_alone_for_a_while() {
    let key = Key::new("a");
    let gone = nobody().await;
    let says = Says::new("{}".to_owned());
    let server = says.serve().await;
    let bench = bench(vec![at(format!("http://{}/", server.address))]).await;
    for _ in 0..5 {
        assert_eq!(with(&bench, &key).await, no_keys());
    }
    assert_eq!(server.count(), 1);
    says.put(200, key.set());
    until(async || with(&bench, &key).await == ok()).await;
    for uri in [
        format!("http://{gone}/"),
        "http://no-such-host.invalid/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "keys".to_owned(),
    ] {
        let bench = self::bench(vec![at(uri)]).await;
        assert_eq!(with(&bench, &key).await, no_keys());
        assert_eq!(bench.ask(Request::get("/").body("").unwrap()).await.status(), 200);
    }
}

#[tokio::test]
async fn an_issuer_that_says_nothing_or_too_much_is_given_up() {
    let key = Key::new("a");
    let slow = JwtRule { timeout_seconds: 1, ..at(format!("http://{}/", Server::silent().await)) };
    let began = Instant::now();
    assert_eq!(with(&bench(vec![slow]).await, &key).await, no_keys());
    assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(4));
    let much = json!({ "keys": [key.jwk()], "more": "x".repeat(1 << 20) }).to_string();
    let server = Says::new(much).serve().await;
    assert_eq!(with(&bench(vec![at(format!("http://{}/", server.address))]).await, &key).await, no_keys());
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let key = Key::new("a");
    let keys = Says::new(key.set()).serve().await;
    let to = format!("http://{}/", keys.address);
    let server = Server::start(move |_| {
        let mut response: Response<_> = text(302, "");
        response.headers_mut().insert("location", to.parse().unwrap());
        response
    })
    .await;
    assert_eq!(with(&bench(vec![at(format!("http://{}/", server.address))]).await, &key).await, no_keys());
    assert_eq!((server.count(), keys.count()), (1, 0));
}

#[tokio::test]
async fn the_discovery_document_says_where_the_keys_are() {
    let key = Key::new("a");
    let keys = Says::new(key.set()).serve().await;
    let document = json!({ "issuer": "x", "jwks_uri": format!("http://{}/jwks", keys.address) }).to_string();
    let server = Says::new(document).serve().await;
    let issuer = format!("http://{}/realm", server.address);
    let bench = bench(vec![JwtRule { issuer: issuer.as_str().into(), ..rule(authentication::Keys::Discover) }]).await;
    let token = key.token(&json!({ "iss": issuer, "sub": "me" }));
    assert_eq!(carrying(&bench, &token).await, ok());
    assert_eq!(server.seen()[0].uri().path(), "/realm/.well-known/openid-configuration");
    assert_eq!(keys.seen()[0].uri().path(), "/jwks");
}

#[tokio::test]
async fn a_host_may_be_a_service_of_the_mesh_by_any_of_its_names() {
    let key = Key::new("a");
    let server = Says::new(key.set()).serve().await;
    for host in ["idp", "idp.shop", "idp.shop.svc", "IDP.shop.svc.cluster.local", "idp.shop.svc.cluster.local.:80"] {
        let rules = vec![at(format!("http://{host}/"))];
        let bench = Bench::new(&[("idp", server.address)], Keys::default(), |model| model.jwt = rules).await;
        let before = server.count();
        assert_eq!(with(&bench, &key).await, ok(), "{host}");
        assert_eq!(server.count(), before + 1, "{host}");
    }
    // It has no such port, and is not looked for elsewhere.
    let rules = vec![at("http://idp.shop:81/".to_owned())];
    let bench = Bench::new(&[("idp", server.address)], Keys::default(), |model| model.jwt = rules).await;
    assert_eq!(with(&bench, &key).await, no_keys());
}

#[tokio::test]
async fn another_rules_complaint_does_not_keep_keys_from_being_fetched() {
    let key = Key::new("a");
    let server = Says::new(key.set()).serve().await;
    let first = at(format!("http://{}/", server.address));
    let second = JwtRule { audiences: vec!["other".into()], ..first.clone() };
    let bench = bench(vec![first, second]).await;
    assert_eq!(with(&bench, &key).await, ok());
}

#[tokio::test]
async fn an_https_issuer_has_to_show_who_it_is() {
    let key = Key::new("a");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let set = key.set();
    tokio::spawn(async move {
        let answer = Arc::new(move |_: &Request<_>| text(200, set.clone()));
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream, false, answer.clone(), Arc::default()));
            }
        }
    });
    assert_eq!(with(&bench(vec![at(uri.clone())]).await, &key).await, no_keys(), "the system does not know it");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let keys = Keys::new(Config { roots: Some(Arc::new(roots)), ..Config::default() });
    let bench = Bench::new(&[], keys, |model| model.jwt = vec![at(uri)]).await;
    assert_eq!(with(&bench, &key).await, ok());
}
