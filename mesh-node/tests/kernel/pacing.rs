//! Which connections the node's congestion control is left to.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use mesh_ebpf::{Verdict, VerdictKey};
use mesh_node::{netns::Netns, socket};
use socket2::SockRef;

use crate::{
    OUTSIDE, POD, at, connect,
    direct::{allow, expect_direct, server, trust, two_pods},
    ip,
    world::{Listeners, World, accept},
};

/// Has the world's hosts send by BBR; false if this kernel cannot.
fn paced(world: &World) -> bool {
    let set = |netns: &Netns| netns.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "bbr"));
    let set = [&world.pod, world.second()].into_iter().try_for_each(|netns| set(netns).unwrap());
    if let Err(error) = &set {
        println!("skipped: this kernel has no BBR (CONFIG_TCP_CONG_BBR): {error}");
    }
    set.is_ok()
}

fn algorithm(socket: &impl AsFd) -> String {
    let name = SockRef::from(socket).tcp_congestion().unwrap();
    String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()
}

fn expect(algorithms: [&str; 2], client: &impl AsFd, server: &impl AsFd) {
    assert_eq!([algorithm(client), algorithm(server)], algorithms);
}

fn listen(netns: &Netns, host: &str) -> TcpListener {
    netns.enter(|| TcpListener::bind(at(host, 8080)).unwrap()).unwrap()
}

#[test]
fn between_an_application_and_the_agent_nothing_is_paced() {
    let Some(world) = World::enrolled().filter(paced) else { return };
    // Accepted sockets are in their listener's cgroup.
    let listeners = world.in_agent(async { Listeners::open(&world.pod) });
    world.kernel().set_listeners(world.pod.cookie(), &listeners.all()).unwrap();
    for host in OUTSIDE {
        world.in_pod(|| {
            let app = connect(at(host, 8080)).unwrap();
            let taken = accept(&listeners.outbound).unwrap();
            expect(["reno", "reno"], &app, &taken);
        });
    }
    for (host, client) in POD.into_iter().zip(OUTSIDE) {
        let app = world.in_pod(|| listen(&world.pod, host));
        world.in_agent(async {
            let timeout = Duration::from_secs(2);
            let delivery = socket::deliver(&world.pod, ip(client), at(host, 8080), timeout).await.unwrap();
            expect(["reno", "reno"], &delivery.dialled.stream, &accept(&app).unwrap());
        });
    }
}

#[test]
fn between_hosts_the_nodes_choice_is_left_alone() {
    let Some(world) = World::enrolled().filter(paced) else { return };
    for host in OUTSIDE {
        let server = listen(world.second(), host);
        world.in_agent(async {
            let timeout = Duration::from_secs(2);
            let tunnel = socket::connect_from_pod(&world.pod, at(host, 8080), timeout).await.unwrap();
            expect(["bbr", "bbr"], &tunnel.stream, &accept(&server).unwrap());
        });
    }
    for host in POD {
        let client: TcpStream = world.outside(|| connect(at(host, 8080)).unwrap());
        expect(["bbr", "bbr"], &client, &accept(&world.listeners.plaintext).unwrap());
    }
}

#[test]
fn between_pods_of_the_node_nothing_is_paced_and_who_chose_an_algorithm_keeps_it() {
    let Some(world) = World::enrolled().filter(paced) else { return };
    let (world, _listeners) = two_pods(world, OUTSIDE);
    allow(&world, VerdictKey::OTHER_PORTS, Verdict::DIRECT);
    trust(&world);
    let server = server(&world, 8080);
    for host in OUTSIDE {
        let (client, accepted) = expect_direct(&world, &server, host);
        expect(["reno", "reno"], &client, &accepted);
    }
    SockRef::from(&server).set_tcp_congestion(b"cubic").unwrap();
    let (client, accepted) = expect_direct(&world, &server, OUTSIDE[0]);
    expect(["reno", "cubic"], &client, &accepted);
}
