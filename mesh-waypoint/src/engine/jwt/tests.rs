//! Tokens as a table: what a request brings, and what becomes of it.

mod signer;

use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use expect_test::{Expect, expect};
use mesh_core::l7::authentication::TokenHeader;
use proptest::prelude::*;
use serde_json::json;

use super::keys::{Algorithm, Signed};
use super::*;
use signer::{RSA, Signer};

const NOW: u64 = 1_700_000_000;

/// `issuer` and the keys of the one RSA key, in the usual places.
fn rule(issuer: &str) -> JwtRule {
    JwtRule {
        origin: "ns/ra".into(),
        issuer: issuer.into(),
        audiences: Vec::new(),
        keys: Keys::Inline(RSA.key_set().into()),
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

/// A rule that looks in one header only.
fn in_header(issuer: &str, name: &str) -> JwtRule {
    let headers = vec![TokenHeader { name: name.into(), prefix: "".into() }];
    JwtRule { headers, ..rule(issuer) }
}

fn token(payload: Value) -> String {
    RSA.token(json!({ "alg": "RS256" }), &payload)
}

fn good() -> String {
    token(json!({ "iss": "i", "sub": "s" }))
}

fn run(rules: &[JwtRule], target: &str, fields: &[(&str, &str)]) -> Result<Accepted, Refusal> {
    let head = Head { scheme: "http", host: "a.example", target, fields: &fields };
    Authentication::compile(rules).authenticate(&head, &|_| None, NOW)
}

fn check(rules: &[JwtRule], target: &str, fields: &[(&str, &str)], expect: Expect) {
    expect.assert_eq(&describe(run(rules, target, fields)));
}

fn bearer(rule: JwtRule, token: &str, expect: Expect) {
    check(&[rule], "/", &[("authorization", &format!("Bearer {token}"))], expect);
}

fn describe(result: Result<Accepted, Refusal>) -> String {
    match result {
        Err(refusal) => format!("{} {}", refusal.status, refusal.body),
        Ok(Accepted { authenticated, changes }) => {
            let mut text = match authenticated {
                None => "nobody".to_owned(),
                Some(who) => who.principal.map_or("no principal".to_owned(), |principal| principal.to_string()),
            };
            if !changes.remove.is_empty() {
                text += &format!(" -{}", changes.remove.join(","));
            }
            for (name, value) in changes.set {
                text += &format!(" {name}={value}");
            }
            if let Some(target) = changes.target {
                text += &format!(" {target}");
            }
            text
        }
    }
}

#[test]
fn no_token_or_another_scheme_passes_as_nobody() {
    let basic = format!("basic {}", good());
    check(&[rule("i")], "/", &[], expect!["nobody"]);
    check(&[rule("i")], "/", &[("authorization", &basic)], expect!["nobody"]);
    check(&[rule("i")], "/", &[("authorization", &format!("bearer {}", good()))], expect!["nobody"]);
    check(&[rule("i")], "/", &[("authorization", &format!("Bearer\t{}", good()))], expect!["nobody"]);
    check(&[rule("i")], "/?access_tokens=x", &[], expect!["nobody"]);
    check(&[], "/", &[("authorization", "Bearer x")], expect!["nobody"]);
}

#[test]
fn a_good_token_is_who_it_says_and_is_taken_out() {
    bearer(rule("i"), &good(), expect!["i/s -authorization"]);
    bearer(JwtRule { forward: true, ..rule("i") }, &good(), expect!["i/s"]);
    bearer(rule("i"), &token(json!({ "iss": "i" })), expect!["no principal -authorization"]);
    let target = format!("/p?a=%20&access_token={}&b=", good());
    check(&[rule("i")], &target, &[], expect!["i/s /p?a=%20&b="]);
    check(&[rule("i")], &format!("/p?access_token={}", good()), &[], expect!["i/s /p"]);
    let both = [("authorization", &*format!("Bearer {}", good()))];
    check(&[rule("i")], &target, &both, expect!["i/s -authorization /p?a=%20&b="]);
}

#[test]
fn a_bad_token_is_refused_with_the_reason() {
    for (text, expect) in [
        ("x", expect!["401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"]),
        ("a.b", expect!["401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"]),
        ("a.b.c.d", expect!["401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"]),
        ("", expect!["401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"]),
        ("a.b.c", expect!["401 Jwt header is an invalid Base64url encoded"]),
        ("YQ.b.c", expect!["401 Jwt header is an invalid JSON"]),
        ("e30.e30.c", expect!["401 Jwt header [alg] field is required and must be a string"]),
    ] {
        bearer(rule("i"), text, expect);
    }
    let header_of = |header: Value, expect| bearer(rule("i"), &RSA.token(header, &json!({ "iss": "i" })), expect);
    header_of(json!({ "alg": "none" }), expect!["401 Jwt header [alg] is not supported"]);
    header_of(json!({ "alg": "HS256" }), expect!["401 Jwt header [alg] is not supported"]);
    header_of(json!({ "alg": "rs256" }), expect!["401 Jwt header [alg] is not supported"]);
    header_of(json!({ "alg": "RS256", "kid": 1 }), expect!["401 Jwt header [kid] field is not a string"]);
    header_of(json!({ "alg": "RS256", "crit": ["exp"] }), expect!["401 Jwt verification fails"]);
    header_of(json!({ "alg": "PS256", "typ": "JWT" }), expect!["no principal -authorization"]);
    let claims = |claims: Value, expect| bearer(rule("i"), &token(claims), expect);
    claims(json!([]), expect!["401 Jwt payload is an invalid JSON"]);
    claims(json!({ "iss": 1 }), expect!["401 Jwt payload [iss] field is not a string"]);
    claims(json!({ "iss": "j" }), expect!["401 Jwt issuer is not configured"]);
    claims(json!({}), expect!["401 Jwt issuer is not configured"]);
    claims(json!({ "iss": "i", "aud": 1 }), expect!["401 Jwt payload [aud] field is not a string or string list"]);
    claims(json!({ "iss": "i", "exp": "1" }), expect!["401 Jwt payload [exp] field is not an integer"]);
    claims(json!({ "iss": "i", "exp": -1 }), expect!["401 Jwt payload [exp] field is not a positive 64 bit integer"]);
    let other = rsa_of_another().token(json!({ "alg": "RS256" }), &json!({ "iss": "i" }));
    bearer(rule("i"), &other, expect!["401 Jwt verification fails"]);
    let unsigned = good().rsplit_once('.').map(|(message, _)| format!("{message}.")).expect("dots");
    bearer(rule("i"), &unsigned, expect!["401 Jwt verification fails"]);
}

#[test]
fn time_has_a_minute_of_skew_and_no_end_is_fine() {
    let at = |claims: Value, expect| bearer(rule("i"), &token(claims), expect);
    at(json!({ "iss": "i", "exp": NOW - 60 }), expect!["no principal -authorization"]);
    at(json!({ "iss": "i", "exp": NOW - 61 }), expect!["401 Jwt is expired"]);
    at(json!({ "iss": "i", "exp": 0 }), expect!["401 Jwt is expired"]);
    at(json!({ "iss": "i", "exp": (NOW - 60) as f64 + 0.5 }), expect!["no principal -authorization"]);
    at(json!({ "iss": "i", "nbf": NOW + 60 }), expect!["no principal -authorization"]);
    at(json!({ "iss": "i", "nbf": NOW + 61 }), expect!["401 Jwt not yet valid"]);
    at(json!({ "iss": "i", "exp": u64::MAX }), expect!["no principal -authorization"]);
}

#[test]
fn the_wrong_audience_is_403() {
    let own = || JwtRule { audiences: vec!["x".into(), "https://svc.example".into()], ..rule("i") };
    let of = |aud: Value, expect| bearer(own(), &token(json!({ "iss": "i", "aud": aud })), expect);
    of(json!("x"), expect!["no principal -authorization"]);
    of(json!(["y", "x"]), expect!["no principal -authorization"]);
    of(json!("svc.example/"), expect!["no principal -authorization"]);
    of(json!("y"), expect!["403 Audiences in Jwt are not allowed"]);
    of(json!([]), expect!["403 Audiences in Jwt are not allowed"]);
    bearer(own(), &good(), expect!["403 Audiences in Jwt are not allowed"]);
}

#[test]
fn the_answer_says_where_and_that_the_token_is_invalid() {
    let refusal = run(&[rule("i")], "/p?q=\"1\"", &[("authorization", "Bearer x")]).expect_err("a bad token");
    expect![[r#"Bearer realm="http://a.example/p?q=\"1\"", error="invalid_token""#]]
        .assert_eq(&refusal.www_authenticate);
    assert_eq!((refusal.status, refusal.reason), (401, BadToken::Form));
}

#[test]
fn one_bad_token_spoils_those_of_its_rule_and_not_those_of_others() {
    let (good, bad) = (good(), "bad".to_owned());
    let x = |text: &str| text.to_owned();
    let one = JwtRule {
        headers: ["x-a", "x-b"].map(|name| TokenHeader { name: name.into(), prefix: "".into() }).into(),
        ..rule("i")
    };
    let form = "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    let seen = |rules: &[JwtRule], a: &str, b: &str| describe(run(rules, "/", &[("x-a", &x(a)), ("x-b", &x(b))]));
    assert_eq!(seen(std::slice::from_ref(&one), &good, &bad), form);
    assert_eq!(seen(std::slice::from_ref(&one), &bad, &good), form);
    assert_eq!(seen(&[one], &good, &good), "i/s -x-a,x-b");
    let two = [in_header("i", "x-a"), in_header("j", "x-b")];
    assert_eq!(seen(&two, &good, &bad), "i/s -x-a");
    assert_eq!(seen(&two, &bad, &token(json!({ "iss": "j", "sub": "t" }))), "j/t -x-b");
    assert_eq!(seen(&two, &bad, &bad), form);
    // A token of the other's in one's own place.
    check(&two, "/", &[("x-b", &good)], expect!["401 Jwt issuer is not configured"]);
    check(&two, "/", &[("authorization", "Bearer bad")], expect!["nobody"]);
    // Two issuers in one place.
    let shared = [rule("j"), rule("i")];
    check(&shared, "/", &[("authorization", &format!("Bearer {good}"))], expect!["i/s -authorization"]);
    let expired = token(json!({ "iss": "i", "exp": 1 }));
    let expired = format!("Bearer {expired}");
    check(&shared, "/", &[("authorization", &expired)], expect!["401 Jwt is expired"]);
}

#[test]
fn places_of_ones_own_replace_the_usual_ones() {
    let headers = vec![TokenHeader { name: "x-jwt".into(), prefix: "Token ".into() }];
    let own = JwtRule { headers, params: vec!["jwt".into()], cookies: vec!["session".into()], ..rule("i") };
    let own = [own];
    check(&own, "/", &[("authorization", &format!("Bearer {}", good()))], expect!["nobody"]);
    check(&own, "/", &[("x-jwt", &good())], expect!["nobody"]);
    check(&own, "/", &[("x-jwt", &format!("Token {}", good()))], expect!["i/s -x-jwt"]);
    check(&own, "/", &[("x-jwt", "Basic x"), ("x-jwt", &format!("Token {}, more", good()))], expect!["i/s -x-jwt"]);
    check(&own, &format!("/?jwt={}", good()), &[], expect!["i/s /"]);
    check(&own, &format!("/?jw%74={}", good().replacen('.', "%2E", 1)), &[], expect!["i/s /"]);
    check(&own, "/", &[("cookie", &format!("a=b; session={}", good()))], expect!["i/s"]);
    check(&own, "/", &[("cookie", "a=b"), ("cookie", &format!("session=\"{}\"; c=d", good()))], expect!["i/s"]);
    check(
        &own,
        "/?jwt=",
        &[],
        expect!["401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"],
    );
}

#[test]
fn claims_go_on_in_headers_and_a_clients_own_copies_never_do() {
    let claims = json!({ "iss": "i", "sub": "s", "n": 7, "b": true, "l": ["x", 1], "o": { "k": "v" }, "evil": "a\r\nb: c", "z": null });
    let header = |name: &str, path: &[&str]| (name.into(), path.iter().map(|part| (*part).into()).collect());
    let claim_headers = vec![
        header("x-sub", &["sub"]),
        header("x-n", &["n"]),
        header("x-b", &["b"]),
        header("x-l", &["l"]),
        header("x-k", &["o", "k"]),
        header("x-none", &["none"]),
        header("x-evil", &["evil"]),
        header("x-z", &["z"]),
    ];
    let own = [JwtRule { claim_headers, forward: true, payload_header: Some("x-payload".into()), ..rule("i") }];
    let text = token(claims.clone());
    let seen = run(&own, "/", &[("authorization", &format!("Bearer {text}"))]).expect("a good token");
    let payload = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    let set: Vec<String> = seen.changes.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let list = format!("x-l={}", BASE64_STANDARD.encode(r#"["x",1]"#));
    assert_eq!(set, [&format!("x-payload={payload}"), "x-sub=s", "x-n=7", "x-b=true", &list, "x-k=v"]);
    check(&own, "/", &[("x-sub", "root")], expect!["nobody -x-payload,x-sub,x-n,x-b,x-l,x-k,x-none,x-evil,x-z"]);
}

#[test]
fn what_policies_see() {
    let own = JwtRule { space_delimited: vec!["roles".into()], ..rule("i") };
    let claims =
        json!({ "iss": "i", "sub": "s", "aud": ["x", "y"], "azp": "p", "scope": "a b", "roles": "r", "t": "a b" });
    let seen = run(&[own], "/", &[("authorization", &format!("Bearer {}", token(claims)))]).expect("a good token");
    let seen = seen.authenticated.expect("a token");
    let claim = |name: &str| seen.claim(&[name.into()]).cloned();
    assert_eq!((seen.principal.as_deref(), seen.presenter.as_deref()), (Some("i/s"), Some("p")));
    assert_eq!(seen.audiences, ["x", "y"]);
    assert_eq!(claim("scope"), Some(json!(["a", "b"])));
    assert_eq!(claim("roles"), Some(json!(["r"])));
    assert_eq!(claim("t"), Some(json!("a b")));
    assert_eq!((claim("none"), seen.claim(&[])), (None, None));
}

#[test]
fn every_algorithm_verifies_with_its_key_and_no_other() {
    let all = [
        ("ES256", Signer::ec("P-256")),
        ("ES384", Signer::ec("P-384")),
        ("ES512", Signer::ec("P-521")),
        ("EdDSA", Signer::ed()),
    ];
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|algorithm| (algorithm, &*RSA));
    let all: Vec<(&str, &Signer)> = all.iter().map(|(name, signer)| (*name, signer)).chain(rsa).collect();
    for (algorithm, signer) in &all {
        let text = signer.token(json!({ "alg": algorithm }), &json!({}));
        let parsed = Token::parse(&text).expect("a token");
        for (other, key) in &all {
            let keys = KeySet::parse(&key.key_set()).expect("a key set");
            let expected = if std::ptr::eq(*key, *signer) { Ok(()) } else { Err(BadToken::Signature) };
            assert_eq!(keys.verify(&parsed.signed()), expected, "{algorithm} with the key of {other}");
        }
        let keys = KeySet::parse(&signer.key_set()).expect("a key set");
        let forged = Signed { message: b"other", ..parsed.signed() };
        assert_eq!(keys.verify(&forged), Err(BadToken::Signature), "{algorithm}");
    }
}

#[test]
fn the_key_that_is_named_is_tried_and_without_a_name_all() {
    let (other, named) = (rsa_of_another(), |signer: &Signer, id: Option<&str>, more: Value| {
        let mut jwk = signer.jwk();
        if let Some(id) = id {
            jwk["kid"] = json!(id);
        }
        more.as_object().expect("fields").iter().for_each(|(name, value)| jwk[name] = value.clone());
        jwk
    });
    let none = || json!({});
    let verify = |keys: Vec<Value>, header: Value| {
        let keys = Keys::Inline(json!({ "keys": keys }).to_string().into());
        let text = RSA.token(header, &json!({ "iss": "i" }));
        describe(run(&[JwtRule { keys, ..rule("i") }], "/", &[("authorization", &format!("Bearer {text}"))]))
    };
    let good = "no principal -authorization";
    let (a, b) = (named(other, Some("a"), none()), named(&RSA, Some("b"), none()));
    assert_eq!(verify(vec![a.clone(), b.clone()], json!({ "alg": "RS256" })), good);
    assert_eq!(verify(vec![a.clone(), b.clone()], json!({ "alg": "RS256", "kid": "b" })), good);
    assert_eq!(verify(vec![a.clone(), b.clone()], json!({ "alg": "RS256", "kid": "a" })), "401 Jwt verification fails");
    let no_key = "401 Jwks doesn't have key to match kid or alg from Jwt";
    assert_eq!(verify(vec![a.clone(), b], json!({ "alg": "RS256", "kid": "c" })), no_key);
    assert_eq!(verify(vec![a, named(&RSA, None, none())], json!({ "alg": "RS256", "kid": "c" })), good);
    let only = |fields: Value| verify(vec![named(&RSA, None, fields)], json!({ "alg": "RS256" }));
    assert_eq!(only(json!({ "alg": "RS384" })), no_key);
    assert_eq!(only(json!({ "alg": "RS256", "use": "sig" })), good);
    assert_eq!(only(json!({ "use": "enc" })), "401 Jwks doesn't have any valid public key");
    assert_eq!(only(json!({ "kty": "oct", "k": "AAAA" })), "401 Jwks doesn't have any valid public key");
}

#[test]
fn keys_elsewhere_are_asked_for() {
    let own = [JwtRule { keys: Keys::Uri("https://id.example/keys".into()), ..rule("i") }];
    bearer(own[0].clone(), &good(), expect!["401 Jwks remote fetch is failed"]);
    let keys = Arc::new(KeySet::parse(&RSA.key_set()).expect("a key set"));
    let bearer = format!("Bearer {}", good());
    let fields: &[(&str, &str)] = &[("authorization", &bearer)];
    let head = Head { scheme: "http", host: "a", target: "/", fields: &fields };
    let seen = Authentication::compile(&own).authenticate(&head, &|_| Some(keys.clone()), NOW);
    expect!["i/s -authorization"].assert_eq(&describe(seen));
}

#[test]
fn the_examples_of_the_rfcs_verify() {
    // RFC 7515, appendix A.3.
    let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" }] });
    let text = "eyJhbGciOiJFUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let own = || JwtRule { keys: Keys::Inline(keys.to_string().into()), ..rule("joe") };
    bearer(own(), text, expect!["401 Jwt is expired"]);
    let bearer = format!("Bearer {text}");
    let fields: &[(&str, &str)] = &[("authorization", &bearer)];
    let head = Head { scheme: "http", host: "a", target: "/", fields: &fields };
    let seen = Authentication::compile(&[own()]).authenticate(&head, &|_| None, 1_300_819_380);
    expect!["no principal -authorization"].assert_eq(&describe(seen));
    // RFC 8037, appendix A.4: its payload is no JSON.
    let key =
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] });
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signed = Signed { algorithm: Algorithm::EdDsa, key_id: None, message, signature: &signature };
    assert_eq!(KeySet::parse(&key.to_string()).expect("a key set").verify(&signed), Ok(()));
}

#[test]
fn a_key_set_that_is_none_says_so() {
    for (text, error) in [
        ("", keys::InvalidKeySet::Json),
        ("[]", keys::InvalidKeySet::Json),
        ("{}", keys::InvalidKeySet::Json),
        (r#"{"keys": {}}"#, keys::InvalidKeySet::Json),
        (r#"{"keys": []}"#, keys::InvalidKeySet::Empty),
        (
            r#"{"keys": [1, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": "", "y": "*"}]}"#,
            keys::InvalidKeySet::Empty,
        ),
    ] {
        assert_eq!(KeySet::parse(text), Err(error), "{text}");
    }
}

fn rsa_of_another() -> &'static Signer {
    static OTHER: std::sync::LazyLock<Signer> = std::sync::LazyLock::new(|| {
        Signer::Rsa(aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key"))
    });
    &OTHER
}

proptest! {
    #[test]
    fn arbitrary_heads_never_panic(value in "\\PC{0,40}", target in "/[a-z?&=%é.]{0,30}", cookie in "[a-z=;\" ]{0,20}") {
        let own = JwtRule {
            headers: vec![TokenHeader { name: "a".into(), prefix: "x".into() }],
            params: vec!["a".into()],
            cookies: vec!["a".into()],
            ..rule("i")
        };
        let fields: &[(&str, &str)] = &[("a", &value), ("authorization", &format!("Bearer {value}")), ("cookie", &cookie)];
        if let Err(refusal) = run(&[own, rule("i")], &target, fields) {
            prop_assert!(http::HeaderValue::from_str(&refusal.www_authenticate).is_ok());
        }
    }

    #[test]
    fn arbitrary_bytes_in_the_parts_of_a_token_are_never_accepted(
        header in prop::collection::vec(any::<u8>(), 0..40),
        payload in prop::collection::vec(any::<u8>(), 0..40),
        signature in prop::collection::vec(any::<u8>(), 0..300),
        is_header_good: bool,
    ) {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let header = if is_header_good { encode(br#"{"alg":"RS256"}"#) } else { encode(&header) };
        let text = format!("Bearer {header}.{}.{}", encode(&payload), encode(&signature));
        prop_assert!(run(&[rule("i")], "/", &[("authorization", &text)]).is_err());
    }

    #[test]
    fn a_token_with_any_bit_changed_is_refused(at in 0usize..10_000, bit in 0u8..8) {
        static TOKEN: std::sync::LazyLock<String> = std::sync::LazyLock::new(good);
        let mut bytes = TOKEN.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(text) = String::from_utf8(bytes) {
            prop_assert!(run(&[in_header("i", "x")], "/", &[("x", &text)]).is_err());
        }
    }

    #[test]
    fn arbitrary_key_sets_never_panic(fields in prop::collection::vec(("[a-z]{1,3}", "[A-Za-z0-9_=-]{0,90}"), 0..4), kind in 0usize..3) {
        let mut jwk = serde_json::Map::new();
        jwk.extend(fields.into_iter().map(|(name, value)| (name, Value::from(value))));
        let (kind, curve) = [("RSA", "n"), ("EC", "P-256"), ("OKP", "Ed25519")][kind];
        jwk.insert("kty".into(), kind.into());
        jwk.insert("crv".into(), curve.into());
        for name in ["n", "e", "x", "y"] {
            jwk.entry(name).or_insert_with(|| "AQAB".into());
        }
        let text = good();
        let parsed = Token::parse(&text).expect("a token");
        if let Ok(keys) = KeySet::parse(&json!({ "keys": [jwk] }).to_string()) {
            prop_assert!(keys.verify(&parsed.signed()).is_err());
        }
    }
}
