//! Makes what there is what it should be, Gateway by Gateway, while this controller leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::children::{Children, Name};
use super::drift::{Step, step};
use super::objects::{Config, Signer, kinds, objects};
use super::{FIELD_MANAGER, Outcome, Outcomes, class};
use crate::authority::Elsewhere;
use crate::backoff::Backoff;
use crate::index::Index;
use crate::object::Gateway;

/// How often everything is looked at although nothing was heard of it.
const LOOK: Duration = Duration::from_secs(600);
/// How often the GatewayClass is looked at.
const LOOK_AT_CLASS: Duration = Duration::from_secs(30);
/// Changes that come together are taken together.
const MOMENT: Duration = Duration::from_millis(200);

/// Objects of waypoints that were written, by what was done.
#[derive(Clone, Default)]
pub(crate) struct Writes(Family<[(&'static str, &'static str); 1], Counter>);

impl Writes {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("weft_waypoint_writes", "Objects of waypoints that were written", self.0.clone());
    }
}

pub(crate) struct Reconciler {
    client: Client,
    index: Arc<Mutex<Index>>,
    config: Config,
    /// In PEM, what waypoints trust.
    roots: watch::Receiver<Arc<str>>,
    /// Another authority than the controller, with its roots in PEM.
    elsewhere: Option<(Elsewhere, watch::Receiver<Arc<str>>)>,
    outcomes: watch::Sender<Outcomes>,
    writes: Writes,
}

/// What is to become of a Gateway's objects.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// They are to be these, of the Gateway with this uid.
    Be(Arc<str>, Vec<Value>),
    Wrong(Vec<String>),
    /// The Gateway with this uid is of another class now.
    Go(Arc<str>),
}

struct Task {
    plan: Plan,
    due: Instant,
    backoff: Backoff,
}

impl Reconciler {
    pub(crate) fn new(
        client: Client,
        index: Arc<Mutex<Index>>,
        config: Config,
        roots: watch::Receiver<Arc<str>>,
        elsewhere: Option<(Elsewhere, watch::Receiver<Arc<str>>)>,
        writes: Writes,
    ) -> Self {
        Self { client, index, config, roots, elsewhere, outcomes: watch::Sender::default(), writes }
    }

    /// How it went with each Gateway; empty while another controller leads.
    pub(crate) fn outcomes(&self) -> watch::Receiver<Outcomes> {
        self.outcomes.subscribe()
    }

    /// `stirred`: what the index tells of objects may have changed.
    pub(crate) async fn run(self, mut leads: watch::Receiver<bool>, mut stirred: watch::Receiver<()>) {
        while leads.wait_for(|leads| *leads).await.is_ok() {
            tokio::select! {
                () = self.lead(&mut stirred) => return,
                ended = leads.wait_for(|leads| !*leads) => if ended.is_err() { return },
            }
            self.outcomes.send_replace(Outcomes::default());
        }
    }

    /// Ends when the index does.
    async fn lead(&self, stirred: &mut watch::Receiver<()>) {
        let mut children = Children::follow(&self.client);
        let mut tasks: BTreeMap<Name, Task> = BTreeMap::new();
        let mut class_due = Instant::now();
        let mut touched: BTreeSet<Name> = BTreeSet::new();
        let mut roots = self.roots.clone();
        let mut signers = self.elsewhere.as_ref().map(|(_, roots)| roots.clone());
        loop {
            if class_due <= Instant::now() {
                if let Err(error) = class::ensure(&self.client).await {
                    warn!(%error, "the GatewayClass cannot be kept");
                }
                class_due = Instant::now() + LOOK_AT_CLASS;
            }
            self.plan(&children, &mut tasks);
            for (name, task) in tasks.iter_mut().filter(|(_, task)| task.due <= Instant::now()) {
                self.carry_out(name, task).await;
            }
            let next = tasks.values().map(|task| task.due).min().unwrap_or(class_due).min(class_due);
            tokio::select! {
                () = sleep(next.saturating_duration_since(Instant::now())) => {}
                changed = stirred.changed() => if changed.is_err() { return },
                changed = roots.changed() => if changed.is_err() { return },
                // Its sender ends with the controller.
                _ = changed(signers.as_mut()) => {}
                name = children.changed() => touched.extend(name),
            }
            sleep(MOMENT).await;
            while let Some(Some(name)) = children.changed().now_or_never() {
                touched.insert(name);
            }
            for name in std::mem::take(&mut touched) {
                if let Some(task) = tasks.get_mut(&name) {
                    task.due = Instant::now();
                }
            }
        }
    }

