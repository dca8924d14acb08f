//! What is in force: the snapshot, and each model made ready.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_core::l7::{Layer7, Target};
use mesh_core::snapshot::Snapshot;
use tracing::warn;

/// One consistent state, published whole.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub snapshot: Arc<Snapshot>,
    compiled: HashMap<Target, Arc<Compiled>>,
}

/// A model, made ready for requests.
#[derive(Debug)]
pub struct Compiled {
    pub model: Arc<Layer7>,
}

impl Compiled {
    /// Whether something is said about who may ask, by what a request is.
    pub fn guards_requests(&self) -> bool {
        !self.model.policies.is_empty() || !self.model.jwt.is_empty()
    }

    /// # Errors
    /// Something in it cannot be carried out by this version.
    pub fn new(model: &Arc<Layer7>) -> Result<Self, String> {
        Ok(Self { model: model.clone() })
    }
}

impl World {
    /// The next state. A model that did not change is not made anew; one that cannot be made leaves what was in force.
    pub fn next(&self, snapshot: Arc<Snapshot>) -> Self {
        let mut compiled = HashMap::new();
        for model in snapshot.layer7s() {
            let before = self.compiled.get(&model.target);
            let now = match before {
                Some(before) if Arc::ptr_eq(&before.model, model) => Some(before.clone()),
                _ => match Compiled::new(model) {
                    Ok(made) => Some(Arc::new(made)),
                    Err(error) => {
                        warn!(model = model.name(), error, "a model is not taken; what was in force stays");
                        before.cloned()
                    }
                },
            };
            compiled.extend(now.map(|now| (model.target.clone(), now)));
        }
        Self { snapshot, compiled }
    }

    pub fn compiled(&self, target: &Target) -> Option<&Arc<Compiled>> {
        self.compiled.get(target)
    }
}
