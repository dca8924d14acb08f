//! Pages for operators: readiness, metrics, and what the controller believes and whom it told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mesh_net::admin::Router;
use mesh_net::control::Kind;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

use crate::ads::Agents;
use crate::authority::service::{Certificates, IssuedView};
use crate::authority::{Authority, AuthorityView};
use crate::index::Index;
use crate::store::World;

/// Changes the log level, or with `None` says what it is.
pub type LogLevel = Arc<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

pub struct Views {
    pub worlds: watch::Receiver<Arc<World>>,
    pub stopping: watch::Receiver<bool>,
    pub agents: Arc<Agents>,
    pub index: Arc<Mutex<Index>>,
    pub certificates: Certificates,
    pub authority: Arc<Authority>,
    pub registry: Registry,
    pub log_level: LogLevel,
}

#[derive(Serialize)]
struct ResourcesPage {
    synced: bool,
    types: BTreeMap<&'static str, TypePage>,
}

#[derive(Serialize)]
struct TypePage {
    latest: u64,
    /// Name to version.
    resources: BTreeMap<Arc<str>, String>,
}

#[derive(Serialize)]
struct CertificatesPage {
    authority: AuthorityView,
    nodes: BTreeMap<Arc<str>, IssuedView>,
}

pub fn router(views: Views) -> Router {
    let Views { worlds, stopping, agents, index, certificates, authority, registry, log_level } = views;
    let (ready, told, listed) = (worlds.clone(), worlds.clone(), worlds);
    Router::new()
        .ready(move || {
            if *stopping.borrow() {
                return Err("stopping".to_owned());
            }
            if ready.borrow().synced { Ok(()) } else { Err("the source has not been read yet".to_owned()) }
        })
        .metrics(Arc::new(registry))
        .logging(move |level| log_level(level))
        .json("/debug/agents", move || {
            let world = told.borrow().clone();
            agents.view(&world)
        })
        .json("/debug/resources", move || {
            let world = listed.borrow().clone();
            resources(&world)
        })
        .json("/debug/findings", move || index.lock().unwrap_or_else(|e| e.into_inner()).findings())
        .json("/debug/certificates", move || CertificatesPage {
            authority: authority.view(),
            nodes: certificates.view(),
        })
}

fn resources(world: &World) -> ResourcesPage {
    let types = Kind::ALL.into_iter().map(|kind| {
        let all = world.of(kind);
        let resources = all.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect();
        (kind.type_url(), TypePage { latest: all.head(), resources })
    });
    ResourcesPage { synced: world.synced, types: types.collect() }
}
