//! The pods of this node: who told of them, whether they are in the mesh, and the steps in and out.
//!
//! ```text
//!             add / label                 certificate there, hooks in place
//!  (unknown) -----------> Waiting ------------------------------------> Enrolled
//!                           ^  | retried with backoff                      | remove / label gone
//!                           |  v                                           v
//!                        no certificate, kernel refused               Releasing: no new connections; rules and
//!                                                                     routes stay until the last one has ended
//! ```

pub mod zds;
pub mod kubelet;
pub mod local;
pub mod missing;
mod enrolment;
mod release;
mod stage;
mod view;
mod workload;
mod command;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::snapshot::Snapshot;
use mesh_net::causes::chain;
use mesh_net::certificates::Certificates;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::connections::Connections;
use crate::direct::DirectPath;
use crate::ebpf::{Kernel, KernelError};
use crate::outside::Outside;
use crate::worker::Worker;
pub(crate) use command::SUPERSEDED;
pub use command::{Command, Description, Manager, Standing, Waiter};
use stage::{Known, Releasing, Stage, answer};
pub use view::{PodView, PodsView};
pub(crate) use workload::is_captured;
use workload::wanted;

#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: String,
    pub trust_domain: String,
    /// How long the connections of a pod that left the mesh may go on through the agent.
    pub release_deadline: Duration,
    /// Round trip from which tunnels are paced where the node has it so; see [`crate::socket::pacing`].
    pub pace_from: Duration,
    /// Managers that are going to tell of their pods; pods of an earlier agent that none of them has are withdrawn then.
    pub managers: Vec<Manager>,
}

/// Who is told of a pod once it is enrolled.
#[derive(Debug)]
pub struct Told {
    pub workers: Vec<Worker>,
    pub outside: Outside,
    pub direct: DirectPath,
}

/// The manager of this node's pods: one task, so that a pod's steps never overlap.
pub struct Pods {
    config: Config,
    kernel: Arc<Kernel>,
    certificates: Certificates,
    connections: Connections,
    told: Told,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    known: BTreeMap<Arc<str>, Known>,
    /// Pods out of the mesh whose connections go on, by namespace: coming back ends the wait.
    releasing: BTreeMap<u64, Releasing>,
    views: watch::Sender<PodsView>,
    number: u32,
    unsettled: Vec<Manager>,
    /// Another agent owns the pins: nothing is left for this one but to end what it has.
    superseded: bool,
    /// Where the tasks that keep certificates run; this manager's own runtime stands still during an enrolment.
    keepers: Handle,
}

/// How often pods that wait are tried again and released ones looked at.
const TICK: Duration = Duration::from_millis(100);

impl Pods {
    pub fn new(
        config: Config,
        kernel: Arc<Kernel>,
        certificates: Certificates,
        connections: Connections,
        told: Told,
        snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
        keepers: Handle,
    ) -> (Self, watch::Receiver<PodsView>) {
        let unsettled = config.managers.clone();
        let (views, seen) = watch::channel(PodsView { unsettled: unsettled.clone(), ..PodsView::default() });
        let pods = Self {
            config,
            kernel,
            certificates,
            connections,
            told,
            snapshot,
            known: BTreeMap::new(),
            releasing: BTreeMap::new(),
            views,
            number: 0,
            unsettled,
            superseded: false,
            keepers,
        };
        (pods, seen)
    }

