//! RequestAuthentication: issuers and their keys.

use serde_json::Value;

use super::{header, selector};
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::pattern;

pub(super) fn check(spec: &Node, report: &mut Report) {
    selector::check(spec, report);
    for rule in spec.list("jwtRules") {
        check_rule(&rule, report);
    }
}

fn check_rule(rule: &Node, report: &mut Report) {
    if rule.text("issuer").is_empty() && !rule.has("issuer") {
        report.add(Code::MissingSetting, rule, "an issuer is needed");
    }
    let keys = rule.present(&["jwks", "jwksUri", "jwks_uri"]);
    if keys.len() > 1 {
        report.add(Code::ExcludingFields, rule, format!("{} exclude each other", keys.join(" and ")));
    }
    for field in ["jwksUri", "jwks_uri"] {
        if let Some(uri) = rule.get(field)
            && !pattern::matches(
                r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#]|$)",
                uri.str().unwrap_or_default(),
            )
        {
            report.add(Code::BadKeySet, &uri, format!("{} is no URL by http or https", uri.value));
        }
    }
    if let Some(jwks) = rule.get("jwks")
        && let Some(text) = jwks.str()
        && let Err(why) = key_set(text)
    {
        report.add(Code::BadKeySet, &jwks, format!("jwks is no JSON Web Key Set: {why}"));
    }
    for claim in rule.list("outputClaimToHeaders") {
        if !claim.text("header").is_empty() {
            header::check_name(claim.text("header"), &claim, report);
        }
    }
    if let Some(output) = rule.get("outputPayloadToHeader")
        && output.str() != Some("")
    {
        header::check_name(output.str().unwrap_or_default(), &output, report);
    }
}

/// RFC 7517, section 5; a single key (section 4) passes as well, as in Istio.
fn key_set(text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let keys = match value.get("keys") {
        Some(Value::Array(keys)) => keys.as_slice(),
        Some(_) => return Err("keys is no list".to_owned()),
        None => std::slice::from_ref(&value),
    };
    for (index, key) in keys.iter().enumerate() {
        let kind = key.get("kty").and_then(Value::as_str).ok_or_else(|| format!("key {index} has no kty"))?;
        let needed: &[&str] = match kind {
            "RSA" => &["n", "e"],
            "EC" => &["crv", "x", "y"],
            "OKP" => &["crv", "x"],
            "oct" => &["k"],
            other => return Err(format!("key {index} has kty {other:?}, which nobody knows")),
        };
        if let Some(missing) = needed.iter().find(|field| key.get(**field).and_then(Value::as_str).is_none()) {
            return Err(format!("key {index} of kty {kind} has no {missing}"));
        }
    }
    Ok(())
}
