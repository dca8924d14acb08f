//! What is loaded, and each pod's way in and out.

use std::{
    collections::HashMap,
    fmt, fs,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use mesh_ebpf::{ABI_VERSION, Address, FlowKey, FlowKind, ListenerKey, Settings, maps, pins};
use nix::fcntl::{Flock, FlockArg};

use super::{
    Config, KernelError, ListenerKind, LoadError, Pod,
    attach::{Loader, pin, remove},
    bpffs::is_bpffs,
    cgroup::Cgroup,
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
    tables: Tables,
    logs: Option<Logs>,
    /// The generation that our load began; another one in the map is another agent's.
    generation: u32,
    node: NetnsCookie,
    /// Namespaces of the pods that this agent enrolled. Adopted ones are found again when needed.
    open: HashMap<u64, Netns>,
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
        let loader = Loader { dir: config.pin_dir, object, debug: config.debug, set_retval };
        let mut ebpf = loader.load(0)?;
        let mut tables = Tables::of(&mut ebpf)?;
        let node = Netns::current().map_err(KernelError::Node)?.cookie();
        let generation = tables.settings()?.generation.wrapping_add(1);
        let settings = Settings { abi_version: ABI_VERSION, generation, node_cookie: node.0 };
        tables.settings.set(0, settings, 0).map_err(failed("write", maps::SETTINGS))?;
        if tables.agents.insert(agent.id, 1, 0).is_err() {
            // Full of agents that are long dead. One that still drains loses the exemption for new connections.
            let dead: Vec<u64> = tables.agents.keys().filter_map(Result::ok).collect();
            for id in dead {
                gone(maps::AGENTS, tables.agents.remove(&id))?;
            }
            tables.agents.insert(agent.id, 1, 0).map_err(failed("insert", maps::AGENTS))?;
        }

        loader.attach_cgroup(&mut ebpf, &pods, "")?;
        if !agent.is_within(&pods) {
            loader.attach_cgroup(&mut ebpf, &agent, &format!("-agent-{}", agent.id))?;
        }
        let logs = if config.debug { Logs::of(&mut ebpf) } else { None };
        let state = Self { loader, tables, logs, generation, node, open: HashMap::new() };
        for cookie in state.enrolled() {
            state.loader.attach_pod(cookie.0, None)?;
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
        let attached = self.loader.attach_pod(cookie, Some(pod.netns.as_fd()));
        attached.map_err(|error| match error {
            LoadError::Kernel(error) => error,
            other => KernelError::Instance(Box::new(other)),
        })?;
        let value = mesh_ebpf::Pod { id: pod.id, flags: 0 };
        self.tables.pods.insert(cookie, value, 0).map_err(failed("insert", maps::PODS))
    }

    pub(super) fn set_listeners(
        &mut self,
        cookie: NetnsCookie,
        listeners: &[(ListenerKind, BorrowedFd<'_>)],
    ) -> Result<(), KernelError> {
        let _lock = self.own()?;
        self.listeners(cookie.0, listeners)
    }

    pub(super) fn release(&mut self, cookie: NetnsCookie) -> Result<(), KernelError> {
        let _lock = self.own()?;
        self.stop(cookie.0)
    }

    pub(super) fn withdraw(&mut self, cookie: NetnsCookie) -> Result<(), KernelError> {
        let _lock = self.own()?;
        self.undo(cookie)
    }

    pub(super) fn enrolled(&self) -> Vec<NetnsCookie> {
        self.tables.plumbed.keys().filter_map(Result::ok).map(NetnsCookie).collect()
    }

    pub(super) fn flow(&self, cookie: NetnsCookie, from: SocketAddr, to: SocketAddr) -> Option<FlowKind> {
        let key = FlowKey {
            cookie: cookie.0,
            local: from.ip().into(),
            remote: to.ip().into(),
            local_port: from.port(),
            remote_port: to.port(),
            pad: 0,
        };
        self.tables.flows.get(&key, 0).ok()
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
        let listeners = [ListenerKind::Outbound, ListenerKind::Plaintext, ListenerKind::Hbone];
        for kind in listeners {
            let key = ListenerKey { cookie: cookie.0, kind: kind.number(), pad: 0 };
            first = first.and(gone(maps::LISTENERS, self.tables.listeners.remove(&key)));
        }
        first = first.and(self.addresses(cookie.0, &[]));
        self.tables.forget_flows(cookie.0);
        let Ok(before) = self.tables.plumbed.get(&cookie.0, 0) else { return first };
        let netns = self.open.remove(&cookie.0).or_else(|| Netns::find(before.netns_inode, cookie));
        // Nobody is in it and nobody mounted it: it is gone, and its rules with it.
        if let Some(netns) = netns {
            first = first.and(unplumb(&netns, &before).map_err(KernelError::from));
        }
        first.and(gone(maps::PLUMBED, self.tables.plumbed.remove(&cookie.0)))
    }

    /// Stops capturing, outbound first: while inbound is steered the agent still answers.
    fn stop(&mut self, cookie: u64) -> Result<(), KernelError> {
        let pods = gone(maps::PODS, self.tables.pods.remove(&cookie));
        pods.and(remove(&self.loader.pod_link(cookie)))
    }

    fn listeners(&mut self, cookie: u64, listeners: &[(ListenerKind, BorrowedFd<'_>)]) -> Result<(), KernelError> {
        for (kind, socket) in listeners {
            let key = ListenerKey { cookie, kind: kind.number(), pad: 0 };
            let done = self.tables.listeners.insert(key, socket.as_raw_fd(), 0);
            done.map_err(failed("insert", maps::LISTENERS))?;
        }
        Ok(())
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
