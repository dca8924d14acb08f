//! What is loaded, and each pod's way in and out.

use std::{
    collections::HashMap,
    fmt, fs,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use mesh_ebpf::{ABI_VERSION, Address, ListenerKey, Settings, maps, pins};
use nix::fcntl::{Flock, FlockArg};

use super::{
    Config, KernelError, ListenerKind, LoadError, Pod,
    attach::{Loader, agent_suffix, pin, remove},
    bpffs::is_bpffs,
    cgroup::Cgroup,
    instance::{Slots, Template},
    logs::Logs,
    object,
    table::{Tables, check_pins, failed, gone},
};
use crate::{
    netns::{Netns, NetnsCookie},
    plumbing::{before, plumb, unplumb},
};

pub(super) struct State {
    loader: Loader,
    template: Template,
    tables: Tables,
    logs: Option<Logs>,
    /// The generation that our load began; another one in the map is another agent's.
    generation: u32,
    node: NetnsCookie,
    /// Namespaces of the pods that this agent enrolled. Adopted ones are found again when needed.
    open: HashMap<u64, Netns>,
    /// How many listeners this agent gave each pod.
    slots: HashMap<u64, Slots>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dir, generation) = (&self.loader.dir, self.generation);
        f.debug_struct("State").field("dir", dir).field("generation", &generation).finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn load(config: Config) -> Result<Self, LoadError> {
        let object = object::read(config.object.as_deref())?;
        let pods = Cgroup::open(&config.cgroup_root)?;
        let agent = Cgroup::of_agent(config.agent_cgroup.as_deref(), &pods)?;
        if !is_bpffs(&config.pin_dir) {
            return Err(LoadError::NotBpffs(config.pin_dir));
        }
        for folder in [config.pin_dir.clone(), config.pin_dir.join(pins::MAPS), config.pin_dir.join(pins::LINKS)] {
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(pin("make the folder", &folder)(error).into());
                }
                _ => {}
            }
        }
        let _lock = lock(&config.pin_dir)?;
        check_pins(&config.pin_dir)?;

        let set_retval = super::probe::set_retval();
        let tells_mptcp = super::probe::tells_mptcp();
        let loader = Loader { dir: config.pin_dir, object, debug: config.debug, set_retval, tells_mptcp };
        let mut ebpf = loader.load()?;
        let template = Template::of(&loader.object, &ebpf)?;
        // The kernel's opinion of it, before a pod depends on it.
        template.instance(0, Slots::default())?;
        let mut tables = Tables::of(&mut ebpf)?;
        let node = Netns::current().map_err(KernelError::Node)?.cookie();
        let generation = tables.settings()?.generation.wrapping_add(1);
        let settings = Settings { abi_version: ABI_VERSION, generation, node_cookie: node.0 };
        tables.settings.set(0, settings, 0).map_err(failed("write", maps::SETTINGS))?;
        // An agent that drains is in its cgroup, which is there as long.
        let dead: Vec<u64> = tables.agents.keys().filter_map(Result::ok).filter(|id| agent.is_gone(*id)).collect();
        for id in dead {
            gone(maps::AGENTS, tables.agents.remove(&id))?;
            loader.forget_agent(id)?;
        }
        tables.agents.insert(agent.id, 1, 0).map_err(failed("insert", maps::AGENTS))?;

        loader.attach_cgroup(&mut ebpf, &pods, "")?;
        if !agent.is_within(&pods) {
            loader.attach_cgroup(&mut ebpf, &agent, &agent_suffix(agent.id))?;
        }
        let logs = if config.debug { Logs::of(&mut ebpf) } else { None };
        let state =
            Self { loader, template, tables, logs, generation, node, open: HashMap::new(), slots: HashMap::new() };
        for cookie in state.enrolled() {
            // With the first of the listeners that its agent left it, if that still lives.
            state.steer(cookie.0, None)?;
        }
        Ok(state)
    }

    pub(super) fn enrol(&mut self, pod: &Pod<'_>) -> Result<(), KernelError> {
        let _lock = self.own()?;
        let cookie = pod.netns.cookie();
        if cookie == self.node {
            return Err(KernelError::NodeNamespace);
        }
        let known = self.tables.plumbed.get(&cookie.0, 0).is_ok();
        self.open.insert(cookie.0, pod.netns.clone());
        let result = self.try_enrol(pod, known);
        if result.is_err() && !known {
            let _ = self.undo(cookie);
        }
        result
    }

    fn try_enrol(&mut self, pod: &Pod<'_>, known: bool) -> Result<(), KernelError> {
        let cookie = pod.netns.cookie().0;
        if !known {
            let before = before(pod.netns)?;
            self.tables.plumbed.insert(cookie, before, 0).map_err(failed("insert", maps::PLUMBED))?;
        }
        plumb(pod.netns, pod.addresses)?;
        self.listeners(cookie, pod.listeners)?;
        self.addresses(cookie, pod.addresses)?;
        // One that is captured already, by an agent before this one, stays so.
        if self.tables.pods.get(&cookie, 0).is_err() {
            self.pod(cookie, mesh_ebpf::Pod { id: pod.id, flags: mesh_ebpf::Pod::PASSING })?;
        }
        self.steer(cookie, Some(pod.netns.as_fd()))?;
        self.pod(cookie, mesh_ebpf::Pod { id: pod.id, flags: 0 })
    }

    fn pod(&mut self, cookie: u64, pod: mesh_ebpf::Pod) -> Result<(), KernelError> {
        self.tables.pods.insert(cookie, pod, 0).map_err(failed("insert", maps::PODS))
    }

    pub(super) fn set_listeners(
        &mut self,
        cookie: NetnsCookie,
        listeners: &[(ListenerKind, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        let _lock = self.own()?;
        self.listeners(cookie.0, listeners)?;
        self.steer(cookie.0, None)
    }

    pub(super) fn release(&mut self, cookie: NetnsCookie) -> Result<(), KernelError> {
        let _lock = self.own()?;
        self.pass(cookie.0)
    }

    pub(super) fn withdraw(&mut self, cookie: NetnsCookie) -> Result<(), KernelError> {
        let _lock = self.own()?;
        self.undo(cookie)
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.tables.settings().is_ok_and(|settings| settings.generation != self.generation)
    }

    pub(super) fn is_agent(&self, cgroup: u64) -> bool {
        self.tables.agents.get(&cgroup, 0).is_ok()
    }

    pub(super) fn enrolled(&self) -> Vec<NetnsCookie> {
        self.tables.plumbed.keys().filter_map(Result::ok).map(NetnsCookie).collect()
    }

    pub(super) fn namespace(&self, cookie: NetnsCookie) -> Option<Netns> {
        let before = self.tables.plumbed.get(&cookie.0, 0).ok()?;
        self.open.get(&cookie.0).cloned().or_else(|| Netns::find(before.netns_inode, cookie))
    }

    pub(super) fn remove_all(&mut self) -> Result<(), KernelError> {
        let _lock = self.own()?;
        let mut first = Ok(());
        for cookie in self.enrolled() {
            first = first.and(self.undo(cookie));
        }
        first?;
        let dir = self.loader.dir.clone();
        for folder in [dir.join(pins::LINKS), dir.join(pins::MAPS)] {
            for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
                remove(&file.path())?;
            }
            fs::remove_dir(&folder).map_err(pin("remove the folder", &folder))?;
        }
        fs::remove_dir(&dir).map_err(pin("remove the folder", &dir))
    }

    pub(super) fn take_logs(&mut self) -> Option<Logs> {
        self.logs.take()
    }

    /// Undoes what it can and returns the first error.
    fn undo(&mut self, cookie: NetnsCookie) -> Result<(), KernelError> {
        let mut first = self.stop(cookie.0);
        for kind in ListenerKind::ALL {
            for slot in 0..ListenerKey::SLOTS {
                let key = ListenerKey { cookie: cookie.0, kind: kind.number(), slot };
                first = first.and(gone(maps::LISTENERS, self.tables.listeners.remove(&key)));
            }
        }
        first = first.and(self.addresses(cookie.0, &[]));
        self.slots.remove(&cookie.0);
        self.tables.forget_flows(cookie.0);
        let Ok(before) = self.tables.plumbed.get(&cookie.0, 0) else { return first };
        let netns = self.open.remove(&cookie.0).or_else(|| Netns::find(before.netns_inode, cookie));
        // Nobody is in it and nobody mounted it: it is gone, and its rules with it.
        if let Some(netns) = netns {
            first = first.and(unplumb(&netns, &before).map_err(KernelError::from));
        }
        first.and(gone(maps::PLUMBED, self.tables.plumbed.remove(&cookie.0)))
    }

    /// Stops capturing, both directions at one moment.
    fn pass(&mut self, cookie: u64) -> Result<(), KernelError> {
        match self.tables.pods.get(&cookie, 0) {
            Ok(pod) => self.pod(cookie, mesh_ebpf::Pod { flags: mesh_ebpf::Pod::PASSING, ..pod }),
            Err(_) => Ok(()),
        }
    }

    /// Stops capturing and detaches what did.
    fn stop(&mut self, cookie: u64) -> Result<(), KernelError> {
        let passing = self.pass(cookie);
        let detached = self.loader.detach_pod(cookie);
        passing.and(detached).and(gone(maps::PODS, self.tables.pods.remove(&cookie)))
    }

    /// Puts the listeners into their slots, and counts these.
    fn listeners(&mut self, cookie: u64, listeners: &[(ListenerKind, BorrowedFd<'_>)]) -> Result<(), KernelError> {
        let slots = self.slots.entry(cookie).or_default();
        for kind in ListenerKind::ALL {
            let named = listeners.iter().filter(|(other, _)| *other == kind);
            for (slot, (_, socket)) in (0..ListenerKey::SLOTS).zip(named) {
                let key = ListenerKey { cookie, kind: kind.number(), slot };
                let done = self.tables.listeners.insert(key, socket.as_raw_fd(), 0);
                done.map_err(failed("insert", maps::LISTENERS))?;
                slots.set(kind, slot + 1);
            }
        }
        Ok(())
    }

    /// Gives the pod's link an instance of the program that knows the pod and its slots.
    fn steer(&self, cookie: u64, netns: Option<BorrowedFd<'_>>) -> Result<(), KernelError> {
        let slots = self.slots.get(&cookie).copied().unwrap_or_default();
        let program = self.template.instance(cookie, slots);
        let program = program.map_err(|error| KernelError::Instance(Box::new(error)))?;
        self.loader.attach_pod(program.as_fd(), cookie, netns)
    }

    /// Makes `addresses` the pod's, and only these.
    fn addresses(&mut self, cookie: u64, addresses: &[IpAddr]) -> Result<(), KernelError> {
        let wanted: Vec<Address> = addresses.iter().copied().map(Address::from).collect();
        let stale: Vec<Address> = self
            .tables
            .local
            .iter()
            .filter_map(Result::ok)
            .filter(|(address, owner)| *owner == cookie && !wanted.contains(address))
            .map(|(address, _)| address)
            .collect();
        for address in stale {
            gone(maps::LOCAL, self.tables.local.remove(&address))?;
        }
        for address in wanted {
            self.tables.local.insert(address, cookie, 0).map_err(failed("insert", maps::LOCAL))?;
        }
        Ok(())
    }

    /// Locks the pins and makes sure that they are ours.
    fn own(&self) -> Result<Flock<fs::File>, KernelError> {
        let lock = lock(&self.loader.dir)?;
        let now = self.tables.settings()?.generation;
        if now == self.generation { Ok(lock) } else { Err(KernelError::Superseded { ours: self.generation, now }) }
    }
}

/// Keeps other agents from the pins until dropped.
fn lock(dir: &Path) -> Result<Flock<fs::File>, KernelError> {
    let failed = |source| KernelError::Lock { path: PathBuf::from(dir), source };
    let folder = fs::File::open(dir).map_err(failed)?;
    Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
}
