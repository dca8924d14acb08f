//! Connections between two pods of the node that no agent carries.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use mesh_ebpf::{Choice, Choices, Direct, Event, FlowKey, MARK_CAPTURE, MARK_DRAWN, ServiceKey, Verdict, VerdictKey};
use mesh_node::{
    ebpf::Pod,
    netns::{Netns, Sockets},
    socket::canonical,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    OUTSIDE, POD, at, connect, ip,
    world::{Listeners, World, accept, until},
};

/// A world in which the host outside is a pod too, with `addresses`; and that pod's listeners.
pub(crate) fn two_pods(world: World, addresses: [&str; 2]) -> (World, Listeners) {
    let listeners = Listeners::open(world.second());
    enrol(&world, world.second(), addresses, &listeners);
    (world, listeners)
}

fn enrol(world: &World, netns: &Netns, addresses: [&str; 2], listeners: &Listeners) {
    let (addresses, all) = (addresses.map(ip), listeners.all());
    world.kernel().enrol(&Pod { netns, addresses: &addresses, id: 2, listeners: &all }).unwrap();
}

/// What becomes of connections from the pod to the second one.
pub(crate) fn allow(world: &World, port: u16, verdict: Verdict) {
    let (source, destination) = (world.pod.cookie().0, world.second().cookie().0);
    for family in [4, 6] {
        let key = VerdictKey { source, destination, port, family, pad: 0 };
        world.kernel().set_verdict(key, Some(verdict)).unwrap();
    }
}

pub(crate) fn trust(world: &World) {
    world.kernel().trust_verdicts(Duration::from_secs(60)).unwrap();
}

fn only(world: &World) -> Option<(FlowKey, Direct)> {
    let all = world.kernel().direct();
    assert!(all.len() <= 1, "{all:#?}");
    all.first().copied()
}

/// A server in the second pod.
pub(crate) fn server(world: &World, port: u16) -> TcpListener {
    world.outside(|| TcpListener::bind(at("::", port)).unwrap())
}

pub(crate) fn expect_direct(world: &World, server: &TcpListener, host: &str) -> (TcpStream, TcpStream) {
    let to = at(host, server.local_addr().unwrap().port());
    let client = world.in_pod(|| connect(to)).unwrap_or_else(|error| panic!("{to}: {error}"));
    let accepted = accept(server).unwrap();
    assert_eq!(canonical(accepted.peer_addr().unwrap()), client.local_addr().unwrap());
    (client, accepted)
}

#[test]
fn a_verdict_makes_the_connection_ordinary_and_its_books_are_kept() {
    let Some(world) = World::enrolled() else { return };
    let (world, _listeners) = two_pods(world, OUTSIDE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut events = {
        let _context = runtime.enter();
        world.kernel().events().unwrap()
    };
    let app = server(&world, 8080);
    for host in OUTSIDE {
        let (mut client, mut accepted) = expect_direct(&world, &app, host);
        let (flow, direct) = only(&world).unwrap();
        assert_eq!((direct.source, direct.destination), (world.pod.cookie().0, world.second().cookie().0));
        assert_eq!(SocketAddr::new(flow.local.into(), flow.local_port), client.local_addr().unwrap());
        assert_eq!(SocketAddr::new(flow.remote.into(), flow.remote_port), at(host, 8080));
        assert!(direct.opened >= direct.begun && direct.arrived != 0 && direct.server.socket != 0, "{direct:?}");

        client.write_all(b"question").unwrap();
        accepted.read_exact(&mut [0; 8]).unwrap();
        accepted.write_all(b"no").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        let received = |netns: &Netns, socket| Sockets::of(netns).unwrap().received().unwrap()[&socket];
        assert_eq!(received(world.second(), direct.server.socket), 8);
        assert_eq!(received(&world.pod, direct.client.socket), 2);
        drop(client);
        assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(received(world.second(), direct.server.socket), 8, "a FIN is no byte");
        drop(accepted);
        until("the entry to go", || only(&world).is_none());
        let opened = events.take().unwrap();
        assert_eq!(
            (opened.kind, opened.flow, opened.direct.client.socket),
            (Event::OPENED, flow, direct.client.socket)
        );
        let closed = events.take().unwrap();
        assert_eq!((closed.kind, closed.flow), (Event::CLOSED, flow));
        assert_eq!(mesh_node::direct::account::bytes(&closed.direct), (8, 2));
        assert!(events.take().is_none());
    }
}

#[test]
fn everything_else_is_captured() {
    let Some(world) = World::enrolled() else { return };
    let (world, listeners) = two_pods(world, OUTSIDE);
    let _app = server(&world, 8080);
    let captured = |what: &str| {
        for host in OUTSIDE {
            world.in_pod(|| world.expect_captured(&connect(at(host, 8080)).expect(what), at(host, 8080)));
        }
        assert!(only(&world).is_none(), "{what}");
    };
    trust(&world);
    captured("without a verdict");
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    world.kernel().trust_verdicts(Duration::ZERO).unwrap();
    captured("with verdicts that are too old");
    trust(&world);
    allow(&world, 8080, Verdict::RELAY);
    captured("at an excepted port");
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::RELAY);
    captured("at any port");
    allow(&world, 8080, Verdict::DIRECT);
    world.kernel().release(world.second().cookie()).unwrap();
    captured("to a pod that leaves");
    enrol(&world, world.second(), OUTSIDE, &listeners);
    drop(expect_direct(&world, &_app, OUTSIDE[0]));
    until("the entry to go", || only(&world).is_none());
    // From an address of the pod's of which policy was not asked.
    world.in_pod(|| {
        let app = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        app.bind(&at(crate::POD_SECOND[0], 0).into()).unwrap();
        let to = at(OUTSIDE[0], 8080);
        app.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
        world.expect_captured(&app.into(), to);
    });
}

