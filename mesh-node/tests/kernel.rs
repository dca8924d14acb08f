//! Capture and steering on the running kernel, in namespaces and cgroups that the test makes.
//!
//! Needs root; without it, or without a facility, a test prints `skipped:` and what it lacked.

#[path = "kernel/outbound.rs"]
mod outbound;
#[path = "kernel/inbound.rs"]
mod inbound;
#[path = "kernel/listeners.rs"]
mod listeners;
#[path = "kernel/agents.rs"]
mod agents;
#[path = "kernel/direct.rs"]
mod direct;
#[path = "kernel/pacing.rs"]
mod pacing;
#[path = "kernel/established.rs"]
mod established;
#[path = "kernel/costs.rs"]
mod costs;
#[path = "kernel/world.rs"]
mod world;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use mesh_node::{
    ebpf::{KernelError, LoadError, probe},
    socket::{self, canonical},
};
use world::{Listeners, World, accept};

const OUTSIDE: [&str; 2] = ["10.57.1.2", "fd57:1::2"];
const POD: [&str; 2] = ["10.57.0.2", "fd57::2"];
/// The pod's second address, of which the agent is not told.
const POD_SECOND: [&str; 2] = ["10.57.9.2", "fd57:9::2"];

#[test]
fn a_pod_without_ipv6_is_captured_and_left_as_it_was() {
    let Some(mut world) = World::new() else { return };
    let sysctl = |value: &str| {
        let write = |name| std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), value).unwrap();
        world.pod.enter(|| ["all", "default"].into_iter().for_each(write)).unwrap();
    };
    sysctl("1");
    world.before = world.trace();
    let addresses = world.pod.addresses().unwrap();
    assert!(addresses.iter().all(IpAddr::is_ipv4), "{addresses:?}");
    let listeners = Listeners::open(&world.pod);
    let all = listeners.all();
    let pod = mesh_node::ebpf::Pod { netns: &world.pod, addresses: &addresses, id: 1, listeners: &all };
    world.kernel().enrol(&pod).unwrap();
    let (out, inward) = (at(OUTSIDE[0], 8080), at(POD[0], 8080));
    let _app = world.in_pod(|| connect(out).unwrap());
    assert_eq!(canonical(accept(&listeners.outbound).unwrap().local_addr().unwrap()), out);
    let _client = world.outside(|| connect(inward).unwrap());
    assert_eq!(canonical(accept(&listeners.plaintext).unwrap().local_addr().unwrap()), inward);
    let v6 = world.in_pod(|| connect(at(OUTSIDE[1], 8080))).unwrap_err();
    assert!(v6.kind() != io::ErrorKind::TimedOut, "{v6}: an IPv6 connection fails at once");
    world.kernel().withdraw(world.pod.cookie()).unwrap();
    assert_eq!(world.before, world.trace());
}

#[test]
fn the_agent_reaches_the_outside_from_within_the_pod() {
    let Some(world) = World::enrolled() else { return };
    for (host, own) in OUTSIDE.into_iter().zip(POD) {
        let server = world.outside(|| TcpListener::bind(at(host, 8080)).unwrap());
        world.in_agent(async {
            let timeout = Duration::from_secs(2);
            let _stream = socket::connect_from_pod(&world.pod, at(host, 8080), timeout).await.unwrap();
            assert_eq!(accept(&server).unwrap().peer_addr().unwrap().ip(), ip(own));
        });
    }
}

#[test]
fn connections_established_before_enrolment_go_on() {
    let Some(world) = World::new() else { return };
    let server = world.outside(|| TcpListener::bind(at(OUTSIDE[0], 8080)).unwrap());
    let mut out = world.in_pod(|| connect(at(OUTSIDE[0], 8080)).unwrap());
    let mut out_end = accept(&server).unwrap();
    let app = world.in_pod(|| TcpListener::bind(at(POD[0], 8080)).unwrap());
    let mut inward = world.outside(|| connect(at(POD[0], 8080)).unwrap());
    let mut in_end = accept(&app).unwrap();
    world.enrol();
    for (one, other) in [(&mut out, &mut out_end), (&mut inward, &mut in_end)] {
        for _ in 0..2 {
            one.write_all(b"x").unwrap();
            other.read_exact(&mut [0]).unwrap();
            other.write_all(b"y").unwrap();
            one.read_exact(&mut [0]).unwrap();
        }
    }
}

#[test]
fn an_agents_death_refuses_and_its_successor_adopts() {
    let Some(mut world) = World::enrolled() else { return };
    let (out, inward) = (at(OUTSIDE[0], 8080), at(POD[0], 8080));
    // What a kill leaves behind: no process, no sockets, the pins.
    world.kill();
    world.in_pod(|| assert_eq!(connect(out).unwrap_err().kind(), io::ErrorKind::ConnectionRefused));
    world.outside(|| assert_eq!(connect(inward).unwrap_err().kind(), io::ErrorKind::ConnectionRefused));
    world.outside(|| {
        let server = TcpListener::bind(at(OUTSIDE[0], 9090)).unwrap();
        connect(at(OUTSIDE[0], 9090)).unwrap();
        accept(&server).unwrap();
    });

    world.load().unwrap();
    assert_eq!(world.kernel().enrolled(), [world.pod.cookie()]);
    world.listeners = Listeners::open(&world.pod);
    world.kernel().set_listeners(world.pod.cookie(), &world.listeners.all()).unwrap();
    world.in_pod(|| world.expect_captured(&connect(out).unwrap(), out));
    world.enrol();
    world.in_pod(|| world.expect_captured(&connect(out).unwrap(), out));
}

