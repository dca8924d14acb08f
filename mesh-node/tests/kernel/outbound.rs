//! What the pod opens is captured, however it opens it, and nothing else is.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use mesh_ebpf::{MARK_AGENT, MARK_CAPTURE};
use mesh_node::socket::canonical;
use nix::sys::socket as raw;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::world::{World, accept};
use crate::{OUTSIDE, POD, POD_SECOND, at, connect, ip};

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
