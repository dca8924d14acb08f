//! The kernel's half: loads the programs, attaches them for good, and tells them which pods and which agents there are.
//!
//! Everything that has effect is pinned in bpffs, so it outlives the agent. While no agent runs, an enrolled pod's
//! captured connections are refused, because its listeners have gone with their process; other pods notice nothing. An
//! agent that starts adopts what is pinned and replaces the programs in their links, without a moment in between.
//!
//! Of two agents on one node the one that loaded last owns the pins: the other drains what it has, and its attempts to
//! change something fail with [`KernelError::Superseded`].
//!
//! ```text
//!   <pin dir>/maps/PODS, LOCAL, ...           shared by all programs
//!   <pin dir>/links/weft_connect4, ...        on the cgroup root that holds the pods
//!   <pin dir>/links/weft_connect4-agent-<id>  on the agent's own cgroup, if that lies outside of the root
//!   <pin dir>/links/sk_lookup-<cookie>        in each enrolled pod's namespace
//! ```

mod direct;
mod pods;
mod attach;
mod instance;
mod table;
mod probe;
mod logs;
mod cgroup;
mod bpffs;
mod object;
mod sys;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mesh_ebpf::{Choices, Direct, FlowKey, FlowKind, ListenerKey, SameNode, ServiceKey, Verdict, VerdictKey};

pub use bpffs::{is_bpffs, mount_bpffs};
pub use cgroup::{CgroupError, root as cgroup_root};
pub use direct::Events;
pub use object::ObjectError;
pub use probe::{Facility, probe};

use crate::{
    netns::{Established, Netns, NetnsCookie},
    plumbing::PlumbingError,
    socket::canonical,
};
use direct::Between;
use pods::State;
use table::{Flows, flows};

/// Where the programs live and whom they serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the pins, on a bpffs; made if its parent exists. One for each mesh on a machine.
    pub pin_dir: PathBuf,
    /// The cgroup v2 folder below which all pods run, and the kubelet if its probes shall be known as such.
    pub cgroup_root: PathBuf,
    /// The cgroup v2 folder of this agent's processes; none: where this process is. A pod must not be able to join it,
    /// and it must not be the root cgroup, in which kernel threads are.
    pub agent_cgroup: Option<PathBuf>,
    /// Another object than the built-in one.
    pub object: Option<PathBuf>,
    /// Whether the hooks report each decision, at debug level. Off, the verifier removes the reports from the programs.
    pub debug: bool,
}

/// A pod to enrol.
#[derive(Debug)]
pub struct Pod<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Its addresses, the main one of each family first.
    pub addresses: &'a [IpAddr],
    /// Number for the hooks' log lines.
    pub id: u32,
    /// Its listeners, of the kinds that shall be served: as many of each kind as workers share its connections, 64 at
    /// most.
    pub listeners: &'a [(ListenerKind, BorrowedFd<'a>)],
}

/// What a listener of a pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// Connections that the pod opens.
    Outbound,
    /// Connections to the pod other than tunnels.
    Plaintext,
    /// Tunnels to the pod, port 15008.
    Hbone,
}

impl ListenerKind {
    const ALL: [Self; 3] = [Self::Outbound, Self::Plaintext, Self::Hbone];

    fn number(self) -> u32 {
        match self {
            Self::Outbound => ListenerKey::OUTBOUND,
            Self::Plaintext => ListenerKey::PLAINTEXT,
            Self::Hbone => ListenerKey::HBONE,
        }
    }
}

