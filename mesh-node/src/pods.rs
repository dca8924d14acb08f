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

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Tunnel, Uid, Workload};
use mesh_net::causes::chain;
use mesh_net::certificates::{Certificates, Lease};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::capture::LINGER;
use crate::connection::End;
use crate::connections::Connections;
use crate::direct::DirectPath;
use crate::ebpf::{self, Kernel, KernelError, ListenerKind};
use crate::netns::{Netns, NetnsCookie};
use crate::outside::Outside;
use crate::pod::{Enrolment, Pod};
use crate::socket::{self, Keepalive};
use crate::worker::{Listeners, Worker};

/// Backlog of a pod's listeners: what somaxconn allows by default since kernel 5.4.
const BACKLOG: i32 = 4096;

#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: String,
    pub trust_domain: String,
    /// How long the connections of a pod that left the mesh may go on through the agent.
    pub release_deadline: Duration,
    /// Managers that are going to tell of their pods; pods of an earlier agent that none of them has are withdrawn then.
    pub managers: Vec<Manager>,
}

/// Who told of a pod, which decides how it comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// A pod manager over ZDS: in the mesh from add to delete.
    Zds,
    /// The local socket, with the label deciding: in the mesh while the control plane says that the workload is.
    Label,
    /// A kubelet's pods, found by their cgroups: in the mesh while the control plane says that the workload is.
    Kubelet,
    /// The local socket, regardless of labels.
    Always,
}

impl Manager {
    /// Whether the control plane's word on the label decides, which comes and goes while the pod is known.
    fn heeds_labels(self) -> bool {
        match self {
            Self::Label | Self::Kubelet => true,
            Self::Zds | Self::Always => false,
        }
    }
}

/// A pod as its manager describes it.
#[derive(Clone, Debug)]
pub struct Description {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// `None`: the one that the control plane knows the workload by.
    pub service_account: Option<Arc<str>>,
    pub netns: Netns,
    pub manager: Manager,
}

/// Where a pod that is known stands once there is nothing to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Enrolled,
    /// Not to be enrolled.
    Outside,
}

/// Who waits for a pod: told where it stands, or what is in the way.
pub type Waiter = oneshot::Sender<Result<Standing, String>>;

pub enum Command {
    /// Answered when the pod is enrolled, or known and not to be enrolled, or with what is in the way.
    Add(Description, Waiter),
    Remove(Arc<str>, oneshot::Sender<Result<(), String>>),
    /// A pod's network is taken down. By then the same pod may have another one: then nothing is removed.
    Leave(Arc<str>, NetnsCookie, oneshot::Sender<Result<(), String>>),
    /// The pods of a manager that has told all it knows: others of its own are gone.
    Settle(Manager, Vec<Arc<str>>),
}

/// A pod as shown by `/config`.
#[derive(Clone, Debug, Serialize)]
pub struct PodView {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub manager: Manager,
    pub state: &'static str,
    pub identity: Option<SpiffeId>,
    pub addresses: Vec<std::net::IpAddr>,
    pub netns_cookie: u64,
    /// What stands between the pod and the mesh.
    pub waiting_for: Option<String>,
}

/// What the manager knows, for `/config` and readiness.
#[derive(Clone, Debug, Default)]
pub struct PodsView {
    pub superseded: bool,
    /// Managers that have not told of all their pods yet.
    pub unsettled: Vec<Manager>,
    pub pods: Vec<PodView>,
}

struct Known {
    description: Description,
    stage: Stage,
    waiters: Vec<Waiter>,
}

enum Stage {
    /// The label says no.
    Outside,
    Waiting {
        lease: Option<Lease>,
        why: String,
        retry_at: Instant,
        failures: u32,
    },
    Enrolled(Arc<Pod>),
}

impl Stage {
    /// Nothing has been tried yet.
    fn waiting() -> Self {
        Self::Waiting { lease: None, why: String::new(), retry_at: Instant::now(), failures: 0 }
    }
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

struct Releasing {
    uid: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    netns: Netns,
    /// None: an agent before this one enrolled it.
    pod: Option<Arc<Pod>>,
    /// Until then a listener may yield connections that were begun before the release.
    not_before: Instant,
    deadline: Instant,
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