#[test]
fn a_verdict_holds_one_way() {
    let Some(world) = World::enrolled() else { return };
    let (world, listeners) = two_pods(world, OUTSIDE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    let _app = world.in_pod(|| TcpListener::bind(at("::", 8080)).unwrap());
    for host in POD {
        let _client = world.outside(|| connect(at(host, 8080)).unwrap());
        assert_eq!(canonical(accept(&listeners.outbound).unwrap().local_addr().unwrap()), at(host, 8080));
    }
}

#[test]
fn fast_open_and_multipath_are_no_way_round() {
    let Some(world) = World::enrolled() else { return };
    let (world, _listeners) = two_pods(world, OUTSIDE);
    allow(&world, 8080, Verdict::DIRECT);
    trust(&world);
    let app = server(&world, 8080);
    for (host, port) in OUTSIDE.into_iter().flat_map(|host| [(host, 8080), (host, 9090)]) {
        world.fastopen_without_cookie(&world.pod);
        let to = at(host, port);
        world.in_pod(|| {
            let client = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::TcpFastOpenConnect, &true).unwrap();
            client.connect(&to.into()).unwrap();
            client.set_mark(mesh_ebpf::MARK_AGENT).unwrap();
            let mut client = TcpStream::from(client);
            client.write_all(b"first").unwrap();
            // Marked by the pod after the hook: whatever the verdict, the agent's.
            world.expect_captured(&client, to);
        });
    }
    for host in OUTSIDE {
        let client = world.in_pod(|| {
            let client = Socket::new(Domain::for_address(at(host, 8080)), Type::STREAM, Some(Protocol::MPTCP));
            let client = client.inspect_err(|error| println!("skipped: multipath TCP: {error}")).ok()?;
            client.connect_timeout(&at(host, 8080).into(), Duration::from_secs(2)).unwrap();
            Some(TcpStream::from(client))
        });
        let Some(client) = client else { return };
        world.in_pod(|| world.expect_captured(&client, at(host, 8080)));
    }
    app.set_nonblocking(true).unwrap();
    assert!(app.accept().is_err());
}

const SERVICE: [&str; 2] = ["10.96.0.7", "fd96::7"];

/// Has the hook choose the second pod's port 8080 for the service's port 80, below `below` of 2^32.
fn offer(world: &World, below: u32) {
    for (service, host) in SERVICE.into_iter().zip(OUTSIDE) {
        let key = ServiceKey { source: world.pod.cookie().0, address: ip(service).into(), port: 80, pad: [0; 3] };
        let mut choices = Choices::default();
        choices.0[0] = Choice { address: ip(host).into(), port: 8080, pad: 0, below };
        world.kernel().set_service(key, Some(choices)).unwrap();
    }
}

#[test]
fn a_service_is_an_endpoint_and_its_name_is_kept() {
    let Some(world) = World::enrolled() else { return };
    let (world, _listeners) = two_pods(world, OUTSIDE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    offer(&world, u32::MAX);
    // What is deferred goes in the SYN, and is sent again: the server does not take it.
    world.fastopen_without_cookie(&world.pod);
    let app = server(&world, 8080);
    for (host, deferred) in SERVICE.into_iter().flat_map(|host| [(host, false), (host, true)]) {
        let to = at(host, 80);
        let client = world.in_pod(|| {
            let client = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            if deferred {
                nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::TcpFastOpenConnect, &true).unwrap();
            }
            client.connect(&to.into()).unwrap();
            let mut client = TcpStream::from(client);
            client.write_all(b"first").unwrap();
            client
        });
        let mut accepted = accept(&app).unwrap();
        accepted.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(canonical(accepted.peer_addr().unwrap()), client.local_addr().unwrap());
        let (_, direct) = only(&world).unwrap();
        assert_eq!(SocketAddr::new(direct.asked.address.into(), direct.asked.port), to);
        until("the connection to be open", || client.peer_addr().is_ok());
        assert_eq!(client.peer_addr().unwrap(), to);
        drop((client, accepted));
        until("the entry to go", || only(&world).is_none());
    }
    // The server sees the client, and who asks for the pod sees the pod.
    let (client, _accepted) = expect_direct(&world, &app, OUTSIDE[0]);
    assert_eq!(client.peer_addr().unwrap(), at(OUTSIDE[0], 8080));
}

