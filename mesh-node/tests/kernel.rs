//! Capture and steering on the running kernel, in namespaces and cgroups that the test makes.
//!
//! Needs root; without it, or without a facility, a test prints `skipped:` and what it lacked.

#[path = "kernel/agents.rs"]
mod agents;
#[path = "kernel/direct.rs"]
mod direct;
#[path = "kernel/established.rs"]
mod established;
#[path = "kernel/costs.rs"]
mod costs;
#[path = "kernel/world.rs"]
mod world;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use mesh_ebpf::{MARK_AGENT, MARK_CAPTURE};
use mesh_node::{
    ebpf::{KernelError, ListenerKind, LoadError, probe},
    socket::{self, canonical},
};
use nix::sys::socket as raw;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use world::{Listeners, World, accept};

const OUTSIDE: [&str; 2] = ["10.57.1.2", "fd57:1::2"];
const POD: [&str; 2] = ["10.57.0.2", "fd57::2"];
/// The pod's second address, of which the agent is not told.
const POD_SECOND: [&str; 2] = ["10.57.9.2", "fd57:9::2"];

#[test]
fn captured_connections_keep_their_destination_and_the_application_sees_its_peer() {
    let Some(world) = World::enrolled() else { return };
    for host in OUTSIDE {
        let to = at(host, 8080);
        world.in_pod(|| {
            let app = connect(to).unwrap();
            world.expect_captured(&app, to);
        });
    }
}

#[test]
fn an_ipv4_mapped_destination_is_captured() {
    let Some(world) = World::enrolled() else { return };
    world.in_pod(|| {
        let app = connect(at("::ffff:10.57.1.2", 8080)).unwrap();
        world.expect_captured(&app, at("10.57.1.2", 8080));
    });
}

#[test]
fn a_non_blocking_connect_is_captured() {
    let Some(world) = World::enrolled() else { return };
    for host in OUTSIDE {
        let to = at(host, 8080);
        world.in_pod(|| {
            let app = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            app.set_nonblocking(true).unwrap();
            let _ = app.connect(&to.into());
            let taken = accept(&world.listeners.outbound).unwrap();
            assert_eq!(canonical(taken.local_addr().unwrap()), to);
        });
    }
}

#[test]
fn tcp_fast_open_is_captured() {
    let Some(world) = World::enrolled() else { return };
    for host in OUTSIDE {
        let to = at(host, 8080);
        world.in_pod(|| {
            let app = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            let flags = raw::MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
            let sent = raw::sendto(app.as_raw_fd(), b"first", &raw::SockaddrStorage::from(to), flags).unwrap();
            assert_eq!(sent, 5);
            let mut taken = accept(&world.listeners.outbound).unwrap();
            assert_eq!(canonical(taken.local_addr().unwrap()), to);
            let mut got = [0; 5];
            taken.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"first");
        });
    }
}

#[test]
fn a_deferred_fast_open_cannot_slip_another_mark_in() {
    let Some(world) = World::enrolled() else { return };
    for mark in [0, MARK_AGENT, 7] {
        let to = at(OUTSIDE[0], 8080);
        world.in_pod(|| {
            let app = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            raw::setsockopt(&app, raw::sockopt::TcpFastOpenConnect, &true).unwrap();
            // Without a cookie of the destination's the kernel defers only if it is told not to ask for one.
            world.fastopen_without_cookie(&world.pod);
            app.connect(&to.into()).unwrap();
            app.set_mark(mark).unwrap();
            let mut app = TcpStream::from(app);
            app.write_all(b"first").unwrap();
            world.expect_captured(&app, to);
        });
    }
}

#[test]
fn multipath_tcp_is_captured() {
    let Some(world) = World::enrolled() else { return };
    for host in OUTSIDE {
        let to = at(host, 8080);
        world.in_pod(|| {
            let app = match Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)) {
                Ok(app) => app,
                Err(error) => return println!("skipped: multipath TCP: {error}"),
            };
            app.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
            world.expect_captured(&app.into(), to);
        });
    }
}

