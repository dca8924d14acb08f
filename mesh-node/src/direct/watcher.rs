//! The thread of `direct.rs`: what it knows, and its turns.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mesh_core::snapshot::Snapshot;
use mesh_ebpf::{Choices, Direct, Event, FlowKey, ServiceKey, Side, Verdict, VerdictKey};
use mesh_net::causes::chain;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::record::{Record, ends};
use super::services::{self, choices};
use super::verdicts::{Basis, Member, steps, verdicts};
use super::{Config, Figures, Order};
use crate::connection::End;
use crate::connections::Connections;
use crate::ebpf::{Events, Kernel, KernelError};
use crate::netns::{Netns, Sockets};

/// The thread that keeps the books.
pub(super) struct Watcher {
    pub(super) config: Config,
    pub(super) kernel: Arc<Kernel>,
    pub(super) connections: Connections,
    pub(super) snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// By the cookie of the namespace; those that left, as long as they have connections.
    pub(super) pods: BTreeMap<u64, Known>,
    /// By the cookie of the client's socket.
    pub(super) records: HashMap<u64, Record>,
    /// Counts changes of `pods`.
    pub(super) generation: u64,
    /// What the hooks have, by destination.
    pub(super) in_force: BTreeMap<u64, BTreeMap<VerdictKey, Verdict>>,
    /// What that was found from.
    pub(super) bases: HashMap<u64, Basis>,
    /// The endpoints of which the hooks choose; `None`: not looked at yet.
    pub(super) offered: Option<HashMap<ServiceKey, Choices>>,
    /// What that was found from, and what was found, by service.
    pub(super) offers: BTreeMap<mesh_core::workload::ServiceKey, Offer>,
    /// The pods that have been in the mesh for long enough to be offered services.
    pub(super) grown: BTreeSet<u64>,
    /// Counts changes of `in_force`.
    pub(super) revision: u64,
    pub(super) figures: Arc<Figures>,
    pub(super) begun: Instant,
    /// Every pod that the kernel has is known, or nobody will tell of it any more.
    pub(super) settled: bool,
    pub(super) superseded: bool,
    /// When verdicts are to be looked at for pods that came or went.
    pub(super) due: Option<Instant>,
    /// Of the events that were lost, how many have been seen to.
    pub(super) lost: u64,
    /// Sources and destinations between which direct connections do not arrive.
    pub(super) strayed: HashSet<(u64, u64)>,
    /// Events that came before those in the ring.
    pub(super) unread: VecDeque<Event>,
}

/// What the hooks may choose of a service.
#[derive(Clone)]
pub(super) struct Offer {
    basis: services::Basis,
    choices: Arc<HashMap<ServiceKey, Choices>>,
}

pub(super) struct Known {
    member: Member,
    netns: Netns,
    since: Instant,
    /// It left, and how long its connections may go on.
    leaves: Option<Instant>,
}

impl Watcher {
    /// Runs until there is nobody left to give orders.
    pub(super) async fn run(mut self, orders: mpsc::UnboundedReceiver<Order>, events: Events) {
        self.serve(orders, events).await;
        self.leave();
    }

    /// What lives goes on, and is the next agent's to tell of.
    fn leave(&mut self) {
        self.records.drain().for_each(|(_, record)| record.leave());
    }

