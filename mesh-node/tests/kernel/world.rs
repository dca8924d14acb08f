//! A node, a pod on it and a host outside, each a network namespace; cgroups for the pods and the agent.
//!
//! ```text
//!   outside 10.57.1.2 fd57:1::2 --- node --- pod 10.57.0.2 fd57::2, also 10.57.9.2 fd57:9::2
//! ```
//!
//! Threads stand for processes: the cgroups are threaded, so that each thread is in one of its own.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use mesh_ebpf::{Settings, maps, pins};
use mesh_node::{
    ebpf::{Config, Kernel, ListenerKind, LoadError, Pod, mount_bpffs},
    netns::Netns,
    socket::{self, canonical},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};

pub(crate) struct World {
    pub(crate) kernel: Option<Kernel>,
    pub(crate) config: Config,
    pub(crate) pod: Netns,
    pub(crate) node: Netns,
    outside: Netns,
    pub(crate) listeners: Listeners,
    /// What the pod's namespace and the maps showed before enrolment.
    pub(crate) before: String,
    cgroups: Cgroups,
    bpffs: PathBuf,
    /// One world at a time: the process moves between cgroups as a whole.
    _alone: MutexGuard<'static, ()>,
}

impl World {
    /// Everything but the pod's enrolment. None, with a word, where that is impossible.
    pub(crate) fn new() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        match Self::make(alone) {
            Ok(world) => Some(world),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    /// A world whose pod is enrolled.
    pub(crate) fn enrolled() -> Option<Self> {
        let world = Self::new()?;
        world.enrol();
        Some(world)
    }

    fn make(alone: MutexGuard<'static, ()>) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("root".to_owned());
        }
        let say = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| format!("{what}: {error}")
        };
        let (node, pod, outside) = (
            fresh().map_err(say("a namespace"))?,
            fresh().map_err(say("a namespace"))?,
            fresh().map_err(say("a namespace"))?,
        );
        let bpffs = std::env::temp_dir().join(format!("weft-k{}", std::process::id()));
        mount_bpffs(&bpffs).map_err(say("a bpffs"))?;
        let cgroups = Cgroups::make().map_err(say("a cgroup"))?;
        wire(&node, &pod, &outside);
        let listeners = Listeners::open(&pod);
        let config = Config {
            pin_dir: bpffs.join("weft-test"),
            cgroup_root: cgroups.pods.clone(),
            agent_cgroup: Some(cgroups.agent.clone()),
            object: None,
            debug: false,
        };
        let mut world = Self {
            kernel: None,
            config,
            pod,
            node,
            outside,
            listeners,
            before: String::new(),
            cgroups,
            bpffs,
            _alone: alone,
        };
        world.load().unwrap_or_else(|error| panic!("load: {}", chain(&error)));
        world.before = world.trace();
        Ok(world)
    }

    /// Loads a kernel as the agent would, in the node's namespace.
    pub(crate) fn load(&mut self) -> Result<(), LoadError> {
        let config = self.config.clone();
        self.kernel = Some(self.node.enter(|| Kernel::load(config)).unwrap()?);
        Ok(())
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().unwrap()
    }

    pub(crate) fn enrol(&self) {
        let addresses = ["10.57.0.2".parse().unwrap(), "fd57::2".parse().unwrap()];
        let listeners = self.listeners.all();
        let pod = Pod { netns: &self.pod, addresses: &addresses, id: 1, listeners: &listeners };
        self.kernel().enrol(&pod).unwrap_or_else(|error| panic!("enrol: {}", chain(&error)));
    }

    /// Leaves what a killed agent leaves.
    pub(crate) fn kill(&mut self) {
        self.kernel = None;
        self.listeners = Listeners::none();
    }

    /// Runs `f` as a process of the pod.
    pub(crate) fn in_pod<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        as_process(&self.cgroups.pods, &self.pod, f)
    }

    /// Runs `f` as a process on the host outside, in the pods' cgroup: it must be told by its namespace.
    pub(crate) fn outside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        as_process(&self.cgroups.pods, &self.outside, f)
    }

    /// The namespace of the host outside, to be a second pod.
    pub(crate) fn second(&self) -> &Netns {
        &self.outside
    }

    /// What an agent that is dead does not hear of: a pod is gone, and its addresses are somebody else's.
    pub(crate) fn move_second_pods_addresses_to_the_node(&self) {
        run(&self.outside, "ip addr del 10.57.1.2/24 dev eth0");
        run(&self.outside, "ip addr del fd57:1::2/64 dev eth0");
        run(&self.node, "ip addr add 10.57.1.2/32 dev lo");
        run(&self.node, "ip addr add fd57:1::2/128 dev lo nodad");
    }

    /// Runs `f` as a process of the node's.
    pub(crate) fn node<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        as_process(&self.cgroups.pods, &self.node, f)
    }

    /// Runs `f` as the agent.
    pub(crate) fn in_agent<T: Send>(&self, f: impl Future<Output = T> + Send) -> T {
        let cgroup = self.config.agent_cgroup.as_ref().unwrap();
        as_process(cgroup, &self.node, || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
        })
    }

    /// Expects `app`'s connection at the outbound listener, for `to`, and bytes to pass both ways.
    pub(crate) fn expect_captured(&self, app: &TcpStream, to: std::net::SocketAddr) {
        let taken = accept(&self.listeners.outbound).unwrap();
        assert_eq!(canonical(taken.local_addr().unwrap()), to, "original destination");
        assert_eq!(canonical(app.peer_addr().unwrap()), to, "the application's peer");
        assert_eq!(canonical(taken.peer_addr().unwrap()), canonical(app.local_addr().unwrap()));
        io::Write::write_all(&mut &taken, b"pong").unwrap();
        io::Read::read_exact(&mut &*app, &mut [0; 4]).unwrap();
    }

    /// Lets a client send data in its SYN without having asked for a cookie.
    pub(crate) fn fastopen_without_cookie(&self, netns: &Netns) {
        netns.enter(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", "5")).unwrap().unwrap();
    }

    /// Rules, routes and sysctls of the pod's namespace, links and map entries.
    pub(crate) fn trace(&self) -> String {
        let mut trace = String::new();
        for command in ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"] {
            trace += &run(&self.pod, &format!("ip {command}"));
        }
        for sysctl in ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"] {
            trace += &self.pod.enter(|| fs::read_to_string(format!("/proc/sys/net/{sysctl}"))).unwrap().unwrap();
        }
        let mut links: Vec<_> = fs::read_dir(self.config.pin_dir.join(pins::LINKS)).unwrap().flatten().collect();
        links.sort_by_key(fs::DirEntry::file_name);
        for link in links {
            trace += &format!("{}\n", link.file_name().display());
        }
        for map in [maps::PODS, maps::LOCAL, maps::FLOWS, maps::PLUMBED] {
            let data = MapData::from_pin(self.config.pin_dir.join(pins::MAPS).join(map)).unwrap();
            trace += &format!("{map}: {}\n", entries(map, data));
        }
        trace
    }

    /// Makes the pins another release's.
    pub(crate) fn raise_pinned_abi(&self) {
        let path = self.config.pin_dir.join(pins::MAPS).join(maps::SETTINGS);
        let mut settings: Array<_, Settings> = Map::Array(MapData::from_pin(path).unwrap()).try_into().unwrap();
        let mut value = settings.get(&0, 0).unwrap();
        value.abi_version += 1;
        settings.set(0, value, 0).unwrap();
    }

    /// Moves the agent below the cgroup root.
    pub(crate) fn agent_below_pods(&mut self) {
        let agent = self.cgroups.pods.join("agent");
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join("cgroup.type"), "threaded").unwrap();
        self.config.agent_cgroup = Some(agent);
    }

    /// What the hooks have reported.
    pub(crate) fn logged(&self) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                let _ = tokio::time::timeout(Duration::from_millis(200), self.kernel().drain_logs()).await;
            });
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.kernel.is_none() {
            let _ = self.load();
        }
        if let Some(kernel) = &self.kernel {
            let _ = kernel.remove_all();
        }
        // A pin that a failed test left goes with the mount.
        let _ = nix::mount::umount(&self.bpffs);
        let _ = fs::remove_dir(&self.bpffs);
    }
}