    /// Takes a waiting pod as far as it goes.
    fn advance(&mut self, uid: &Arc<str>) {
        let Some(known) = self.known.get_mut(uid) else { return };
        let Stage::Waiting { lease, failures, .. } = &mut known.stage else { return };
        let mut lease = lease.take();
        let mut failures = *failures;
        let description = known.description.clone();
        let wait = |why: String, lease: Option<Lease>, failures: u32, pause: Duration| Stage::Waiting {
            lease,
            why,
            retry_at: Instant::now() + pause,
            failures,
        };
        let snapshot = self.snapshot.borrow().clone();
        let workload = snapshot.as_ref().and_then(|s| workload_of(s, &self.config.cluster_id, &description).cloned());
        if description.manager.heeds_labels() {
            match &workload {
                None => {
                    known.stage = wait("the control plane to tell of the workload".to_owned(), None, 0, LONG);
                    return;
                }
                Some(w) if !is_captured(w) => {
                    known.stage = Stage::Outside;
                    answer(&mut known.waiters, Ok(Standing::Outside));
                    // An agent before this one may have left it enrolled.
                    let cookie = description.netns.cookie();
                    if self.kernel.enrolled().contains(&cookie) && !self.releasing.contains_key(&cookie.0) {
                        self.release_adopted(&description);
                    }
                    return;
                }
                Some(_) => {}
            }
        }
        let identity = match identity_of(&description, workload.as_deref(), &self.config.trust_domain) {
            Ok(Some(identity)) => identity,
            Ok(None) => {
                known.stage = wait("the control plane to tell of the workload".to_owned(), None, 0, LONG);
                return;
            }
            Err(error) => {
                answer(&mut known.waiters, Err(error.clone()));
                known.stage = wait(error, None, 0, LONG);
                return;
            }
        };
        if lease.as_ref().is_none_or(|l| *l.identity() != identity) {
            let _context = self.keepers.enter();
            lease = Some(self.certificates.lease(&identity));
        }
        let lease = lease.expect("set above");
        if lease.current().is_none() {
            let why = lease.status().last_error.unwrap_or_else(|| "no answer yet".to_owned());
            known.stage = wait(format!("a certificate for {identity}: {why}"), Some(lease), failures, LONG);
            return;
        }
        let uid_on_stream = workload
            .as_ref()
            .map(|w| w.uid.clone())
            .unwrap_or_else(|| Uid::pod(&self.config.cluster_id, &description.namespace, &description.name));
        match self.enrol(&description, uid_on_stream, identity, lease.clone()) {
            Ok(pod) => {
                info!(pod = %uid, identity = %pod.identity, addresses = ?pod.addresses, "pod enrolled");
                let known = self.known.get_mut(uid).expect("looked up above");
                known.stage = Stage::Enrolled(pod);
                answer(&mut known.waiters, Ok(Standing::Enrolled));
            }
            Err(error) => {
                failures += 1;
                if !self.superseded {
                    warn!(pod = %uid, error, failures, "pod not enrolled");
                }
                let known = self.known.get_mut(uid).expect("looked up above");
                answer(&mut known.waiters, Err(error.clone()));
                let pause = (TICK * 2u32.saturating_pow(failures.min(10))).min(Duration::from_secs(15));
                known.stage = wait(error, Some(lease), failures, pause);
            }
        }
    }

    fn enrol(
        &mut self,
        description: &Description,
        workload: Uid,
        identity: SpiffeId,
        certificate: Lease,
    ) -> Result<Arc<Pod>, String> {
        let netns = &description.netns;
        let addresses = netns.addresses().map_err(|e| format!("read the pod's addresses: {e}"))?;
        if addresses.is_empty() {
            return Err("the pod has no address yet".to_owned());
        }
        let count = self.told.workers.len();
        let listen = |what, keepalive| {
            socket::listen(netns, count, BACKLOG, keepalive).map_err(|e| format!("listen for {what}: {e}"))
        };
        let outbound = listen("outbound", None)?;
        let plaintext = listen("plaintext", Some(Keepalive::default()))?;
        let hbone = listen("tunnels", Some(Keepalive::TUNNEL))?;
        let pod = Arc::new(Pod::new(Enrolment {
            uid: description.uid.clone(),
            namespace: description.namespace.clone(),
            name: description.name.clone(),
            workload,
            identity,
            netns: netns.clone(),
            addresses: addresses.clone(),
            certificate,
        }));
        self.number += 1;
        let kinds =
            [(ListenerKind::Outbound, &outbound), (ListenerKind::Plaintext, &plaintext), (ListenerKind::Hbone, &hbone)];
        let listeners: Vec<_> =
            kinds.into_iter().flat_map(|(kind, group)| group.iter().map(move |one| (kind, one.as_fd()))).collect();
        let enrolled =
            self.kernel.enrol(&ebpf::Pod { netns, addresses: &addresses, id: self.number, listeners: &listeners });
        if let Err(error) = enrolled {
            let error = self.failed(&error);
            return Err(error.map_or(SUPERSEDED.to_owned(), |error| format!("enrol in the kernel: {error}")));
        }
        self.releasing.remove(&pod.cookie.0);
        let sets = outbound.into_iter().zip(plaintext).zip(hbone);
        for (worker, ((outbound, plaintext), hbone)) in self.told.workers.iter().zip(sets) {
            worker.serve(pod.clone(), Listeners { outbound, plaintext, hbone });
        }
        self.told.outside.enrolled(pod.clone());
        self.told.direct.enrolled(pod.clone());
        Ok(pod)
    }