#[test]
fn what_is_not_drawn_for_an_endpoint_is_the_agents_and_says_so() {
    let Some(world) = World::enrolled() else { return };
    let (world, listeners) = two_pods(world, OUTSIDE);
    let _app = server(&world, 8080);
    trust(&world);
    let marked = |what: &str, protocol: Option<Protocol>, mark: u32| {
        for to in SERVICE.map(|host| at(host, 80)) {
            let app = world.in_pod(|| {
                let app = Socket::new(Domain::for_address(to), Type::STREAM, protocol).ok()?;
                app.connect_timeout(&to.into(), Duration::from_secs(2)).unwrap();
                Some(app)
            });
            let Some(app) = app else { return println!("skipped: multipath TCP") };
            let taken = accept(&world.listeners.outbound).unwrap();
            assert_eq!(canonical(taken.local_addr().unwrap()), to, "{what}");
            assert_eq!(socket2::SockRef::from(&taken).mark().unwrap(), mark, "{what}");
            drop(app);
        }
        assert!(only(&world).is_none(), "{what}");
    };
    offer(&world, u32::MAX);
    marked("without a verdict", None, MARK_CAPTURE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    marked("a multipath connection", Some(Protocol::MPTCP), MARK_CAPTURE);
    allow(&world, 8080, Verdict::RELAY);
    marked("at a port that is excepted", None, MARK_CAPTURE);
    allow(&world, 8080, Verdict::DIRECT);
    offer(&world, 1);
    marked("one of the others", None, MARK_CAPTURE | MARK_DRAWN);
    world.kernel().trust_verdicts(Duration::ZERO).unwrap();
    offer(&world, u32::MAX);
    marked("with verdicts that are too old", None, MARK_CAPTURE);
    drop(listeners);
}

/// The address of a pod that is gone may be another's before an agent comes that knows.
#[test]
fn somebody_else_at_the_destinations_address_gets_nothing() {
    let Some(world) = World::enrolled() else { return };
    let (world, _listeners) = two_pods(world, OUTSIDE);
    world.move_second_pods_addresses_to_the_node();
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    for host in OUTSIDE {
        let app = world.node(|| TcpListener::bind(at(host, 8080)).unwrap());
        let said = world.in_pod(|| {
            let mut client = connect(at(host, 8080))?;
            client.set_read_timeout(Some(Duration::from_secs(2)))?;
            client.write_all(b"for the pod alone")?;
            client.read(&mut [0; 1])
        });
        let error = said.unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
        app.set_nonblocking(true).unwrap();
        match app.accept() {
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            Ok((mut stream, _)) => {
                stream.set_nonblocking(true).unwrap();
                let heard = stream.read(&mut [0; 32]);
                assert!(!matches!(heard, Ok(1..)), "{heard:?}");
            }
        }
        until("the entry to go", || only(&world).is_none());
    }
}

#[test]
fn the_numbers_of_a_connection_let_nobody_else_in() {
    let Some(mut world) = World::new() else { return };
    world.config.debug = true;
    world.load().unwrap();
    world.enrol();
    let (world, _listeners) = two_pods(world, OUTSIDE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    let app = server(&world, 8080);
    let (client, accepted) = expect_direct(&world, &app, OUTSIDE[0]);
    // The server's end vanishes without a word, so that the numbers are free while the client's end lives.
    vanish(accepted);
    let (_, direct) = only(&world).expect("the client's end is open");
    assert_eq!(direct.ended, 1);
    let from = client.local_addr().unwrap();
    world.node(|| {
        let forger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        forger.set_ip_transparent_v4(true).unwrap();
        forger.bind(&from.into()).unwrap();
        forger.set_nonblocking(true).unwrap();
        let _ = forger.connect(&at(OUTSIDE[0], 8080).into());
        std::thread::sleep(Duration::from_millis(100));
    });
    let lines = world.logged();
    let steered = format!("sk_lookup: port 8080 from port {} to listener 2", from.port());
    assert!(lines.contains(&steered), "{lines}");
    app.set_nonblocking(true).unwrap();
    assert_eq!(app.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn both_ends_can_be_ended_from_outside() {
    let Some(world) = World::enrolled() else { return };
    let (world, _listeners) = two_pods(world, OUTSIDE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    let app = server(&world, 8080);
    for host in OUTSIDE {
        let (mut client, mut accepted) = expect_direct(&world, &app, host);
        let (_, direct) = only(&world).unwrap();
        let (near, far) = (client.local_addr().unwrap(), at(host, 8080));
        let sockets = Sockets::of(world.second()).unwrap();
        assert!(!sockets.destroy(direct.client.socket, far, near).unwrap(), "another socket's cookie");
        assert!(sockets.destroy(direct.server.socket, far, near).unwrap());
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(accepted.read(&mut [0; 1]).is_err());
        assert!(!sockets.destroy(direct.server.socket, far, near).unwrap(), "it has ended");
        // Nor is the listener touched, which would be found by these numbers.
        drop(expect_direct(&world, &app, host));
        until("the entries to go", || only(&world).is_none());
    }
}

/// Closes a socket as if its host had lost power.
fn vanish(stream: TcpStream) {
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::TcpRepair, &1).unwrap();
}