    async fn serve(&mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut events: Events) {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due;
            tokio::select! {
                biased;
                changed = self.snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.turn();
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.turn(),
                order = orders.recv() => match order {
                    Some(order) => self.obey(order, &mut events),
                    None => return,
                },
                ready = events.readable(), if self.settled && !self.superseded => {
                    if let Err(error) = ready {
                        warn!(%error, "what the hooks tell of direct connections cannot be read");
                        return;
                    }
                    self.read(&mut events);
                    // What comes meanwhile is read in one go: a wake-up for each of ten thousand connections a second
                    // would cost more than all the rest.
                    tokio::time::sleep(GATHER).await;
                }
                _ = tick.tick() => self.beat(&mut events),
            }
        }
    }

    fn obey(&mut self, order: Order, events: &mut Events) {
        match order {
            Order::Enrolled(pod) => {
                let member = Member {
                    cookie: pod.cookie.0,
                    workload: pod.workload.clone(),
                    identity: pod.identity.clone(),
                    addresses: pod.addresses.clone(),
                };
                self.strayed.retain(|(source, destination)| *source != pod.cookie.0 && *destination != pod.cookie.0);
                self.pods.insert(
                    pod.cookie.0,
                    Known { member, netns: pod.netns.clone(), since: Instant::now(), leaves: None },
                );
            }
            Order::Released(cookie) => {
                if let Some(known) = self.pods.get_mut(&cookie.0) {
                    known.leaves = Some(Instant::now() + self.config.release);
                }
            }
            Order::Measure(reply) => {
                if self.settled && !self.superseded {
                    self.read(events);
                    self.measure();
                }
                let _ = reply.send(());
                return;
            }
        }
        self.generation += 1;
        self.due.get_or_insert_with(|| Instant::now() + TOGETHER);
    }

    /// Ends what is forbidden by now, and puts what is allowed in force.
    fn turn(&mut self) {
        self.due = None;
        let Some(snapshot) = self.snapshot.borrow_and_update().clone() else { return };
        if self.is_superseded() {
            return;
        }
        self.settle(&snapshot);
        let changed = self.changed(&snapshot);
        // Connections may be to pods of whose verdicts nobody asks any more.
        let others = self.pods.values().any(|known| known.leaves.is_some()) || !self.config.enabled;
        // Else all that is new is of pods elsewhere.
        if !changed.is_empty() || others || !self.settled {
            self.sweep(&snapshot);
            if self.write(&snapshot, changed) {
                self.kernel.wait_for_hooks();
                self.sweep(&snapshot);
            }
        }
        self.offer(&snapshot);
    }

    fn grown(&self) -> BTreeSet<u64> {
        let grown = self.pods.iter().filter(|(_, known)| known.since.elapsed() >= self.config.services_after);
        grown.map(|(cookie, _)| *cookie).collect()
    }

    /// Has the hooks know of which endpoints of services they may choose. Whether they may connect to one, verdicts say.
    fn offer(&mut self, snapshot: &Snapshot) {
        if !self.settled {
            return;
        }
        let members = self.members();
        let of_services = members.iter().filter_map(|pod| snapshot.workload(&pod.workload));
        let keys: BTreeSet<_> = of_services.flat_map(|workload| workload.services.keys()).cloned().collect();
        let generation = self.generation + self.revision;
        let before = std::mem::take(&mut self.offers);
        let grown = self.grown();
        let mut same = before.len() == keys.len() && self.offered.is_some() && grown == self.grown;
        self.grown = grown;
        for key in keys {
            let Some(service) = snapshot.service(&key) else { continue };
            let basis = services::Basis::of(snapshot, &members, generation, service);
            let offer = match before.get(&key) {
                Some(offer) if offer.basis == basis => offer.clone(),
                _ => {
                    same = false;
                    let found = choices(snapshot, &self.config.network, &members, &self.in_force, service);
                    Offer { basis, choices: Arc::new(found) }
                }
            };
            self.offers.insert(key, offer);
        }
        if same {
            return;
        }
        let offered = self.offered.get_or_insert_with(|| self.kernel.services().into_iter().collect());
        let found = self.offers.values().flat_map(|offer| offer.choices.iter());
        let found = found.filter(|(key, _)| self.grown.contains(&key.source));
        let wanted: HashMap<ServiceKey, Choices> = found.map(|(key, choices)| (*key, *choices)).collect();
        let gone: Vec<ServiceKey> = offered.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        let gone = gone.into_iter().map(|key| (key, None));
        let new = wanted.into_iter().map(|(key, choices)| (key, Some(choices)));
        for (key, choices) in gone.chain(new) {
            if offered.get(&key).copied() == choices {
                continue;
            }
            if let Err(error) = self.kernel.set_service(key, choices) {
                warn!(error = chain(&error), "endpoints of services on this node; the agent chooses of the rest");
                self.offers.clear();
                return;
            }
            match choices {
                Some(choices) => offered.insert(key, choices),
                None => offered.remove(&key),
            };
        }
        self.figures.services.store(offered.len() as u64, Ordering::Relaxed);
    }

    /// Takes over from an agent before this one, once everything is known that it knew.
    fn settle(&mut self, snapshot: &Snapshot) {
        if self.settled {
            return;
        }
        let missing = self.kernel.enrolled().iter().any(|cookie| !self.pods.contains_key(&cookie.0));
        if missing && self.begun.elapsed() < SETTLING {
            self.due = Some(Instant::now() + 2 * TOGETHER);
            return;
        }
        self.settled = true;
        self.generation += 1;
        self.forget_gone(snapshot);
        self.figures.full.store(self.kernel.same_node_counts().full, Ordering::Relaxed);
        let before = self.kernel.direct();
        for (flow, direct) in before.into_iter().filter(|(_, direct)| direct.opened != 0) {
            self.record(snapshot, flow, direct);
        }
        if !self.records.is_empty() {
            info!(connections = self.records.len(), "direct connections from before this agent");
            self.measure();
            self.records.values().for_each(Record::begin_counting);
        }
    }

    /// Takes connections out of the kernel's books whose sockets are gone.
    fn forget_gone(&mut self, snapshot: &Snapshot) {
        // Listed again once the sockets are known: what closes meanwhile is told by its event.
        let sockets = self.received(&self.kernel.direct());
        for (flow, direct) in self.kernel.direct() {
            let there = |pod: u64, socket: u64| {
                // Of a pod that is gone nobody can be asked.
                sockets.get(&pod).is_some_and(|sockets| sockets.contains_key(&socket))
            };
            let old = Kernel::monotonic().saturating_sub(direct.begun) > 10 * BEAT.as_nanos() as u64;
            if old && !there(direct.source, direct.client.socket) && !there(direct.destination, direct.server.socket) {
                self.record(snapshot, flow, direct);
                if let Some(record) = self.records.remove(&direct.client.socket) {
                    record.lose();
                }
                if let Err(error) = self.kernel.forget_direct(&flow) {
                    debug!(%error, "forget a direct connection");
                }
            }
        }
    }

    /// Ends live connections that are forbidden.
    fn sweep(&mut self, snapshot: &Snapshot) {
        let mut lines = Lines::default();
        let mut ended = 0;
        for (flow, direct) in self.kernel.direct() {
            let known = |cookie| self.pods.contains_key(&cookie);
            if !(self.settled || known(direct.source) && known(direct.destination)) {
                continue;
            }
            self.record(snapshot, flow, direct);
            let Some(record) = self.records.get_mut(&direct.client.socket) else { continue };
            record.direct = direct;
            if !record.is_ending() {
                let Some(end) = record.forbidden(snapshot) else { continue };
                record.end(&end);
                ended += 1;
            }
            lines.destroy(&self.pods, &self.records[&direct.client.socket]);
        }
        if ended > 0 {
            info!(ended, "direct connections that are no longer allowed");
        }
    }

    /// Puts a connection on record that is not.
    fn record(&mut self, snapshot: &Snapshot, flow: FlowKey, direct: Direct) {
        let member = |cookie| self.pods.get(&cookie).map(|known: &Known| &known.member);
        let pods = (member(direct.source), member(direct.destination));
        let (connections, network) = (&self.connections, &self.config.network);
        self.records
            .entry(direct.client.socket)
            .or_insert_with(|| Record::open(connections, snapshot, network, pods, flow, direct));
    }

    /// The pods to which other verdicts may hold than before, or none any more.
    fn changed(&mut self, snapshot: &Snapshot) -> Vec<u64> {
        let members = self.members();
        let mut changed = Vec::new();
        for member in &members {
            let basis = Basis::of(snapshot, &self.config.network, &members, self.generation, member);
            if self.bases.get(&member.cookie) != Some(&basis) {
                self.bases.insert(member.cookie, basis);
                changed.push(member.cookie);
            }
        }
        let gone = |cookie: &u64| members.iter().all(|member| member.cookie != *cookie);
        self.bases.retain(|cookie, _| !gone(cookie));
        changed.extend(self.in_force.keys().filter(|cookie| gone(cookie)));
        changed
    }

    /// The pods that may talk to each other.
    fn members(&self) -> Vec<Member> {
        let present = self.pods.values().filter(|known| known.leaves.is_none() && self.config.enabled);
        present.map(|known| known.member.clone()).collect()
    }

    /// Has the hooks know what is allowed to pods that have `changed`; says whether anything became narrower.
    fn write(&mut self, snapshot: &Snapshot, changed: Vec<u64>) -> bool {
        let members = self.members();
        let mut wanted = BTreeMap::new();
        for cookie in changed {
            let member = members.iter().find(|member| member.cookie == cookie);
            let mut found =
                member.map(|member| verdicts(snapshot, &self.config.network, &members, member)).unwrap_or_default();
            found.retain(|key, _| !self.strayed.contains(&(key.source, key.destination)));
            wanted.insert(cookie, found);
        }

        let known = |cookie| self.pods.contains_key(&cookie);
        let ours = |key: &VerdictKey| self.settled || (known(key.source) && known(key.destination));
        let (mut narrower, mut wider, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for (cookie, wanted) in &wanted {
            let now = self.in_force.get(cookie).into_iter().flatten().filter(|(key, _)| ours(key));
            let [first, second, third] = steps(&now.map(|(key, verdict)| (*key, *verdict)).collect(), wanted);
            narrower.extend(first);
            wider.extend(second);
            silent.extend(third);
        }
        let narrowed = !narrower.is_empty();
        let mut refused = None;
        for (key, verdict) in narrower {
            if let Err(error) = self.set(key, verdict) {
                refused = Some(error);
                // No room for an exception: then there is no rule either.
                let rest = VerdictKey { port: VerdictKey::OTHER_PORTS, ..key };
                let ruled = self.in_force.get(&key.destination).is_some_and(|all| all.contains_key(&rest));
                if ruled && self.set(rest, Some(Verdict::RELAY)).is_err() {
                    let _ = self.kernel.trust_verdicts(Duration::ZERO);
                }
            }
        }
        if refused.is_none() {
            refused = wider.into_iter().chain(silent).find_map(|(key, verdict)| self.set(key, verdict).err());
        }
        if let Some(error) = refused {
            self.bases.clear();
            warn!(error = chain(&error), "verdicts for pods of this node; the agent carries the rest");
        }
        let direct = self.in_force.values().flat_map(BTreeMap::values).filter(|verdict| **verdict == Verdict::DIRECT);
        self.figures.verdicts.store(direct.count() as u64, Ordering::Relaxed);
        self.trust();
        narrowed
    }

    fn set(&mut self, key: VerdictKey, verdict: Option<Verdict>) -> Result<(), KernelError> {
        self.kernel.set_verdict(key, verdict)?;
        self.revision += 1;
        let to = self.in_force.entry(key.destination).or_default();
        match verdict {
            Some(verdict) => to.insert(key, verdict),
            None => to.remove(&key),
        };
        if to.is_empty() {
            self.in_force.remove(&key.destination);
        }
        Ok(())
    }

    /// Puts off the moment at which verdicts are too old.
    fn trust(&self) {
        if !self.settled {
            return;
        }
        let age = if self.config.enabled { self.config.age } else { Duration::ZERO };
        if let Err(error) = self.kernel.trust_verdicts(age) {
            debug!(%error, "put off the end of verdicts");
        }
    }

    fn read(&mut self, events: &mut Events) {
        let Some(snapshot) = self.snapshot.borrow().clone() else { return };
        for read in 0_usize.. {
            // Two readers would take events from each other: the other agent has begun to read a trial's time after it
            // loaded. To ask the kernel for each event would cost a fifth of all that is done for it.
            if read.is_multiple_of(ASKED_AGAIN) && self.kernel.is_another_agents() {
                return;
            }
            let Some(event) = self.unread.pop_front().or_else(|| events.take()) else { return };
            let Event { kind, flow, direct } = event;
            self.record(&snapshot, flow, direct);
            if kind != Event::CLOSED {
                continue;
            }
            if let Some(record) = self.records.remove(&direct.client.socket) {
                if direct.opened == 0 && direct.arrived == 0 && !record.is_ending() {
                    self.stray(direct.source, direct.destination);
                }
                record.close(&direct);
            }
        }
    }

    /// Has the agent carry what a pod asks of another from here on: its SYN has left the one and not come to the other as it
    /// was. Something between them drops it or rewrites it, or somebody else has the address.
    fn stray(&mut self, source: u64, destination: u64) {
        if self.strayed.insert((source, destination)) {
            let name = |cookie| self.pods.get(&cookie).map(|known| known.member.workload.to_string());
            let (source, destination) = (name(source), name(destination));
            warn!(source, destination, "direct connections do not arrive between two pods; the agent carries them");
            self.generation += 1;
            self.due.get_or_insert_with(Instant::now);
        }
    }

    fn beat(&mut self, events: &mut Events) {
        if self.is_superseded() {
            return;
        }
        let Some(snapshot) = self.snapshot.borrow().clone() else { return };
        if !self.settled {
            return;
        }
        self.trust();
        if self.grown.len() < self.pods.len() && self.grown() != self.grown {
            self.offer(&snapshot);
        }
        let now = Instant::now();
        let over: Vec<u64> = self
            .pods
            .iter()
            .filter(|(_, known)| known.leaves.is_some_and(|at| at <= now))
            .map(|(cookie, _)| *cookie)
            .collect();
        let mut lines = Lines::default();
        for record in self.records.values() {
            if over.contains(&record.direct.source) || over.contains(&record.direct.destination) {
                record.end(&End::because("withdrawn", "the pod left the mesh and its deadline has passed"));
                lines.destroy(&self.pods, record);
            }
        }
        let (records, pods) = (&self.records, &mut self.pods);
        pods.retain(|cookie, known| {
            known.leaves.is_none()
                || records
                    .values()
                    .any(|record| record.direct.source == *cookie || record.direct.destination == *cookie)
        });
        let counts = self.kernel.same_node_counts();
        self.figures.full.store(counts.full, Ordering::Relaxed);
        self.figures.lost.store(counts.lost, Ordering::Relaxed);
        if counts.lost != self.lost {
            self.lost = counts.lost;
            warn!(lost = counts.lost, "the kernel had no room to tell of direct connections");
            self.read(events);
            let there: Vec<u64> = self.kernel.direct().iter().map(|(_, direct)| direct.client.socket).collect();
            self.read(events);
            let gone: Vec<u64> = self.records.keys().filter(|id| !there.contains(id)).copied().collect();
            gone.iter().filter_map(|id| self.records.remove(id)).for_each(Record::lose);
            self.forget_gone(&snapshot);
        }
    }

    /// Asks the kernel what live connections have carried.
    fn measure(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let listed = self.kernel.direct();
        let sockets = self.received(&listed);
        let current: HashMap<u64, Direct> =
            listed.into_iter().map(|(_, direct)| (direct.client.socket, direct)).collect();
        for (id, record) in &mut self.records {
            if let Some(direct) = current.get(id) {
                record.direct = *direct;
            }
            let direct = &record.direct;
            let of = |pod: u64, side: &Side| {
                let live = sockets.get(&pod).and_then(|sockets| sockets.get(&side.socket));
                live.copied().unwrap_or(side.received.saturating_sub(1))
            };
            record.count(of(direct.destination, &direct.server), of(direct.source, &direct.client));
        }
    }

    /// What sockets of the pods that have these connections have received, in bytes, by pod and socket.
    fn received(&self, listed: &[(FlowKey, Direct)]) -> HashMap<u64, HashMap<u64, u64>> {
        let cookies: BTreeSet<u64> =
            listed.iter().flat_map(|(_, direct)| [direct.source, direct.destination]).collect();
        let asked = cookies.into_iter().filter_map(|cookie| {
            let netns = &self.pods.get(&cookie)?.netns;
            match Sockets::of(netns).and_then(|sockets| sockets.received()) {
                Ok(sockets) => Some((cookie, sockets)),
                Err(error) => {
                    warn!(%error, netns_cookie = cookie, "ask for what a pod's connections have carried");
                    None
                }
            }
        });
        asked.collect()
    }

    fn is_superseded(&mut self) -> bool {
        if !self.superseded && self.kernel.is_another_agents() {
            self.superseded = true;
            self.leave();
            self.pods.clear();
        }
        self.superseded
    }
}

