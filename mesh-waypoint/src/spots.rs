//! Destinations made ready, so that a request pays for none of what only a change of the world changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use mesh_core::l7::Protocol;
use mesh_core::service::Service;

use crate::engine::balance;
use crate::engine::experience::{Experience, Target};
use crate::engine::limits::Breaker;
use crate::originate::Secured;
use crate::world::{Compiled, World};

/// What is known and counted of a destination, the same for all requests until something changes.
#[derive(Debug)]
pub struct Spot {
    pub target: Target,
    pub service: Arc<Service>,
    pub protocol: Protocol,
    pub tls: Option<Secured>,
    pub endpoints: Vec<balance::Endpoint>,
    pub experience: Arc<Experience>,
    pub breaker: Arc<Breaker>,
}

/// The destinations of one worker's requests, made ready.
#[derive(Clone, Debug, Default)]
pub struct Spots(Arc<Mutex<Ready>>);

#[derive(Debug, Default)]
struct Ready {
    /// The world that they are of.
    world: u64,
    /// By who asks, because subsets and policies are a model's own.
    spots: HashMap<(usize, Target), Arc<Spot>, RandomState>,
}

impl Spots {
    /// The spot of a target, made if there is none yet.
    ///
    /// # Errors
    /// Of `make`.
    pub fn of<E>(
        &self,
        world: &World,
        compiled: &Compiled,
        target: Target,
        make: impl FnOnce(Target) -> Result<Spot, E>,
    ) -> Result<Arc<Spot>, E> {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.world != world.id {
            ready.spots.clear();
            ready.world = world.id;
        }
        let key = (std::ptr::from_ref(compiled).addr(), target);
        if let Some(spot) = ready.spots.get(&key) {
            return Ok(spot.clone());
        }
        let spot = Arc::new(make(key.1.clone())?);
        ready.spots.insert(key, spot.clone());
        Ok(spot)
    }
}
