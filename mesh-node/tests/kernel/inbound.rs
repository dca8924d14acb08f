//! What comes to the pod is steered to the agent, and delivered as the client.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, TcpListener},
    time::Duration,
};

use mesh_node::socket::{self, canonical};
use socket2::{Domain, SockRef, Socket, Type};

use crate::world::{self, World, accept};
use crate::{OUTSIDE, POD, POD_SECOND, at, connect, ip};

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