/// Lines to the kernel about the sockets of pods, opened when needed.
#[derive(Default)]
struct Lines(HashMap<u64, Option<Sockets>>);

impl Lines {
    /// Ends a connection: at the server's end, so that the client sees a reset, and then what is left of it.
    fn destroy(&mut self, pods: &BTreeMap<u64, Known>, record: &Record) {
        let (client, server) = ends(&record.flow);
        let direct = &record.direct;
        for (pod, socket, local, remote) in [
            (direct.destination, direct.server.socket, server, client),
            (direct.source, direct.client.socket, client, server),
        ] {
            if socket == 0 {
                continue;
            }
            let line = self.0.entry(pod).or_insert_with(|| Sockets::of(&pods.get(&pod)?.netns).ok());
            let Some(line) = line else { continue };
            match line.destroy(socket, local, remote) {
                Ok(_) => {}
                Err(error) => warn!(%error, %client, %server, "end a direct connection"),
            }
        }
    }
}

/// Events that are read at once, in far less than a millisecond.
const ASKED_AGAIN: usize = 32;
/// How often verdicts are confirmed.
const BEAT: Duration = Duration::from_secs(1);
/// How long events are gathered.
const GATHER: Duration = Duration::from_millis(5);
/// Pods that come or go within this time are looked at together: each pair is.
const TOGETHER: Duration = Duration::from_millis(20);
/// How long an agent that starts waits to be told of the pods that the kernel has.
const SETTLING: Duration = Duration::from_secs(10);
