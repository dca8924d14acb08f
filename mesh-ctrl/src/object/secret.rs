//! Roots in Secrets, under the names that cert-manager and Istio know them by. Nothing else of a Secret is kept, least of all a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::Metadata;
use super::security::Mistake;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub metadata: Metadata,
    /// PEM.
    pub roots: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawSecret {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
    /// As text, which an API server would put into `data`.
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

const ROOTS: [&str; 2] = ["ca.crt", "cacert"];

impl TryFrom<RawSecret> for Secret {
    type Error = Mistake;

    fn try_from(raw: RawSecret) -> Result<Self, Mistake> {
        let mut roots = None;
        for name in ROOTS {
            let text = match (raw.string_data.get(name), raw.data.get(name)) {
                (Some(text), _) => text.clone(),
                (None, Some(encoded)) => decoded(name, encoded)?,
                (None, None) => continue,
            };
            roots = Some(text.into());
            break;
        }
        Ok(Self { metadata: raw.metadata, roots })
    }
}

fn decoded(name: &str, encoded: &str) -> Result<String, Mistake> {
    let refused = || Mistake { field: format!("data.{name}"), message: "is no PEM in base64".to_owned() };
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| refused())?;
    String::from_utf8(bytes).map_err(|_| refused())
}