/// The pod's listeners.
pub(crate) struct Listeners {
    pub(crate) outbound: TcpListener,
    pub(crate) plaintext: TcpListener,
    pub(crate) hbone: TcpListener,
}

impl Listeners {
    pub(crate) fn open(pod: &Netns) -> Self {
        let one = || socket::listen(pod, 1, 128, None).unwrap().remove(0);
        Self { outbound: one(), plaintext: one(), hbone: one() }
    }

    /// Listeners that no pod has.
    fn none() -> Self {
        let one = || TcpListener::bind("127.0.0.1:0").unwrap();
        Self { outbound: one(), plaintext: one(), hbone: one() }
    }

    pub(crate) fn all(&self) -> [(ListenerKind, BorrowedFd<'_>); 3] {
        [
            (ListenerKind::Outbound, self.outbound.as_fd()),
            (ListenerKind::Plaintext, self.plaintext.as_fd()),
            (ListenerKind::Hbone, self.hbone.as_fd()),
        ]
    }
}

/// Waits two seconds for a connection, and gives it a deadline for reading.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let mut poll_fd = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut poll_fd, PollTimeout::from(2000_u16))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no connection arrived"));
    }
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Waits two seconds for a condition.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The cgroups of a run; the process is in their parent for as long as this lives.
struct Cgroups {
    base: PathBuf,
    pods: PathBuf,
    agent: PathBuf,
}