    /// First half of the way out: no new connections come to the agent.
    fn release(&mut self, pod: Arc<Pod>) -> Result<(), String> {
        let released = match self.kernel.release(pod.cookie) {
            Ok(()) => Ok(()),
            // The pod stays as it is, in the other agent's hands.
            Err(error) => match self.failed(&error) {
                None => return Err(SUPERSEDED.to_owned()),
                Some(error) => Err(error),
            },
        };
        pod.withdraw();
        self.told.direct.released(pod.cookie);
        let now = Instant::now();
        // Twice, so that what was accepted in the last moment is held by then.
        let not_before = now + 2 * LINGER;
        let deadline = not_before.max(now + self.config.release_deadline);
        let releasing = Releasing {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            netns: pod.netns.clone(),
            pod: Some(pod.clone()),
            not_before,
            deadline,
        };
        self.releasing.insert(pod.cookie.0, releasing);
        self.finish_releases(Instant::now());
        released
    }

    /// As [`release`](Self::release), of a pod that an agent before this one enrolled. That may still carry connections of it.
    fn release_adopted(&mut self, description: &Description) {
        let cookie = description.netns.cookie();
        if let Err(error) = self.kernel.release(cookie)
            && let Some(error) = self.failed(&error)
        {
            warn!(pod = %description.uid, error, "release a pod of the agent before this one");
        }
        let now = Instant::now();
        let releasing = Releasing {
            uid: description.uid.clone(),
            namespace: description.namespace.clone(),
            name: description.name.clone(),
            netns: description.netns.clone(),
            pod: None,
            not_before: now,
            deadline: now + self.config.release_deadline,
        };
        self.releasing.insert(cookie.0, releasing);
        self.finish_releases(now);
    }

    /// Second half: once a pod's connections have ended, or may last no longer, nothing is left behind in its namespace.
    fn finish_releases(&mut self, now: Instant) {
        let mut done = Vec::new();
        for (cookie, releasing) in &mut self.releasing {
            let cookie = NetnsCookie(*cookie);
            let mut idle = releasing.not_before <= now && self.connections.held_of(cookie) == 0;
            // Of two agents that overlap, the one that is going carries on what it has. Only the kernel knows of it; without
            // sock_diag nobody does.
            if idle && self.kernel.relayed(&releasing.netns).is_ok_and(|relayed| relayed > 0) {
                releasing.not_before = now + LOOK_AGAIN;
                idle = false;
            }
            if idle || releasing.deadline <= now {
                done.push(cookie);
            }
        }
        for cookie in done {
            let Some(Releasing { uid, .. }) = self.releasing.remove(&cookie.0) else { continue };
            self.connections.end_where(|live| {
                (live.facts.pod == Some(cookie))
                    .then(|| End::because("withdrawn", "the pod left the mesh and its deadline has passed"))
            });
            if self.withdraw(cookie, &uid) {
                info!(pod = %uid, "pod withdrawn, nothing left in its namespace");
            }
        }
    }

    /// Takes every trace of a pod out of the kernel and its namespace, and says whether that went well.
    fn withdraw(&mut self, cookie: NetnsCookie, uid: &str) -> bool {
        let Err(error) = self.kernel.withdraw(cookie) else { return true };
        if let Some(error) = self.failed(&error) {
            warn!(pod = uid, netns_cookie = cookie.0, error, "withdraw a pod");
        }
        false
    }