#[test]
fn the_connect_hook_sees_multipath_tcp_itself() {
    let Some(mut world) = World::new() else { return };
    world.config.debug = true;
    world.load().unwrap();
    world.enrol();
    let connected = OUTSIDE.into_iter().filter(|host| {
        let to = at(host, 8080);
        world.in_pod(|| match Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)) {
            Ok(app) => app.connect_timeout(&to.into(), Duration::from_secs(2)).map(|()| true).unwrap(),
            Err(error) => {
                println!("skipped: multipath TCP: {error}");
                false
            }
        })
    });
    let connected = connected.count();
    let lines = world.logged();
    assert_eq!(lines.matches("connect: captured").count(), connected, "{lines}");
}

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
fn a_socket_opened_before_enrolment_and_connected_after_is_captured() {
    let Some(world) = World::new() else { return };
    let to = at(OUTSIDE[0], 8080);
    let app = world.in_pod(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    world.enrol();
    world.in_pod(|| {
        app.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
        world.expect_captured(&app.try_clone().unwrap().into(), to);
    });
}

#[test]
fn a_second_source_address_is_captured_too() {
    let Some(world) = World::enrolled() else { return };
    for (host, own) in OUTSIDE.into_iter().zip(POD_SECOND) {
        let to = at(host, 8080);
        world.in_pod(|| {
            let app = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            app.bind(&at(own, 0).into()).unwrap();
            app.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
            assert_eq!(app.local_addr().unwrap().as_socket().unwrap().ip(), ip(own));
            world.expect_captured(&app.into(), to);
        });
    }
}

#[test]
fn a_mark_that_the_pod_sets_does_not_free_it() {
    let Some(world) = World::enrolled() else { return };
    for mark in [1, MARK_AGENT, u32::MAX] {
        let to = at(OUTSIDE[0], 8080);
        world.in_pod(|| {
            let app = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            app.set_mark(mark).unwrap();
            app.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
            assert_eq!(app.mark().unwrap(), MARK_CAPTURE);
            world.expect_captured(&app.into(), to);
        });
    }
}

#[test]
fn loopback_and_own_addresses_are_left_alone() {
    let Some(world) = World::enrolled() else { return };
    for host in ["127.0.0.1", "::1", POD[0], POD[1]] {
        let to = at(host, 8080);
        world.in_pod(|| {
            let app = TcpListener::bind(to).unwrap();
            let client = connect(to).unwrap_or_else(|error| panic!("{host}: {error}"));
            let server = accept(&app).unwrap_or_else(|error| panic!("{host}: {error}"));
            assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
        });
    }
    // 0.0.0.0 means the host itself.
    world.in_pod(|| {
        let app = TcpListener::bind(at("127.0.0.1", 8081)).unwrap();
        let _client = connect(at("0.0.0.0", 8081)).unwrap();
        accept(&app).unwrap();
    });
}

#[test]
fn inbound_is_steered_whatever_port_and_address_it_is_for() {
    let Some(world) = World::enrolled() else { return };
    for host in POD.into_iter().chain(POD_SECOND) {
        for port in [80, 9999, 15_001, 15_006] {
            let to = at(host, port);
            world.outside(|| {
                let client = connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
                let taken = accept(&world.listeners.plaintext).unwrap();
                assert_eq!(canonical(taken.local_addr().unwrap()), to);
                assert_eq!(canonical(taken.peer_addr().unwrap()), client.local_addr().unwrap());
            });
        }
        let to = at(host, 15_008);
        world.outside(|| {
            let _client = connect(to).unwrap();
            let taken = accept(&world.listeners.hbone).unwrap();
            assert_eq!(canonical(taken.local_addr().unwrap()), to);
        });
    }
}

#[test]
fn an_application_that_listens_is_steered_past_all_the_same() {
    let Some(world) = World::enrolled() else { return };
    let app = world.in_pod(|| TcpListener::bind(at("::", 8080)).unwrap());
    for host in POD {
        world.outside(|| {
            let _client = connect(at(host, 8080)).unwrap();
            accept(&world.listeners.plaintext).unwrap();
        });
    }
    app.set_nonblocking(true).unwrap();
    assert_eq!(app.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn the_application_sees_the_client_that_is_delivered() {
    let Some(world) = World::enrolled() else { return };
    let app = world.in_pod(|| TcpListener::bind(at("::", 8080)).unwrap());
    for (host, client) in POD.into_iter().zip(OUTSIDE) {
        world.in_agent(async {
            let timeout = Duration::from_secs(2);
            let delivery = socket::deliver(&world.pod, ip(client), at(host, 8080), timeout).await.unwrap();
            assert!(delivery.transparent);
            let mut server = accept(&app).unwrap();
            assert_eq!(canonical(server.peer_addr().unwrap()).ip(), ip(client));
            // Bytes go both ways, so the application's segments find their way back too.
            let mut agent = delivery.dialled.stream.into_std().unwrap();
            agent.set_nonblocking(false).unwrap();
            agent.write_all(b"question").unwrap();
            let mut got = [0; 8];
            server.read_exact(&mut got).unwrap();
            server.write_all(b"response").unwrap();
            agent.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"response");
        });
    }
}

#[test]
fn a_client_of_the_other_family_is_shown_as_the_pod() {
    let Some(world) = World::enrolled() else { return };
    let app = world.in_pod(|| TcpListener::bind(at("::", 8080)).unwrap());
    world.in_agent(async {
        let timeout = Duration::from_secs(2);
        let delivery = socket::deliver(&world.pod, ip(OUTSIDE[1]), at(POD[0], 8080), timeout).await.unwrap();
        assert!(!delivery.transparent);
        let server = accept(&app).unwrap();
        assert_eq!(canonical(server.peer_addr().unwrap()).ip(), ip(POD[0]));
    });
}

#[test]
fn delivery_to_a_closed_port_is_refused_at_once() {
    let Some(world) = World::enrolled() else { return };
    for (host, client) in POD.into_iter().zip(OUTSIDE) {
        world.in_agent(async {
            let refused = socket::deliver(&world.pod, ip(client), at(host, 8080), Duration::from_secs(2)).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{host}");
        });
    }
}

#[test]
fn ports_of_a_delivered_connection_do_not_open_a_way_past_the_agent() {
    let Some(world) = World::enrolled() else { return };
    let app = world.in_pod(|| TcpListener::bind(at("0.0.0.0", 8080)).unwrap());
    let port = world.in_agent(async {
        let _delivery = socket::deliver(&world.pod, ip(OUTSIDE[0]), at(POD[0], 8080), Duration::from_secs(2)).await;
        let server = accept(&app).unwrap();
        // Reset both ends, so that no socket of the connection lingers.
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        server.peer_addr().unwrap().port()
        // Dropping `_delivery` ends the agent's side.
    });
    world.outside(|| {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_reuse_address(true).unwrap();
        client.bind(&at(OUTSIDE[0], port).into()).unwrap();
        client.connect(&at(POD[0], 8080).into()).unwrap();
        accept(&world.listeners.plaintext).unwrap();
    });
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
fn other_cgroups_and_namespaces_are_untouched() {
    let Some(world) = World::enrolled() else { return };
    let server = world.node(|| TcpListener::bind(at("10.57.1.1", 8080)).unwrap());
    // A namespace that is not enrolled, in the pods' cgroup.
    world.outside(|| {
        let client = connect(at("10.57.1.1", 8080)).unwrap();
        assert_eq!(SockRef::from(&client).mark().unwrap(), 0);
        accept(&server).unwrap();
    });
}

#[test]
fn a_connection_from_the_node_is_known_as_one() {
    let Some(world) = World::enrolled() else { return };
    for host in POD {
        let to = at(host, 8080);
        let client = world.node(|| connect(to).unwrap());
        let taken = accept(&world.listeners.plaintext).unwrap();
        let (local, remote) = (taken.local_addr().unwrap(), taken.peer_addr().unwrap());
        let kernel = world.kernel();
        assert!(kernel.opened_by_node(world.pod.cookie(), local, remote), "{host}");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        world::until("the flow is forgotten", || !kernel.opened_by_node(world.pod.cookie(), local, remote));

        let _client = world.outside(|| connect(to).unwrap());
        let taken = accept(&world.listeners.plaintext).unwrap();
        let (local, remote) = (taken.local_addr().unwrap(), taken.peer_addr().unwrap());
        assert!(!kernel.opened_by_node(world.pod.cookie(), local, remote), "{host}: forwarded by the node");
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

#[test]
fn listeners_are_spread_between_workers() {
    let Some(world) = World::enrolled() else { return };
    let group = socket::listen(&world.pod, 2, 128, None).unwrap();
    let both = [0, 1].map(|worker| (ListenerKind::Plaintext, group[worker].as_fd()));
    world.kernel().set_listeners(world.pod.cookie(), &both).unwrap();
    for host in POD {
        let clients: Vec<_> = world.outside(|| (0..64).map(|_| connect(at(host, 80)).unwrap()).collect());
        let taken = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
        let (one, other) = (taken(&group[0]), taken(&group[1]));
        assert_eq!(one + other, clients.len());
        // Of 64 fair tosses fewer than 10 fall on one side once in 10^8.
        assert!(one >= 10 && other >= 10, "{host}: {one} and {other}");
    }
    // The other kinds keep the one listener that they have.
    world.in_pod(|| world.expect_captured(&connect(at(OUTSIDE[0], 80)).unwrap(), at(OUTSIDE[0], 80)));
}

#[test]
fn a_process_of_the_pods_cannot_join_the_agents_listeners() {
    let Some(world) = World::enrolled() else { return };
    // What the agent must not depend on: listeners that share a port, one of which is the pod's.
    let shared = |port| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at("::", port).into()).unwrap();
        socket.listen(128).unwrap();
        socket.set_nonblocking(true).unwrap();
        TcpListener::from(socket)
    };
    let ours = world.in_pod(|| shared(0));
    let port = ours.local_addr().unwrap().port();
    let theirs = world.in_pod(|| shared(port));
    world.kernel().set_listeners(world.pod.cookie(), &[(ListenerKind::Plaintext, ours.as_fd())]).unwrap();
    let clients: Vec<_> = world.outside(|| (0..64).map(|_| connect(at(POD[0], 80)).unwrap()).collect());
    let taken = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
    assert_eq!((taken(&ours), taken(&theirs)), (clients.len(), 0));

    let port = world.listeners.plaintext.local_addr().unwrap().port();
    let joined = world.in_pod(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at("::", port).into())
    });
    assert_eq!(joined.unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn who_comes_by_a_listeners_own_port_is_told_from_who_is_steered() {
    let Some(world) = World::enrolled() else { return };
    let direct = |listener: &TcpListener| {
        let port = listener.local_addr().unwrap().port();
        let taken = accept(listener).unwrap();
        taken.set_nonblocking(true).unwrap();
        world.in_agent(async {
            let stream = tokio::net::TcpStream::from_std(taken).unwrap();
            let asked = socket::asked(&stream).unwrap();
            socket::is_direct(&stream, asked, port)
        })
    };
    let Listeners { outbound, plaintext, hbone } = &world.listeners;
    for listener in [outbound, plaintext, hbone] {
        let port = listener.local_addr().unwrap().port();
        // The pod itself, by loopback and by its own addresses, also one that the agent was not told of.
        for own in ["127.0.0.1", "::1"].into_iter().chain(POD).chain(POD_SECOND) {
            let _client = world.in_pod(|| connect(at(own, port)).unwrap());
            assert!(direct(listener), "{own}");
        }
        // A delivery to the port would come back to the agent.
        for (own, client) in POD.into_iter().zip(OUTSIDE) {
            let timeout = Duration::from_secs(2);
            let _delivery = world.in_agent(async {
                socket::deliver(&world.pod, ip(client), at(own, port), timeout)
                    .await
                    .unwrap()
                    .dialled
                    .stream
                    .into_std()
                    .unwrap()
            });
            assert!(direct(listener), "{own} for {client}");
        }
    }
    // A captured connection to that port of another host is one to carry.
    let port = outbound.local_addr().unwrap().port();
    for host in OUTSIDE {
        let _client = world.in_pod(|| connect(at(host, port)).unwrap());
        assert!(!direct(outbound), "{host}");
    }
    // What is steered to another port is, too; to the listener's own, it cannot be delivered.
    let _client = world.outside(|| connect(at(POD[0], 80)).unwrap());
    assert!(!direct(plaintext));
    let port = plaintext.local_addr().unwrap().port();
    let _client = world.outside(|| connect(at(POD[0], port)).unwrap());
    assert!(direct(plaintext));

    world.kernel().release(world.pod.cookie()).unwrap();
    for listener in [outbound, plaintext, hbone] {
        let port = listener.local_addr().unwrap().port();
        for host in POD.into_iter().chain(POD_SECOND) {
            let _client = world.outside(|| connect(at(host, port)).unwrap());
            assert!(direct(listener), "{host} after release");
        }
    }
}

#[test]
fn an_address_that_moves_is_forgotten() {
    let Some(world) = World::enrolled() else { return };
    let pod = |addresses: &[IpAddr]| {
        let listeners = world.listeners.all();
        let pod = mesh_node::ebpf::Pod { netns: &world.pod, addresses, id: 1, listeners: &listeners };
        world.kernel().enrol(&pod).unwrap();
    };
    pod(&[ip(POD_SECOND[0])]);
    let _client = world.node(|| connect(at(POD[0], 8080)).unwrap());
    let taken = accept(&world.listeners.plaintext).unwrap();
    let ends = (taken.local_addr().unwrap(), taken.peer_addr().unwrap());
    assert!(!world.kernel().opened_by_node(world.pod.cookie(), ends.0, ends.1));
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