impl Cgroups {
    fn make() -> io::Result<Self> {
        let base = hierarchy()?.join(format!("weft-k{}", std::process::id()));
        let this = Self { pods: base.join("pods"), agent: base.join("agent"), base };
        fs::create_dir_all(&this.base)?;
        fs::write(this.base.join("cgroup.procs"), std::process::id().to_string())?;
        for child in [&this.pods, &this.agent] {
            fs::create_dir_all(child)?;
            fs::write(child.join("cgroup.type"), "threaded")?;
        }
        Ok(this)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Some(above) = self.base.parent() {
            let _ = fs::write(above.join("cgroup.procs"), std::process::id().to_string());
        }
        for folder in [&self.pods.join("agent"), &self.pods, &self.agent, &self.base] {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn hierarchy() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = line.and_then(|line| line.split(' ').nth(4));
    mount.map(PathBuf::from).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Runs `f` on a thread in that cgroup and namespace.
fn as_process<T: Send>(cgroup: &Path, netns: &Netns, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            fs::write(cgroup.join("cgroup.threads"), nix::unistd::gettid().to_string()).unwrap();
            netns.enter(f).unwrap()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn fresh() -> io::Result<Netns> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Netns::current()
    });
    made.join().unwrap()
}

fn wire(node: &Netns, pod: &Netns, outside: &Netns) {
    // Else link-local addresses take a second to be usable, and neighbours do not answer before.
    for netns in [node, pod, outside] {
        netns.enter(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap()).unwrap();
    }
    for (netns, name, subnet4, subnet6) in
        [(pod, "pod", "10.57.0", "fd57:"), (outside, "outside", "10.57.1", "fd57:1:")]
    {
        let peer = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
        run(node, &format!("ip link add {name} type veth peer name eth0 netns {peer}"));
        run(node, &format!("ip addr add {subnet4}.1/24 dev {name}"));
        run(node, &format!("ip addr add {subnet6}:1/64 dev {name} nodad"));
        run(node, &format!("ip link set {name} up"));
        run(netns, "ip link set lo up");
        run(netns, &format!("ip addr add {subnet4}.2/24 dev eth0"));
        run(netns, &format!("ip addr add {subnet6}:2/64 dev eth0 nodad"));
        run(netns, "ip link set eth0 up");
        run(netns, &format!("ip route add default via {subnet4}.1"));
        run(netns, &format!("ip route add default via {subnet6}:1"));
    }
    run(node, "ip link set lo up");
    run(pod, "ip addr add 10.57.9.2/32 dev eth0");
    run(pod, "ip addr add fd57:9::2/128 dev eth0 nodad");
    run(node, "ip route add 10.57.9.2 via 10.57.0.2");
    run(node, "ip route add fd57:9::2 via fd57::2");
    node.enter(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    })
    .unwrap();
    // Strict reverse-path filtering must not matter.
    pod.enter(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap()).unwrap();
}

/// Runs a command in a namespace: a child starts in its parent thread's.
fn run(netns: &Netns, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    let output = netns.enter(|| Command::new(words[0]).args(&words[1..]).output()).unwrap().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Number of entries.
fn entries(map: &str, data: MapData) -> usize {
    use aya::maps::HashMap;
    use mesh_ebpf::{Address, FlowKey, FlowKind, Plumbed};
    match map {
        maps::PODS => HashMap::<_, u64, mesh_ebpf::Pod>::try_from(Map::HashMap(data)).unwrap().keys().count(),
        maps::LOCAL => HashMap::<_, Address, u64>::try_from(Map::HashMap(data)).unwrap().keys().count(),
        maps::FLOWS => HashMap::<_, FlowKey, FlowKind>::try_from(Map::LruHashMap(data)).unwrap().keys().count(),
        _ => HashMap::<_, u64, Plumbed>::try_from(Map::HashMap(data)).unwrap().keys().count(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
