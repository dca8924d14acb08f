//! The testbed itself, without a mesh: what scenarios later rely on.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use weft_tests::apps::{self, HTTP, IPERF, curl, redis_cli};
use weft_tests::capture::Capture;
use weft_tests::dialogue;
use weft_tests::needs;
use weft_tests::program::built;
use weft_tests::topology::Topology;

#[test]
fn pods_of_both_nodes_reach_each_other_over_both_families() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("reach", &["a", "b"])?;
    let (a, b) = (world.node("a"), world.node("b"));
    let pods = [world.pod("one").on(a)?, world.pod("two").on(a)?, world.pod("three").on(b)?, world.pod("four").on(b)?];
    for server in &pods {
        let listener = server.listen(7000)?;
        for client in &pods {
            for address in server.everywhere(7000) {
                let mut near = client.dial(address)?;
                let (mut far, peer) = listener.accept()?;
                // A dual-stack listener shows IPv4 peers as mapped addresses.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                assert_eq!(peer, near.local_addr()?, "{} to {}", client.name, server.name);
                assert!(client.ips().contains(&peer.ip()), "{peer} is not {}", client.name);
                near.write_all(b"ping")?;
                let mut heard = [0; 4];
                far.read_exact(&mut heard)?;
                assert_eq!(&heard, b"ping");
            }
        }
        // From outside and from the node (a kubelet's probe) too.
        for address in server.everywhere(7000) {
            drop(world.outside().dial(address)?);
            drop(world.node(&server.node).dial(address)?);
        }
    }
    Ok(())
}

#[test]
fn two_nodes_and_four_pods_are_up_in_a_second() -> Result<()> {
    needs!();
    let begun = Instant::now();
    let world = Topology::with_nodes("speed", &["a", "b"])?;
    for (name, node) in [("one", "a"), ("two", "a"), ("three", "b"), ("four", "b")] {
        world.pod(name).on(world.node(node))?;
    }
    let up = begun.elapsed();
    drop(world);
    println!("up after {up:?}, gone after {:?}", begun.elapsed() - up);
    assert!(up < Duration::from_secs(1), "{up:?}");
    Ok(())
}

#[test]
fn real_programs_serve_across_nodes() -> Result<()> {
    needs!("redis-server", "redis-cli", "nginx", "curl", "python3", "iperf3");
    let world = Topology::with_nodes("programs", &["a", "b"])?;
    let client = world.pod("client").on(world.node("a"))?;
    let server = world.pod("server").on(world.node("b"))?;
    let _servers = [
        apps::redis(&server)?,
        apps::nginx(&server, "hello from nginx")?,
        apps::python_http(&server, 8000)?,
        apps::iperf3(&server)?,
    ];
    for ip in server.ips() {
        assert_eq!(redis_cli(&client, ip, &["SET", "key", "value"])?, "OK");
        assert_eq!(redis_cli(&client, ip, &["GET", "key"])?, "value");
    }
    for address in server.everywhere(HTTP) {
        assert_eq!(curl(&client).arg(format!("http://{address}/")).stdout()?, "hello from nginx");
    }
    for address in server.everywhere(apps::H2C) {
        let answer = curl(&client).args(["--http2-prior-knowledge", "--include"]).arg(format!("http://{address}/"));
        let answer = answer.stdout()?;
        assert!(answer.starts_with("HTTP/2 200"), "{answer}");
        assert!(client.ips().iter().any(|ip| answer.contains(&format!("client: {ip}\r\n"))), "{answer}");
    }
    std::fs::write(server.dir().join("www/page"), "hello from python")?;
    for address in server.everywhere(8000) {
        assert_eq!(curl(&client).arg(format!("http://{address}/page")).stdout()?, "hello from python");
    }
    let measured = client
        .command("iperf3")
        .args(["--client", &server.v4.to_string(), "--port", &IPERF.to_string(), "--time", "1", "--json"])
        .stdout()?;
    assert!(measured.contains("\"sum_received\""), "{measured}");
    Ok(())
}

