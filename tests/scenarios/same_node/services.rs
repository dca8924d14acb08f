//! A Service's address on the direct path: the kernel chooses the endpoint where the agent would do nothing else.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::Domain;
use weft_tests::apps;
use weft_tests::mesh::Setup;
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::outcome::Outcome::{Answered, Refused, Reset};
use weft_tests::outcome::{ask, prove, resets};
use weft_tests::pair::CLUSTER_IPS;
use weft_tests::wait::{PATIENCE, until};

use super::{ECHO, LATER, World, deny_front, hold};

/// The Service before `db`: port 80 is its echo server, 81 the other one.
fn serve(world: &World) -> Result<()> {
    world.mesh.apply("service-db", &objects::service("prod", "db", &CLUSTER_IPS, "db", &[(80, ECHO), (81, LATER)]))?;
    world.mesh.settle()
}

/// Both addresses of it.
fn addresses(port: u16) -> [SocketAddr; 2] {
    CLUSTER_IPS.map(|ip| SocketAddr::new(ip, port))
}

/// Waits until the kernel chooses of so many ports of services.
fn until_services(world: &World, count: usize) -> Result<()> {
    let mut last = String::new();
    let waited = until(&format!("{count} services"), PATIENCE, || {
        last = world.mesh.admin("a", "/metrics").ok()?;
        last.lines().any(|line| *line == format!("weft_same_node_services {count}")).then_some(())
    });
    waited.with_context(|| last)
}

#[test]
fn a_service_whose_endpoint_is_here_is_direct_and_on_record_by_its_name() -> Result<()> {
    needs!();
    let world = World::open("same_service")?;
    serve(&world)?;
    until_services(&world, 4)?;
    for to in addresses(80) {
        let stream = hold(&world.web, to)?;
        assert_eq!(stream.peer_addr()?, to, "what the application asked for");
        let rows = world.until_direct(2)?;
        for row in &rows {
            assert_eq!(row["service"], "prod/db.prod.svc.cluster.local", "{row:#}");
            assert_eq!(row["security"], "kernel_attested", "{row:#}");
            let own = world.db.everywhere(ECHO).map(|at| at.to_string());
            ensure!(own.iter().any(|own| row["target"] == **own), "{row:#}");
            if row["direction"] == "outbound" {
                assert_eq!(row["asked"], *to.to_string(), "{row:#}");
            }
        }
        ensure!(world.rows("carried")?.is_empty(), "the agent carries nothing");
        let client = stream.local_addr()?.to_string();
        drop(stream);
        for direction in ["\"outbound\"", "\"inbound\""] {
            let facts = [&*client, direction, "kernel_attested", "db.prod.svc", "\"reason\":\"complete\""];
            let line = world.mesh.agent("a").until_access(&facts)?;
            assert_eq!((&line["bytes_recv"], &line["bytes_sent"]), (&14.into(), &14.into()), "{line:#}");
        }
        world.until_direct(0)?;
    }
    let metrics = world.mesh.admin("a", "/metrics")?;
    let named = |line: &&str| {
        line.starts_with("istio_tcp_connections_closed_total{")
            && line.contains("destination_service=\"db.prod.svc.cluster.local\"")
            && line.contains("kernel_attested")
            && line.ends_with(" 2")
    };
    assert_eq!(metrics.lines().filter(named).count(), 2, "{metrics}");
    // The pod's own address names the pod, also on a socket that asked for the service before.
    for (to, own) in addresses(81).into_iter().zip(world.db.everywhere(ECHO)) {
        let socket = world.web.sockets().tcp(Domain::for_address(to))?;
        let refused = socket.connect(&to.into()).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "as kube-proxy has it");
        socket.connect(&own.into())?;
        assert_eq!(socket.peer_addr()?.as_socket(), Some(own));
        prove(&socket.into())?;
    }
    Ok(())
}

#[test]
fn however_a_socket_connects_it_sees_the_service() -> Result<()> {
    needs!();
    let world = World::open("same_service_ways")?;
    serve(&world)?;
    until_services(&world, 4)?;
    for to in addresses(80) {
        // Without waiting, and asking again until it is through.
        let socket = world.web.sockets().tcp(Domain::for_address(to))?;
        socket.set_nonblocking(true)?;
        until("a connect that does not wait", PATIENCE, || match socket.connect(&to.into()) {
            Ok(()) => Some(()),
            Err(error) if error.raw_os_error() == Some(EISCONN) => Some(()),
            Err(_) => None,
        })?;
        socket.set_nonblocking(false)?;
        assert_eq!(socket.peer_addr()?.as_socket(), Some(to));
        prove(&socket.into())?;
        // After a refusal, on the same socket.
        let again = SocketAddr::new(to.ip(), 81);
        let socket = world.web.sockets().tcp(Domain::for_address(to))?;
        ensure!(socket.connect(&again.into()).is_err(), "nobody listens");
        let listener = world.db.listen(LATER)?;
        socket.connect(&again.into())?;
        let (_, peer) = listener.accept()?;
        let client = socket.local_addr()?.as_socket().context("an address")?;
        assert_eq!(SocketAddr::new(peer.ip().to_canonical(), peer.port()), client, "direct");
        assert_eq!(socket.peer_addr()?.as_socket(), Some(again));
    }
    // IPv4 by an IPv6 socket.
    let [to, _] = addresses(80);
    let std::net::IpAddr::V4(v4) = to.ip() else { unreachable!("the first is IPv4") };
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), 80);
    let socket = world.web.sockets().tcp(Domain::IPV6)?;
    socket.connect_timeout(&mapped.into(), PATIENCE)?;
    assert_eq!(socket.peer_addr()?.as_socket(), Some(mapped));
    prove(&socket.into())?;
    ensure!(
        world.mesh.agent("a").accesses().iter().all(|line| line["security"] != "mutual_tls"),
        "nothing was carried"
    );
    Ok(())
}