/// Why the kernel's half could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object is missing or of another release.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The pins' folder is not where pins can be.
    #[error("{0} is not on a bpffs: mount one (`mount -t bpf bpffs <folder>`) or choose another pin directory")]
    NotBpffs(PathBuf),
    /// The pins are another release's.
    #[error(
        "the pins in {dir} have ABI version {found}, this agent has {}: withdraw all pods with the release that made \
         them, or remove them",
        mesh_ebpf::ABI_VERSION
    )]
    PinnedAbi { dir: PathBuf, found: u32 },
    /// The agent's or the pods' cgroup cannot serve.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel refused the maps, or the object is broken.
    #[error("load the eBPF object and its maps")]
    Maps(#[source] Box<aya::EbpfError>),
    /// The object lacks something that this agent uses.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// The kernel refused a program.
    #[error("load the program {name}")]
    Program { name: &'static str, source: Box<aya::programs::ProgramError> },
    /// Anything done with the loaded programs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Why something could not be done with the loaded programs.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Another agent has loaded since: the pins are its own.
    #[error("another agent has taken over the pins (generation {now}, ours is {ours})")]
    Superseded { ours: u32, now: u32 },
    /// The node's own namespace is no pod.
    #[error("the node's own network namespace cannot be enrolled")]
    NodeNamespace,
    /// The pod's namespace could not be prepared or restored.
    #[error(transparent)]
    Plumbing(#[from] PlumbingError),
    /// A program's instance for one pod.
    #[error("load sk_lookup for a pod")]
    Instance(#[source] Box<LoadError>),
    /// A map.
    #[error("{what} in the map {map}")]
    Map { what: &'static str, map: &'static str, source: aya::maps::MapError },
    /// A link or a pin.
    #[error("{what} {path}")]
    Pin { what: &'static str, path: PathBuf, source: io::Error },
    /// The pins' folder could not be locked.
    #[error("lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    /// The node's own namespace could not be read.
    #[error("read the node's network namespace")]
    Node(#[source] io::Error),
}

/// The loaded programs. Dropping it changes nothing in the kernel: see [`Kernel::withdraw`] and [`Kernel::remove_all`].
///
/// Calls may be made from several threads and are blocking. [`Kernel::opened_by_node`] is for the data path: it is one
/// system call and waits for no other call.
#[derive(Debug)]
pub struct Kernel {
    state: Mutex<State>,
    flows: Flows,
    between: Between,
    dir: PathBuf,
}

impl Kernel {
    /// Loads the programs, or adopts what is pinned and puts this agent's programs in the place of the old ones.
    /// Needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN. The calling thread must be in the node's own namespace.
    ///
    /// # Errors  See [`LoadError`]; [`probe`] says more about what a kernel lacks.
    pub fn load(config: Config) -> Result<Self, LoadError> {
        let dir = config.pin_dir.clone();
        let state = State::load(config)?;
        let (flows, between) = (flows(&dir)?, Between::open(&dir, state.generation())?);
        Ok(Self { state: Mutex::new(state), flows, between, dir })
    }

    /// Starts capturing a pod's connections: prepares its namespace, then steers what arrives, then what leaves.
    /// Established connections are left alone. Repeating it, with other addresses or listeners, updates the pod.
    ///
    /// # Errors  See [`KernelError`]. A pod that was not enrolled before is left as it was.
    pub fn enrol(&self, pod: &Pod<'_>) -> Result<(), KernelError> {
        self.state().enrol(pod)
    }

    /// Replaces listeners of an enrolled pod. One that is not named stays. A listener that is closed leaves by itself.
    ///
    /// # Errors  See [`KernelError`].
    pub fn set_listeners(
        &self,
        cookie: NetnsCookie,
        listeners: &[(ListenerKind, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        self.state().set_listeners(cookie, listeners)
    }

    /// Stops capturing a pod's new connections, in both directions, and keeps those that the agent holds alive. The
    /// first half of [`Kernel::withdraw`], for an agent that drains.
    ///
    /// # Errors  See [`KernelError`].
    pub fn release(&self, cookie: NetnsCookie) -> Result<(), KernelError> {
        self.state().release(cookie)
    }

    /// Undoes everything that enrolment did, in the maps and in the pod's namespace, if that still exists. A pod that
    /// is not enrolled is no error. Connections that the agent still holds for the pod break.
    ///
    /// # Errors  See [`KernelError`]. It goes on past an error and returns the first.
    pub fn withdraw(&self, cookie: NetnsCookie) -> Result<(), KernelError> {
        self.state().withdraw(cookie)
    }

    /// Whether another agent has loaded since: all that changes something fails from then on, with
    /// [`KernelError::Superseded`].
    pub fn is_superseded(&self) -> bool {
        self.state().is_superseded()
    }

    /// Pods that are enrolled, by this agent or one before it.
    pub fn enrolled(&self) -> Vec<NetnsCookie> {
        self.state().enrolled()
    }

    /// Whether a process in the node's own namespace opened the plaintext connection that arrived at a pod, with
    /// `local` the pod's end and `remote` the client's, as `socket::ends` gives them. True only as long as the client
    /// has not closed.
    pub fn opened_by_node(&self, cookie: NetnsCookie, local: SocketAddr, remote: SocketAddr) -> bool {
        self.flow(cookie, canonical(remote), canonical(local)) == Some(FlowKind::NODE)
    }

    /// Connections of an enrolled pod's that go on outside of the mesh, because they were opened before the pod was
    /// enrolled: all that [`Netns::established`] lists but what agents hold, and what the hooks have seen. To be asked
    /// once the pod is enrolled; [`Netns::destroy`] ends one.
    ///
    /// # Errors  As for [`Netns::established`].
    pub fn outside(&self, netns: &Netns) -> io::Result<Vec<Established>> {
        let mut all = netns.established()?;
        let state = self.state();
        all.retain(|one| {
            let seen = [(one.local, one.remote), (one.remote, one.local)].into_iter().any(|(from, to)| {
                let kind = self.flow(netns.cookie(), from, to);
                kind == Some(FlowKind::OUTBOUND)
                    || kind == Some(FlowKind::EXEMPT)
                    || self.between.get(&flow_key(NetnsCookie(0), from, to)).is_some()
            });
            !seen && !one.cgroup.is_some_and(|cgroup| state.is_agent(cgroup))
        });
        Ok(all)
    }

    /// How many connections of a pod agents relay, this one or one before it: one end of these is an agent's socket in the pod's
    /// namespace, the other the pod's own. They need what enrolment did there. Kernels before 5.9 do not tell: none.
    ///
    /// # Errors  As for [`Netns::established`].
    pub fn relayed(&self, netns: &Netns) -> io::Result<usize> {
        let within = netns.within()?;
        let state = self.state();
        Ok(within.iter().filter(|one| one.cgroup.is_some_and(|cgroup| state.is_agent(cgroup))).count())
    }

    /// The namespace of an enrolled pod, also of one that an agent before this one enrolled. None if it is gone.
    pub fn namespace(&self, cookie: NetnsCookie) -> Option<Netns> {
        self.state().namespace(cookie)
    }

    /// Withdraws every pod and removes every link, map and pin.
    ///
    /// # Errors  See [`KernelError`]. It goes on past an error and returns the first.
    pub fn remove_all(&self) -> Result<(), KernelError> {
        self.state().remove_all()
    }

    /// Passes on what the hooks report to `tracing`, target `ebpf`, at debug level, until dropped. Nothing comes unless
    /// [`Config::debug`] is set, nor to a second caller.
    ///
    /// # Errors  Of registering the ring buffer with the runtime.
    pub async fn drain_logs(&self) -> io::Result<()> {
        let logs = self.state().take_logs();
        logs::drain(logs).await
    }

    /// Which pods may talk without the agent, as the hooks have it: of this agent, or one before it.
    pub fn verdicts(&self) -> Vec<(VerdictKey, Verdict)> {
        self.between.verdicts()
    }

    /// Says what becomes of a pair's connections from now on; none is as good as [`Verdict::RELAY`], and takes no room.
    ///
    /// # Errors  `Superseded`, and of the map, when it is full.
    pub fn set_verdict(&self, key: VerdictKey, verdict: Option<Verdict>) -> Result<(), KernelError> {
        self.between.set_verdict(key, verdict)
    }

    /// Of which endpoints the hooks choose, for whom: by this agent, or one before it.
    pub fn services(&self) -> Vec<(ServiceKey, Choices)> {
        self.between.services()
    }

    /// Says of which endpoints the hooks choose from now on; none: of none. An endpoint needs a verdict all the same.
    ///
    /// # Errors  `Superseded`, and of the map, when it is full.
    pub fn set_service(&self, key: ServiceKey, choices: Option<Choices>) -> Result<(), KernelError> {
        self.between.set_service(key, choices)
    }

    /// The endpoints among which the hook has drawn for a pod's connection to a service, and which it has not drawn if
    /// [`socket::is_drawn`](crate::socket::is_drawn). For the data path: one system call.
    pub fn choices(&self, source: NetnsCookie, asked: SocketAddr) -> Vec<IpAddr> {
        let key = ServiceKey { source: source.0, address: asked.ip().into(), port: asked.port(), pad: [0; 3] };
        let choices = self.between.choices(&key).unwrap_or_default();
        choices.0.iter().filter(|choice| choice.below != 0).map(|choice| choice.address.into()).collect()
    }

    /// Lets verdicts hold for `age` from now; zero ends that at once.
    ///
    /// # Errors  `Superseded`, and of the map.
    pub fn trust_verdicts(&self, age: std::time::Duration) -> Result<(), KernelError> {
        self.between.trust(age)
    }

    /// Until when verdicts hold, by [`Kernel::monotonic`].
    pub fn trusted_until(&self) -> u64 {
        self.between.trusted_until()
    }

    /// As [`Kernel::trust_verdicts`], to a moment.
    ///
    /// # Errors  `Superseded`, and of the map.
    pub fn trust_until(&self, until: u64) -> Result<(), KernelError> {
        self.between.trust_until(until)
    }

    /// Returns once no hook is at work with what the maps held before this call. Blocks, for tens of milliseconds.
    pub fn wait_for_hooks(&self) {
        sys::wait_for_hooks();
    }

    /// Events that were lost and connections that found no room, since the pins were made.
    pub fn same_node_counts(&self) -> SameNode {
        self.between.counts()
    }

    /// Connections between two pods of this node that no agent carries, live or half closed.
    pub fn direct(&self) -> Vec<(FlowKey, Direct)> {
        self.between.all()
    }

    /// Forgets one whose sockets are gone.
    ///
    /// # Errors  `Superseded`, and of the map.
    pub fn forget_direct(&self, flow: &FlowKey) -> Result<(), KernelError> {
        self.between.forget(flow)
    }

    /// As [`Kernel::is_superseded`], and waits for no other call.
    pub fn is_another_agents(&self) -> bool {
        self.between.is_superseded()
    }

    /// What the hooks tell of those connections. There shall be one reader. Within a runtime.
    ///
    /// # Errors  Of the map, and of the runtime.
    pub fn events(&self) -> Result<Events, KernelError> {
        Events::open(&self.dir)
    }

    /// The clock by which hooks tell the time, in nanoseconds.
    pub fn monotonic() -> u64 {
        sys::monotonic()
    }

    fn flow(&self, cookie: NetnsCookie, from: SocketAddr, to: SocketAddr) -> Option<FlowKind> {
        self.flows.get(&flow_key(cookie, from, to), 0).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What another call left half done is in the kernel, not in this state; going on is right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flow_key(cookie: NetnsCookie, from: SocketAddr, to: SocketAddr) -> FlowKey {
    FlowKey {
        cookie: cookie.0,
        local: from.ip().into(),
        remote: to.ip().into(),
        local_port: from.port(),
        remote_port: to.port(),
        pad: 0,
    }
}
