//! What is in force: the snapshot, and each model made ready.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use mesh_core::l7::destination::{Destination, Policy};
use mesh_core::l7::{Layer7, Target, route};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Uid, Workload};
use tracing::warn;

use crate::engine::authorization::Policies;
use crate::engine::decide::CompiledRoutes;
use crate::engine::jwt::Authentication;
use crate::engine::ratelimit::RateLimits;
use crate::engine::retry::Retries;
use crate::originate::Originations;
use crate::telemetry::Rules;

/// One consistent state, published whole.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// No other has it; 0 before there is one.
    pub id: u64,
    pub snapshot: Arc<Snapshot>,
    /// This instance's own workload, once it is known: where it is decides what is near.
    pub own: Option<Arc<Workload>>,
    compiled: HashMap<Target, Arc<Compiled>, RandomState>,
}

/// A model, made ready for requests.
#[derive(Debug)]
pub struct Compiled {
    pub model: Arc<Layer7>,
    pub policies: Policies,
    pub authentication: Authentication,
    /// `None`: as by default.
    pub telemetry: Option<Arc<Rules>>,
    pub rate_limits: RateLimits,
    pub originations: Originations,
    routes: BTreeMap<u16, CompiledRoutes>,
    default_retries: Retries,
    default_policy: Policy,
}

impl Compiled {
    /// `before` was in force: limits that it has too go on counting.
    ///
    /// # Errors
    /// Something in it cannot be carried out by this version.
    pub fn new(model: &Arc<Layer7>, before: Option<&Self>) -> Result<Self, String> {
        let mut routes = BTreeMap::new();
        for (port, rules) in &model.ports {
            let compiled = match (&rules.http, &model.target) {
                (Some(http), _) => CompiledRoutes::new(http),
                (None, Target::Service(service)) => CompiledRoutes::to_service(service.clone(), *port),
                (None, Target::Workloads) => continue,
            };
            routes.insert(*port, compiled.map_err(|error| format!("port {port}: {error}"))?);
        }
        Ok(Self {
            policies: Policies::compile(&model.policies),
            authentication: Authentication::compile(&model.jwt),
            telemetry: Rules::compile(&model.telemetry, &model.name()),
            rate_limits: RateLimits::compile(
                &model.rate_limits,
                before.map_or(&RateLimits::default(), |before| &before.rate_limits),
                &mut rand::rng(),
            ),
            originations: Originations::compile(
                model.destinations.values().flat_map(Destination::policies).map(|policy| &policy.tls),
                before.map_or(&Originations::default(), |before| &before.originations),
            ),
            routes,
            default_retries: Retries::new(&route::Retries::default()).map_err(|name| name.to_string())?,
            default_policy: Policy::default(),
            model: model.clone(),
        })
    }

    /// `None`: what was asked for is a workload, and the request goes to it.
    pub fn routes(&self, port: u16) -> Option<&CompiledRoutes> {
        self.routes.get(&port)
    }

    pub fn default_retries(&self) -> &Retries {
        &self.default_retries
    }

    pub fn default_policy(&self) -> &Policy {
        &self.default_policy
    }

    /// Whether something is said about who may ask, by what a request is.
    pub fn guards_requests(&self) -> bool {
        !self.model.policies.is_empty() || !self.model.jwt.is_empty()
    }
}

impl World {
    /// The next state. A model that did not change is not made anew; one that cannot be made leaves what was in force.
    pub fn next(&self, snapshot: Arc<Snapshot>, own: &Uid) -> Self {
        let mut compiled = HashMap::default();
        for model in snapshot.layer7s() {
            let before = self.compiled.get(&model.target);
            let now = match before {
                Some(before) if Arc::ptr_eq(&before.model, model) => Some(before.clone()),
                _ => match Compiled::new(model, before.map(Arc::as_ref)) {
                    Ok(made) => Some(Arc::new(made)),
                    Err(error) => {
                        warn!(model = model.name(), error, "a model is not taken; what was in force stays");
                        before.cloned()
                    }
                },
            };
            compiled.extend(now.map(|now| (model.target.clone(), now)));
        }
        let own = snapshot.workload(own).cloned();
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), snapshot, own, compiled }
    }

    pub fn compiled(&self, target: &Target) -> Option<&Arc<Compiled>> {
        self.compiled.get(target)
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);