#[test]
fn the_probe_serves_first_echoes_holds_and_hashes() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("probe", &["a", "b"])?;
    let client = world.pod("client").on(world.node("a"))?;
    let server = world.pod("server").on(world.node("b"))?;
    let probe = built("probe")?;
    let _echo = apps::probe(&server, "echo", 7001, &[])?;
    let _greet = apps::probe(&server, "greet", 7002, &[])?;
    let mut bulk = apps::probe(&server, "bulk", 7003, &["--bytes", "20000000"])?;

    let said = client.command(&probe).args(["say", &server.at6(7001).to_string(), "over IPv6"]).stdout()?;
    assert_eq!(said, "over IPv6");
    let said = client.command(&probe).args(["say", &server.at(7002).to_string(), "HELO x\r\nquit\r\n"]).stdout()?;
    assert_eq!(said, "220 weft.test ready\r\n250 HELO x\r\n221 bye\r\n");

    let here =
        client.command(&probe).args(["bulk-to", &server.at(7003).to_string(), "--bytes", "30000000"]).stdout()?;
    bulk.wait_logs("received ")?;
    let there = bulk.log();
    let line = |text: &str, word: &str| text.lines().find_map(|line| line.strip_prefix(word).map(str::to_owned));
    assert!(line(&here, "sent ").is_some_and(|sent| sent.starts_with("30000000 ")), "{here}");
    assert_eq!(line(&here, "sent "), line(&there, "received "));
    assert_eq!(line(&here, "received "), line(&there, "sent "));

    let (mut line_in, far_end) = std::os::unix::net::UnixStream::pair()?;
    let hold = ["hold", &server.at(7001).to_string(), "--connections", "500"].map(str::to_owned);
    let mut hold = client.command(&probe).args(hold).stdin(far_end).start()?;
    hold.wait_logs("holding 500")?;
    line_in.write_all(b"\n")?;
    hold.wait_logs("all 500 alive")?;
    drop(line_in);
    assert!(hold.wait_exit(Duration::from_secs(5))?.success());
    Ok(())
}

#[test]
fn a_lent_socket_belongs_to_the_pod() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("lent", &["a"])?;
    let pod = world.pod("pod").on(world.node("a"))?;
    let listener = pod.listen(7000)?;
    // Seen only inside the pod's namespace, and made by a process in the pod's cgroup.
    let inside = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp6"))?;
    assert!(inside.contains(":1B58 "), "{inside}");
    let lender = pod.cgroup().pids()?;
    assert_eq!(lender.len(), 1, "{lender:?}");
    assert!(std::fs::read_to_string(format!("/proc/{}/cmdline", lender[0]))?.contains("lend"));
    assert!(world.node("a").cgroup().pids()?.is_empty());
    drop(listener);
    Ok(())
}

#[test]
fn both_ends_of_a_dialogue_see_it_across_nodes() -> Result<()> {
    needs!();
    let world = Topology::with_nodes("dialogue", &["a", "b"])?;
    let client = world.pod("client").on(world.node("a"))?;
    let server = world.pod("server").on(world.node("b"))?;
    let listener = server.listen(7000)?;
    for address in server.everywhere(7000) {
        let near = client.dial(address)?;
        let (far, _) = listener.accept()?;
        let seen = dialogue::play((near, "send 5, fin, read all"), (far, "read all, send 7, reset"))?;
        // TCP drops what was on its way when the reset overtakes the reader, so only the end is certain.
        assert!(seen.client.starts_with("sent 5; fin; read "), "{seen}");
        assert!(seen.client.ends_with(", then reset"), "{seen}");
        assert_eq!(seen.server, "read 5, then end; sent 7; reset");
    }
    Ok(())
}

#[test]
fn the_capture_sees_plaintext_between_nodes_and_nothing_that_was_not_sent() -> Result<()> {
    needs!("tcpdump");
    let world = Topology::with_nodes("capture", &["a", "b"])?;
    let client = world.pod("client").on(world.node("a"))?;
    let neighbour = world.pod("neighbour").on(world.node("a"))?;
    let server = world.pod("server").on(world.node("b"))?;
    for (node, marker, address) in [("a", "MARKER-FOUR-a", server.at(7000)), ("b", "MARKER-SIX-b", server.at6(7000))] {
        let echo = apps::probe(&server, "echo", 7000, &[])?;
        let near = apps::probe(&neighbour, "echo", 7000, &[])?;
        let capture = Capture::start(&world, world.node(node))?;
        let probe = built("probe")?;
        let said = client.command(&probe).args(["say", &address.to_string(), marker]).stdout()?;
        assert_eq!(said, marker);
        let said = client.command(&probe).args(["say", &neighbour.at(7000).to_string(), "STAYS-HERE"]).stdout()?;
        assert_eq!(said, "STAYS-HERE");
        let captured = capture.stop()?;
        assert!(captured.contains(marker.as_bytes()), "{}", captured.print(world.wire())?);
        assert!(!captured.contains(b"STAYS-HERE"), "a connection inside one node was on the wire");
        drop((echo, near));
    }
    Ok(())
}