#[test]
fn a_successor_that_never_saw_the_pod_can_withdraw_it() {
    let Some(mut world) = World::enrolled() else { return };
    let before = world.before.clone();
    world.kill();
    world.load().unwrap();
    // A process in the namespace, as a pod has.
    let mut inhabitant = world.in_pod(|| std::process::Command::new("sleep").arg("60").spawn().unwrap());
    let result = world.kernel().withdraw(world.pod.cookie());
    let after = world.trace();
    inhabitant.kill().unwrap();
    inhabitant.wait().unwrap();
    result.unwrap();
    assert_eq!(before, after);
}

#[test]
fn of_two_agents_the_newer_one_owns_the_pins() {
    let Some(mut world) = World::enrolled() else { return };
    let to = at(OUTSIDE[0], 8080);
    let old = world.kernel.take().unwrap();
    let old_listeners = std::mem::replace(&mut world.listeners, Listeners::open(&world.pod));
    world.load().unwrap();
    // Until the newer one sets its listeners, the older one's serve.
    world.in_pod(|| {
        connect(to).unwrap();
        accept(&old_listeners.outbound).unwrap();
    });
    world.enrol();
    world.in_pod(|| world.expect_captured(&connect(to).unwrap(), to));
    let refused = old.withdraw(world.pod.cookie());
    assert!(matches!(refused, Err(KernelError::Superseded { .. })), "{refused:?}");
    drop(old_listeners);
    drop(old);
    world.in_pod(|| world.expect_captured(&connect(to).unwrap(), to));
}

#[test]
fn withdrawal_leaves_no_trace() {
    let Some(world) = World::enrolled() else { return };
    assert_ne!(world.before, world.trace());
    // Twice is once.
    world.enrol();
    let _out = world.in_pod(|| connect(at(OUTSIDE[0], 8080)).unwrap());
    let _inward = world.outside(|| connect(at(POD[0], 8080)).unwrap());
    world.kernel().withdraw(world.pod.cookie()).unwrap();
    assert_eq!(world.before, world.trace());
    assert_eq!(world.kernel().enrolled(), []);
    world.kernel().withdraw(world.pod.cookie()).unwrap();

    let server = world.outside(|| TcpListener::bind(at(OUTSIDE[0], 8080)).unwrap());
    world.in_pod(|| connect(at(OUTSIDE[0], 8080)).unwrap());
    assert_eq!(accept(&server).unwrap().peer_addr().unwrap().ip(), ip(POD[0]));

    world.kernel().remove_all().unwrap();
    assert!(!world.config.pin_dir.exists());
}

#[test]
fn released_pods_connect_directly_and_keep_what_is_captured() {
    let Some(world) = World::enrolled() else { return };
    let to = at(OUTSIDE[0], 8080);
    let mut app = world.in_pod(|| connect(to).unwrap());
    let mut taken = accept(&world.listeners.outbound).unwrap();
    world.kernel().release(world.pod.cookie()).unwrap();
    app.write_all(b"x").unwrap();
    taken.read_exact(&mut [0]).unwrap();
    let server = world.outside(|| TcpListener::bind(to).unwrap());
    world.in_pod(|| connect(to).unwrap());
    accept(&server).unwrap();
}

#[test]
fn pins_of_another_abi_are_refused() {
    let Some(mut world) = World::new() else { return };
    world.kill();
    world.raise_pinned_abi();
    assert!(matches!(world.load(), Err(LoadError::PinnedAbi { .. })));
}

#[test]
fn the_nodes_own_namespace_is_no_pod() {
    let Some(world) = World::new() else { return };
    let addresses = world.node.addresses().unwrap();
    let pod = mesh_node::ebpf::Pod { netns: &world.node, addresses: &addresses, id: 1, listeners: &[] };
    assert!(matches!(world.kernel().enrol(&pod), Err(KernelError::NodeNamespace)));
}

#[test]
fn pins_are_refused_off_bpffs_and_agents_in_shared_cgroups() {
    let Some(mut world) = World::new() else { return };
    let good = world.config.clone();
    world.config.pin_dir = std::env::temp_dir().join("weft-no-bpffs");
    assert!(matches!(world.load(), Err(LoadError::NotBpffs(_))));
    world.config = good.clone();
    world.config.agent_cgroup = good.cgroup_root.parent().map(Into::into);
    assert!(matches!(world.load(), Err(LoadError::Cgroup(_))));
    world.config = good;
}

#[test]
fn an_agent_below_the_pods_cgroup_root_is_exempt_too() {
    let Some(mut world) = World::new() else { return };
    world.agent_below_pods();
    world.load().unwrap();
    world.enrol();
    the_agent_reaches(&world);
}

fn the_agent_reaches(world: &World) {
    let server = world.outside(|| TcpListener::bind(at(OUTSIDE[0], 8080)).unwrap());
    world.in_agent(async {
        let timeout = Duration::from_secs(2);
        socket::connect_from_pod(&world.pod, at(OUTSIDE[0], 8080), timeout).await.unwrap();
        accept(&server).unwrap();
    });
}

#[test]
fn this_kernel_is_probed() {
    let Some(world) = World::new() else { return };
    for facility in probe(&world.config) {
        assert!(facility.present, "{facility:?}: on a kernel that runs the other tests it must be found");
    }
}

#[test]
fn hooks_report_to_the_log_when_asked() {
    let Some(mut world) = World::new() else { return };
    world.config.debug = true;
    world.load().unwrap();
    world.enrol();
    let to = at(OUTSIDE[0], 8080);
    world.in_pod(|| world.expect_captured(&connect(to).unwrap(), to));
    let lines = world.logged();
    for hook in ["connect: captured", "sock_ops: port", "sk_lookup: port"] {
        assert!(lines.contains(hook), "{hook} not in {lines}");
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, Duration::from_secs(2))
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(host), port)
}

fn ip(host: &str) -> IpAddr {
    host.parse().unwrap()
}
