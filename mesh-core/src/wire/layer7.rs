//! `weft.v1.Layer7`, a resource of its own <-> [`Layer7`].

use thiserror::Error;

use super::extensions as wire;
use crate::l7::Layer7;

#[derive(Debug, Error)]
#[error("the model of a waypoint is of another version, or damaged: {0}")]
pub struct InvalidLayer7(#[from] serde_json::Error);

impl TryFrom<wire::Layer7> for Layer7 {
    type Error = InvalidLayer7;

    fn try_from(message: wire::Layer7) -> Result<Self, InvalidLayer7> {
        Ok(serde_json::from_slice(&message.json)?)
    }
}

impl From<&Layer7> for wire::Layer7 {
    /// The same model comes to the same bytes: fields are in the order of the type, keys in that of their values.
    fn from(model: &Layer7) -> Self {
        let json = serde_json::to_vec(model).expect("a model has string keys and finite numbers");
        Self { json: json.into() }
    }
}
