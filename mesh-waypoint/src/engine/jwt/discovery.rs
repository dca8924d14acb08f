//! Where an issuer says that its keys are (OpenID Connect Discovery 1.0, section 4).

use serde_json::Value;
use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidDiscovery {
    #[error("the discovery document is no JSON object")]
    Json,
    #[error("the discovery document has no jwks_uri")]
    NoUri,
    #[error("jwks_uri {0:?} is no http or https address")]
    Uri(String),
}

/// Where an issuer's document is.
pub fn document(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// Where the keys are. That the document names another issuer is no fault: issuers are reached by names of their own within a
/// cluster, and the reference does not look.
///
/// # Errors
/// The text does not say.
pub fn keys_uri(document: &str) -> Result<String, InvalidDiscovery> {
    let Ok(Value::Object(fields)) = serde_json::from_str(document) else { return Err(InvalidDiscovery::Json) };
    let uri = fields.get("jwks_uri").and_then(Value::as_str).ok_or(InvalidDiscovery::NoUri)?;
    let is_usable = uri.parse::<http::Uri>().is_ok_and(|parsed| {
        matches!(parsed.scheme_str(), Some("http" | "https")) && parsed.host().is_some_and(|host| !host.is_empty())
    });
    if is_usable { Ok(uri.to_owned()) } else { Err(InvalidDiscovery::Uri(uri.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_where_the_keys_are_or_why_not() {
        assert_eq!(document("https://id.example/realm/"), "https://id.example/realm/.well-known/openid-configuration");
        let keys = r#"{"issuer": "https://id.example", "jwks_uri": "https://id.example/keys", "x": [1]}"#;
        assert_eq!(keys_uri(keys).as_deref(), Ok("https://id.example/keys"));
        assert_eq!(keys_uri("[]"), Err(InvalidDiscovery::Json));
        assert_eq!(keys_uri("{"), Err(InvalidDiscovery::Json));
        assert_eq!(keys_uri(r#"{"jwks_uri": 1}"#), Err(InvalidDiscovery::NoUri));
        for bad in ["file:///etc/passwd", "keys", "https://", ""] {
            let document = serde_json::json!({ "jwks_uri": bad }).to_string();
            assert_eq!(keys_uri(&document), Err(InvalidDiscovery::Uri(bad.to_owned())));
        }
    }
}