#[test]
fn what_policy_or_a_rule_says_of_a_service_holds_as_by_the_relay() -> Result<()> {
    needs!();
    let world = World::open("same_service_policy")?;
    let World { mesh, web, db, .. } = &world;
    serve(&world)?;
    until_services(&world, 4)?;
    // Revoked while it lives, and denied from then on.
    let live: Vec<_> = addresses(80).into_iter().map(|to| hold(web, to)).collect::<Result<_>>()?;
    world.until_direct(4)?;
    world.policy(&deny_front())?;
    ensure!(resets(live, PATIENCE)?.len() == 2);
    until_services(&world, 0)?;
    for to in addresses(80) {
        assert_eq!(ask(web, to), Reset, "{to}");
    }
    mesh.apply("policy", "")?;
    until_services(&world, 4)?;
    // A limit is the agent's to keep.
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: db, namespace: prod}, spec: \
                {host: db, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}}";
    mesh.apply("rule", rule)?;
    until_services(&world, 0)?;
    let first = hold(web, addresses(80)[0])?;
    assert_eq!(ask(web, addresses(80)[0]), Reset, "the second");
    drop(first);
    mesh.apply("rule", "")?;
    until_services(&world, 4)?;
    // A pod asks for its own service.
    for to in addresses(80) {
        assert_eq!(ask(db, to), Answered, "itself by {to}");
    }
    // Who asks for encryption gets it.
    let namespace = objects::namespace("prod", Some("weft"));
    let sealed = namespace.replacen("metadata:\n", "metadata:\n  annotations: {weft.io/encrypt: always}\n", 1);
    mesh.apply("namespace-prod", &sealed)?;
    until_services(&world, 0)?;
    for to in addresses(80) {
        let _live = hold(web, to)?;
        let rows =
            until("both ends to be carried", PATIENCE, || world.rows("carried").ok().filter(|all| all.len() == 2))?;
        ensure!(rows.iter().all(|row| row["security"] == "mutual_tls"), "{rows:#?}");
        drop(_live);
        until("both ends to be gone", PATIENCE, || world.rows("carried").ok()?.is_empty().then_some(()))?;
    }
    Ok(())
}

#[test]
fn endpoints_here_and_elsewhere_get_equal_shares_and_those_here_serve_without_an_agent() -> Result<()> {
    needs!();
    let mut world = World::on("same_service_shares", &["a", "b"], Setup::default())?;
    let far = world.mesh.enrolled(world.mesh.pod("far").namespace("prod").label("app", "db"), "b")?;
    let _far = apps::probe(&far, "echo", ECHO, &[])?;
    world.mesh.until_captured(&far)?;
    serve(&world)?;
    until_services(&world, 4)?;
    let held: Vec<_> = (0..120).map(|n| hold(&world.web, addresses(80)[n % 2])).collect::<Result<_>>()?;
    let direct = world.rows("direct")?;
    let direct = direct.iter().filter(|row| row["direction"] == "outbound").count();
    let carried = world.rows("carried")?;
    // Twelve deviations from the middle would be needed to come out here by chance.
    ensure!((30..=90).contains(&direct) && direct + carried.len() == 120, "{direct} and {}", carried.len());
    let there = far.everywhere(ECHO).map(|at| at.to_string());
    for row in &carried {
        ensure!(there.iter().any(|there| row["target"] == **there), "one that the kernel had not chosen: {row:#}");
    }
    drop(held);
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    for n in 0..20 {
        let to = addresses(80)[n % 2];
        assert_eq!(ask(&world.web, to), Answered, "by the endpoint that is here: {to}");
    }
    Ok(())
}

#[test]
fn without_an_agent_for_too_long_a_service_is_refused() -> Result<()> {
    needs!();
    let setup = Setup::default().agent("SAME_NODE_SECONDS", "5");
    let mut world = World::with_setup("same_service_old", setup)?;
    serve(&world)?;
    until_services(&world, 4)?;
    let at = world.index();
    world.mesh.agents[at].program.kill()?;
    for to in addresses(80) {
        assert_eq!(ask(&world.web, to), Answered);
    }
    for to in addresses(80) {
        until("verdicts to be too old", PATIENCE + Duration::from_secs(5), || {
            (ask(&world.web, to) == Refused).then_some(())
        })?;
    }
    Ok(())
}

/// <asm-generic/errno.h>
const EISCONN: i32 = 106;