    /// Brings the tasks in line with the Gateways that there are.
    fn plan(&self, children: &Children, tasks: &mut BTreeMap<Name, Task>) {
        let mut plans: BTreeMap<Name, Plan> = BTreeMap::new();
        let roots = in_order(&self.roots.borrow());
        let signer = self.elsewhere.as_ref().map(|(signer, roots)| (signer, in_order(&roots.borrow())));
        let signer = signer.as_ref().map(|(signer, roots)| Signer {
            address: &signer.address,
            server_name: signer.server_name.as_deref(),
            roots,
        });
        {
            let index = self.index.lock().unwrap_or_else(|e| e.into_inner());
            if !index.is_synced() {
                return;
            }
            for gateway in index.deployed_gateways() {
                let plan = match objects(gateway, &self.config, &roots, signer) {
                    Ok(objects) => Plan::Be(gateway.metadata.uid.clone(), objects),
                    Err(mistakes) => Plan::Wrong(mistakes),
                };
                plans.insert((gateway.metadata.namespace.clone(), gateway.metadata.name.clone()), plan);
            }
            // Of a Gateway that is gone Kubernetes takes away what it owns.
            for (name, uid) in children.owners() {
                let is_it = |gateway: &&Gateway| *gateway.metadata.uid == *uid;
                if !plans.contains_key(&name) && index.gateway(&name.0, &name.1).filter(is_it).is_some() {
                    plans.insert(name, Plan::Go(uid.into()));
                }
            }
        }
        let gone = tasks.len();
        tasks.retain(|name, _| plans.contains_key(name));
        if tasks.len() != gone {
            self.outcomes.send_modify(|outcomes| {
                Arc::make_mut(outcomes).retain(|name, _| plans.contains_key(name));
            });
        }
        for (name, plan) in plans {
            if tasks.get(&name).is_none_or(|task| task.plan != plan) {
                tasks.insert(name, Task { plan, due: Instant::now(), backoff: Backoff::default() });
            }
        }
    }

    async fn carry_out(&self, name: &Name, task: &mut Task) {
        let outcome = match &task.plan {
            Plan::Be(uid, objects) => self.write(name, uid, objects).await,
            Plan::Go(uid) => self.write(name, uid, &[]).await,
            Plan::Wrong(mistakes) => Outcome::Invalid(mistakes.clone()),
        };
        match &outcome {
            Outcome::Done | Outcome::Invalid(_) => {
                task.backoff = Backoff::default();
                task.due = Instant::now() + LOOK;
            }
            Outcome::Conflict(why) | Outcome::Failed(why) => {
                warn!(namespace = %name.0, gateway = %name.1, why, "a waypoint's objects are not as they should be");
                task.due = Instant::now() + task.backoff.next();
            }
        }
        self.outcomes.send_if_modified(|outcomes| {
            let differs = outcomes.get(name) != Some(&outcome);
            if differs {
                Arc::make_mut(outcomes).insert(name.clone(), outcome);
            }
            differs
        });
    }

    async fn write(&self, name: &Name, uid: &str, wanted: &[Value]) -> Outcome {
        let mut conflicts = Vec::new();
        for resource in kinds() {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &name.0, &resource);
            let wanted = wanted.iter().find(|object| object["kind"] == resource.kind);
            match self.write_one(&api, &name.1, wanted, uid).await {
                Ok(Step::Keep) => {}
                Ok(Step::Conflict) => conflicts.push(format!("{} {}/{}", resource.kind, name.0, name.1)),
                Ok(done) => {
                    let kind = resource.kind;
                    info!(namespace = %name.0, gateway = %name.1, kind, ?done, "a waypoint's object is written");
                }
                Err(error) => return Outcome::Failed(format!("{} {}/{}: {error}", resource.kind, name.0, name.1)),
            }
        }
        match conflicts.is_empty() {
            true => Outcome::Done,
            false => {
                Outcome::Conflict(format!("{} is there and does not belong to this Gateway", conflicts.join(", ")))
            }
        }
    }

    async fn write_one(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        wanted: Option<&Value>,
        uid: &str,
    ) -> Result<Step, kube::Error> {
        let found = api.get_opt(name).await?;
        let live = found.as_ref().map(serde_json::to_value).transpose().map_err(kube::Error::SerdeError)?;
        let step = step(wanted, live.as_ref(), uid);
        let verb = match (step, wanted, found) {
            (Step::Create, Some(wanted), _) => {
                // Without force: if somebody was faster, theirs stays.
                api.patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(wanted)).await?;
                "create"
            }
            (Step::Update, Some(wanted), Some(found)) => {
                // The very object that was looked at, and as it was then.
                let mut wanted = wanted.clone();
                wanted["metadata"]["uid"] = found.metadata.uid.into();
                wanted["metadata"]["resourceVersion"] = found.metadata.resource_version.into();
                api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&wanted)).await?;
                "update"
            }
            (Step::Delete, _, Some(found)) => {
                let preconditions = Preconditions { uid: found.metadata.uid, resource_version: None };
                api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() })
                    .await?;
                "delete"
            }
            _ => return Ok(step),
        };
        self.writes.0.get_or_create(&[("verb", verb)]).inc();
        Ok(step)
    }
}

/// For ever, where there is nothing that could change.
async fn changed(roots: Option<&mut watch::Receiver<Arc<str>>>) {
    match roots {
        Some(roots) => drop(roots.changed().await),
        None => std::future::pending().await,
    }
}

/// The same certificates in the same order, whichever of them signs: that alone is no reason to roll a Deployment.
fn in_order(roots: &str) -> String {
    let mut certificates: Vec<&str> = roots.split_inclusive("-----END CERTIFICATE-----\n").collect();
    certificates.sort_unstable();
    certificates.concat()
}
