//! The agent's listeners in the pod's namespace, and who comes by their own ports.

use std::{io, net::TcpListener, os::fd::AsFd, time::Duration};

use mesh_node::{ebpf::ListenerKind, socket};
use socket2::{Domain, Socket, Type};

use crate::world::{Listeners, World, accept};
use crate::{OUTSIDE, POD, POD_SECOND, at, connect, ip};

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
