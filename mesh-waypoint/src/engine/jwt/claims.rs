//! What a good token says.

use std::sync::Arc;

use mesh_core::l7::authentication::JwtRule;
use serde_json::{Map, Value};

/// What policies see of a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Authenticated {
    /// `issuer/subject`, if it has both.
    pub principal: Option<Arc<str>>,
    pub audiences: Vec<String>,
    /// The claim `azp`.
    pub presenter: Option<String>,
    /// Those that are words by spaces are lists.
    claims: Map<String, Value>,
}

/// Claims that are lists of words by spaces wherever they are.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

impl Authenticated {
    pub(in crate::engine) fn new(mut claims: Map<String, Value>, rule: &JwtRule) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| format!("{issuer}/{subject}").into());
        let presenter = text("azp").map(str::to_owned);
        let audiences = audiences(&claims).map(str::to_owned).collect();
        for name in SPACE_DELIMITED.into_iter().chain(rule.space_delimited.iter().map(|name| &**name)) {
            if let Some(value) = claims.get_mut(name)
                && let Value::String(text) = value
            {
                *value = text.split_ascii_whitespace().map(Value::from).collect();
            }
        }
        Self { principal, audiences, presenter, claims }
    }

    /// A claim, or one within it.
    pub fn claim(&self, path: &[Arc<str>]) -> Option<&Value> {
        at(&self.claims, path)
    }
}

pub(super) fn at<'a>(claims: &'a Map<String, Value>, path: &[Arc<str>]) -> Option<&'a Value> {
    let (first, within) = path.split_first()?;
    within.iter().try_fold(claims.get(&**first)?, |value, name| value.as_object()?.get(&**name))
}

/// One text or a list of them (RFC 7519, section 4.1.3).
pub(super) fn audiences(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let value = claims.get("aud");
    let list = value.and_then(Value::as_array).into_iter().flatten();
    value.into_iter().filter(|value| value.is_string()).chain(list).filter_map(Value::as_str)
}
