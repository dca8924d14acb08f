//! Keys of issuers that have them elsewhere: fetched when a token needs them, kept, and fetched again when they may be old.

use std::sync::Arc;

use mesh_core::l7::authentication::JwtRule;

use crate::engine::jwt::keys::KeySet;

/// Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Keys;

impl Keys {
    /// What is there of a rule's issuer.
    pub fn known(&self, _rule: &JwtRule) -> Option<Arc<KeySet>> {
        None
    }

    /// Fetches the keys of a rule's issuer, unless that was tried a moment ago.
    pub async fn fetch(&self, _rule: &JwtRule) {}
}