    /// Pods that an earlier agent enrolled and no manager has told this one of.
    fn forget_strangers(&mut self) {
        let mine: Vec<u64> = self.known.values().map(|k| k.description.netns.cookie().0).collect();
        for cookie in self.kernel.enrolled() {
            if !mine.contains(&cookie.0) && !self.releasing.contains_key(&cookie.0) {
                info!(netns_cookie = cookie.0, "withdraw a pod that no manager knows any more");
                match self.kernel.namespace(cookie) {
                    Some(netns) => self.release_adopted(&Description {
                        uid: "unknown".into(),
                        namespace: "".into(),
                        name: "".into(),
                        service_account: None,
                        netns,
                        manager: Manager::Label,
                    }),
                    None => drop(self.withdraw(cookie, "unknown")),
                }
            }
        }
    }

    fn show(&self) {
        let mut views: Vec<PodView> = self
            .known
            .values()
            .map(|k| PodView {
                uid: k.description.uid.clone(),
                namespace: k.description.namespace.clone(),
                name: k.description.name.clone(),
                manager: k.description.manager,
                state: match &k.stage {
                    Stage::Outside => "outside",
                    Stage::Waiting { .. } => "waiting",
                    Stage::Enrolled(_) => "enrolled",
                },
                identity: match &k.stage {
                    Stage::Enrolled(pod) => Some(pod.identity.clone()),
                    _ => None,
                },
                addresses: match &k.stage {
                    Stage::Enrolled(pod) => pod.addresses.clone(),
                    _ => Vec::new(),
                },
                netns_cookie: k.description.netns.cookie().0,
                waiting_for: match &k.stage {
                    Stage::Waiting { why, .. } => Some(why.clone()),
                    _ => None,
                },
            })
            .collect();
        views.extend(self.releasing.values().map(|r| PodView {
            uid: r.uid.clone(),
            namespace: r.namespace.clone(),
            name: r.name.clone(),
            manager: Manager::Label,
            state: "releasing",
            identity: r.pod.as_ref().map(|pod| pod.identity.clone()),
            addresses: r.pod.as_ref().map(|pod| pod.addresses.clone()).unwrap_or_default(),
            netns_cookie: r.netns.cookie().0,
            waiting_for: Some(match self.connections.of_pod(r.netns.cookie()) {
                0 => "connections of another agent to end".to_owned(),
                count => format!("{count} connections to end"),
            }),
        }));
        self.views.send_replace(PodsView {
            superseded: self.superseded,
            unsettled: self.unsettled.clone(),
            pods: views,
        });
    }
}

/// How often the kernel is asked whether connections of a pod that leaves go on through another agent.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) const SUPERSEDED: &str = "another agent has taken over this node's pods";

/// Until something tells of a change there is little use in trying again.
const LONG: Duration = Duration::from_secs(2);

fn answer(waiters: &mut Vec<Waiter>, result: Result<Standing, String>) {
    for waiter in waiters.drain(..) {
        let _ = waiter.send(result.clone());
    }
}

/// The workload that a pod, or a host of that name, is on the control stream.
fn workload_of<'a>(snapshot: &'a Snapshot, cluster: &str, d: &Description) -> Option<&'a Arc<Workload>> {
    let host = || Uid(format!("{cluster}/networking.istio.io/WorkloadEntry/{}/{}", d.namespace, d.name).into());
    let found = snapshot.workload(&Uid::pod(cluster, &d.namespace, &d.name)).or_else(|| snapshot.workload(&host()));
    // A kubelet's pods are known by the uid: one of the same name may be the one before it.
    found.filter(|workload| d.manager != Manager::Kubelet || workload.pod_uid == d.uid)
}

fn wanted(snapshot: &Snapshot, cluster: &str, d: &Description) -> Option<bool> {
    workload_of(snapshot, cluster, d).map(|w| is_captured(w))
}

/// Whether a workload's connections are to be captured: it is in the mesh, and no waypoint, which has a tunnel of its own.
pub(crate) fn is_captured(workload: &Workload) -> bool {
    workload.tunnel == Tunnel::Hbone && !workload.native_tunnel
}

fn identity_of(d: &Description, workload: Option<&Workload>, trust_domain: &str) -> Result<Option<SpiffeId>, String> {
    match (&d.service_account, workload) {
        (Some(account), _) => SpiffeId::new(trust_domain, &d.namespace, account).map(Some).map_err(|e| e.to_string()),
        (None, Some(workload)) => Ok(Some(workload.identity.clone())),
        (None, None) => Ok(None),
    }
}