    /// Runs the manager on a thread of its own until there is nobody left to command it. Enrolling a pod blocks for tens of
    /// milliseconds, in which a policy that ends connections must not wait. The receiver is told, or dropped, when the
    /// manager has ended.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(self, commands: mpsc::Receiver<Command>) -> io::Result<oneshot::Receiver<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("pods".to_owned()).spawn(move || {
            runtime.block_on(self.run(commands));
            let _ = ended.send(());
        })?;
        Ok(end)
    }

    /// Serves commands until there is nobody left to send any.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                changed = self.snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.reconsider();
                }
                _ = tick.tick() => {
                    if self.kernel.is_superseded() {
                        self.supersede();
                    }
                    self.retry();
                }
            }
            self.show();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(description, reply) => self.add(description, reply),
            Command::Remove(uid, reply) => {
                let result = self.remove(&uid);
                let _ = reply.send(result);
            }
            Command::Leave(uid, cookie, reply) => {
                let is_here = self.known.get(&uid).is_some_and(|k| k.description.netns.cookie() == cookie);
                let result = if is_here { self.remove(&uid) } else { Ok(()) };
                let _ = reply.send(result);
            }
            Command::Settle(manager, uids) => {
                let stale: Vec<_> = self
                    .known
                    .values()
                    .filter(|k| k.description.manager == manager && !uids.contains(&k.description.uid))
                    .map(|k| k.description.uid.clone())
                    .collect();
                for uid in stale {
                    if let Err(error) = self.remove(&uid) {
                        warn!(%uid, error, "withdraw a pod that its manager no longer has");
                    }
                }
                let before = self.unsettled.len();
                self.unsettled.retain(|m| *m != manager);
                if before > 0 && self.unsettled.is_empty() {
                    self.forget_strangers();
                }
            }
        }
    }

    /// Another agent has the pods from here on.
    fn supersede(&mut self) {
        if !std::mem::replace(&mut self.superseded, true) {
            info!("another agent has taken over this node's pods; this one only ends what it has");
        }
    }

    /// Turns an error of the kernel's half into text, unless it says that another agent has taken over.
    fn failed(&mut self, error: &KernelError) -> Option<String> {
        if matches!(error, KernelError::Superseded { .. }) {
            self.supersede();
            return None;
        }
        Some(chain(error))
    }

    fn add(&mut self, description: Description, reply: Waiter) {
        if self.superseded {
            let _ = reply.send(Err(SUPERSEDED.to_owned()));
            return;
        }
        let uid = description.uid.clone();
        if let Some(known) = self.known.get_mut(&uid) {
            if known.description.netns.cookie() == description.netns.cookie() {
                known.description = description;
                match &known.stage {
                    Stage::Waiting { .. } => known.waiters.push(reply),
                    Stage::Enrolled(_) => drop(reply.send(Ok(Standing::Enrolled))),
                    Stage::Outside => drop(reply.send(Ok(Standing::Outside))),
                }
                return;
            }
            // The same pod in another namespace: it was restarted.
            let _ = self.remove(&uid);
        }
        let stage = Stage::waiting();
        self.known.insert(uid.clone(), Known { description, stage, waiters: vec![reply] });
        self.advance(&uid);
    }

    fn remove(&mut self, uid: &str) -> Result<(), String> {
        let known = self.known.remove(uid).ok_or_else(|| format!("no pod {uid} is known here"))?;
        if let Stage::Enrolled(pod) = known.stage {
            self.release(pod)?;
        }
        Ok(())
    }

    /// The control plane said something new: labels may have changed.
    fn reconsider(&mut self) {
        let Some(snapshot) = self.snapshot.borrow_and_update().clone() else { return };
        if self.superseded {
            return;
        }
        let uids: Vec<Arc<str>> = self.known.keys().cloned().collect();
        for uid in uids {
            let Some(known) = self.known.get_mut(&uid) else { continue };
            if !known.description.manager.heeds_labels() {
                continue;
            }
            let wanted = wanted(&snapshot, &self.config.cluster_id, &known.description);
            match (&known.stage, wanted) {
                (Stage::Outside, Some(true)) => {
                    known.stage = Stage::waiting();
                    self.advance(&uid);
                }
                (Stage::Enrolled(pod), Some(false)) => {
                    let pod = pod.clone();
                    known.stage = Stage::Outside;
                    info!(pod = %uid, "label gone: the pod leaves the mesh");
                    if let Err(error) = self.release(pod)
                        && !self.superseded
                    {
                        warn!(pod = %uid, error, "release a pod");
                    }
                }
                (Stage::Waiting { .. }, Some(_)) => self.advance(&uid),
                // A workload that has vanished from the stream says nothing about its label.
                _ => {}
            }
        }
    }

    fn retry(&mut self) {
        if self.superseded {
            for known in self.known.values_mut() {
                answer(&mut known.waiters, Err(SUPERSEDED.to_owned()));
            }
            return;
        }
        let now = Instant::now();
        let due: Vec<Arc<str>> = self
            .known
            .iter()
            .filter(|(_, k)| match &k.stage {
                Stage::Waiting { lease, retry_at, .. } => {
                    *retry_at <= now || lease.as_ref().is_some_and(|l| l.current().is_some())
                }
                _ => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            self.advance(&uid);
        }
        for known in self.known.values_mut() {
            known.waiters.retain(|w| !w.is_closed());
        }
        self.finish_releases(now);
    }

    fn show(&self) {
        let known = self.known.values().map(Known::view);
        let releasing = self.releasing.values().map(|r| r.view(&self.connections));
        let (superseded, unsettled) = (self.superseded, self.unsettled.clone());
        self.views.send_replace(PodsView { superseded, unsettled, pods: known.chain(releasing).collect() });
    }
}
