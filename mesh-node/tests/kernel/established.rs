//! Connections from before enrolment.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    OUTSIDE, POD, at, connect,
    world::{World, accept},
};

#[test]
fn connections_from_before_enrolment_are_listed_and_can_be_ended() {
    let Some(world) = World::new() else { return };
    let mut pairs = Vec::new();
    for (outside, own) in OUTSIDE.into_iter().zip(POD) {
        let server = world.outside(|| TcpListener::bind(at(outside, 8080)).unwrap());
        let client = world.in_pod(|| connect(at(outside, 8080)).unwrap());
        pairs.push((client, accept(&server).unwrap()));
        // An IPv6 socket, for IPv4 too.
        let server = world.in_pod(|| TcpListener::bind(at("::", 8080)).unwrap());
        let client = world.outside(|| connect(at(own, 8080)).unwrap());
        pairs.push((accept(&server).unwrap(), client));
    }
    let own: Vec<_> = ["127.0.0.1", "::1", POD[0], POD[1]].map(|host| within(&world, host)).into();
    world.enrol();

    // What the mesh has is not listed: captured, accepted, tunnelled, delivered.
    let mut ours: Vec<TcpStream> = Vec::new();
    let app = world.in_pod(|| TcpListener::bind(at("::", 9090)).unwrap());
    let server = world.outside(|| TcpListener::bind(at("::", 15_008)).unwrap());
    let listeners = world.in_agent(async { crate::world::Listeners::open(&world.pod) });
    world.kernel().set_listeners(world.pod.cookie(), &listeners.all()).unwrap();
    for (outside, own) in OUTSIDE.into_iter().zip(POD) {
        ours.push(world.in_pod(|| connect(at(outside, 8080)).unwrap()));
        ours.push(accept(&listeners.outbound).unwrap());
        ours.push(world.outside(|| connect(at(own, 8080)).unwrap()));
        ours.push(accept(&listeners.plaintext).unwrap());
        let timeout = std::time::Duration::from_secs(2);
        let (delivered, tunnel) = world.in_agent(async {
            let to = at(own, 9090);
            let delivered = mesh_node::socket::deliver(&world.pod, crate::ip(outside), to, timeout).await.unwrap();
            let to = at(outside, 15_008);
            let tunnel = mesh_node::socket::connect_from_pod(&world.pod, to, timeout).await.unwrap();
            (delivered.dialled.stream.into_std().unwrap(), tunnel.stream.into_std().unwrap())
        });
        ours.extend([delivered, tunnel, accept(&app).unwrap(), accept(&server).unwrap()]);
    }

    let listed = world.kernel().outside(&world.pod).unwrap();
    let canonical = mesh_node::socket::canonical;
    let ends = |stream: &TcpStream| (canonical(stream.local_addr().unwrap()), canonical(stream.peer_addr().unwrap()));
    let mut found: Vec<_> = listed.iter().map(|one| (one.local, one.remote)).collect();
    let mut expected: Vec<_> = pairs.iter().map(|(inside, _)| ends(inside)).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);

    for one in &listed {
        assert!(world.pod.destroy(one).unwrap(), "{one:?}");
        assert!(!world.pod.destroy(one).unwrap(), "{one:?}, twice");
    }
    for (mut inside, mut outside) in pairs {
        assert_eq!(inside.write(b"x").unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        outside.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        assert_eq!(outside.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(world.kernel().outside(&world.pod).unwrap(), []);
    for (mut one, mut other) in own {
        one.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
    }
    drop(ours);
}

#[test]
fn ports_on_which_a_namespace_listens_are_told() {
    let Some(world) = World::new() else { return };
    let before = world.pod.listening().unwrap();
    let _servers = [("::", 8080), (POD[0], 8081), ("127.0.0.1", 8082)]
        .map(|(host, port)| world.in_pod(|| TcpListener::bind(at(host, port)).unwrap()));
    let _other = world.outside(|| TcpListener::bind(at(OUTSIDE[0], 8083)).unwrap());
    let _connected = within(&world, POD[1]);
    let now = world.pod.listening().unwrap();
    assert_eq!(now.difference(&before).copied().collect::<Vec<_>>(), [8080, 8081, 8082]);
}

#[test]
fn another_namespaces_connections_are_not_listed() {
    let Some(world) = World::new() else { return };
    let server = world.outside(|| TcpListener::bind(at(OUTSIDE[0], 8080)).unwrap());
    let _client = world.node(|| connect(at(OUTSIDE[0], 8080)).unwrap());
    accept(&server).unwrap();
    assert_eq!(world.pod.established().unwrap(), []);
}

/// A connection with both ends in the pod.
fn within(world: &World, host: &str) -> (TcpStream, TcpStream) {
    let server = world.in_pod(|| TcpListener::bind(at(host, 8081)).unwrap());
    let client = world.in_pod(|| connect(at(host, 8081)).unwrap());
    (client, accept(&server).unwrap())
}
