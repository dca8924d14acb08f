//! Programs as they are, over IPv4 and IPv6, by a pod's own address and by a service's.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::apps::{self, H2C, HTTP, IPERF, REDIS, curl, redis_cli};
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::outcome::{Outcome, ask};
use weft_tests::pair::Pair;
use weft_tests::program::built;
use weft_tests::wait::{PATIENCE, accepted, until};

#[test]
fn redis_works_and_sees_the_clients_own_address() -> Result<()> {
    needs!("redis-server", "redis-cli", "redis-benchmark");
    let pair = Pair::open("redis")?;
    pair.service("db", "db", &[(REDIS, REDIS)])?;
    let _redis = apps::redis(&pair.db)?;
    for to in pair.ways(REDIS) {
        let ip = to.ip();
        let value = format!("by {ip}");
        assert_eq!(redis_cli(&pair.web, ip, &["SET", "key", &value])?, "OK");
        assert_eq!(redis_cli(&pair.web, ip, &["GET", "key"])?, value);
        let seen = redis_cli(&pair.web, ip, &["CLIENT", "INFO"])?;
        let seen = seen.split(' ').find_map(|field| field.strip_prefix("addr=")).context("no addr=")?.to_owned();
        let seen: SocketAddr = seen.parse().with_context(|| seen.clone())?;
        assert_eq!(seen.ip(), pair.client_of(ip), "redis at {to} saw {seen}");
    }
    // Fifty clients that send sixteen requests before they read an answer.
    let bench = pair.web.command("redis-benchmark").args(["-h", &pair.db.v4.to_string(), "-n", "5000", "-c", "50"]);
    let bench = bench.args(["-P", "16", "-t", "set,get", "-d", "2000", "-q"]).stdout()?;
    assert_eq!(bench.matches("requests per second").count(), 2, "{bench}");
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    needs!();
    let pair = Pair::open("greet")?;
    pair.service("db", "db", &[(25, 25)])?;
    let _greet = apps::probe(&pair.db, "greet", 25, &[])?;
    for to in pair.ways(25) {
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            let stream = pair.web.dial(to)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut lines = BufReader::new(&stream).lines();
            let mut line = || lines.next().context("an end")?.with_context(|| format!("of {to}"));
            assert_eq!(line()?, "220 weft.test ready");
            fastest = fastest.min(begun.elapsed());
            (&stream).write_all(b"HELO web\r\n")?;
            assert_eq!(line()?, "250 HELO web");
            (&stream).write_all(b"QUIT\r\n")?;
            assert_eq!(line()?, "221 bye");
        }
        // Proxies that wait for the client's first bytes to guess the protocol wait for 100 ms and more.
        assert!(fastest < Duration::from_millis(80), "the quickest greeting of {to} took {fastest:?}");
    }
    Ok(())
}

#[test]
fn http_1_1_keeps_its_connection_and_shows_the_client() -> Result<()> {
    needs!("nginx", "curl");
    let pair = Pair::open("http1")?;
    pair.service("db", "db", &[(HTTP, HTTP)])?;
    let _nginx = apps::nginx(&pair.db, "hello from nginx")?;
    for to in pair.ways(HTTP) {
        let url = format!("http://{to}/");
        let asked = curl(&pair.web).args(["--write-out", "|%{num_connects}|%header{client}\\n"]);
        let answers = asked.args([&url; 5]).stdout()?;
        let client = pair.client_of(to.ip());
        let expected: Vec<String> =
            [1, 0, 0, 0, 0].map(|connects| format!("hello from nginx|{connects}|{client}")).into();
        assert_eq!(answers.lines().collect::<Vec<_>>(), expected, "by {to}");
    }
    let accesses = pair.mesh.agent("a").until_access(&["complete", "\"db.shop.svc.cluster.local\""]);
    accesses.map(drop)
}

#[test]
fn http_2_in_clear_text_works_with_many_streams_at_once() -> Result<()> {
    needs!("nginx", "curl", "nghttpd", "nghttp", "h2load");
    let pair = Pair::open("http2")?;
    pair.service("db", "db", &[(H2C, H2C), (8082, 8082)])?;
    let _nginx = apps::nginx(&pair.db, "hello from nginx")?;
    let _nghttpd = apps::nghttpd(&pair.db, 8082)?;
    std::fs::write(pair.db.dir().join("www/page"), "hello from nghttpd")?;
    for to in pair.ways(H2C) {
        let asked =
            curl(&pair.web).args(["--http2-prior-knowledge", "--write-out", "|%{http_version}|%header{client}"]);
        let answer = asked.arg(format!("http://{to}/")).stdout()?;
        assert_eq!(answer, format!("hello from nginx|2|{}", pair.client_of(to.ip())), "by {to}");
    }
    for to in pair.ways(8082) {
        let answer = pair.web.command("nghttp").arg(format!("http://{to}/page")).stdout()?;
        assert_eq!(answer, "hello from nghttpd", "by {to}");
        let load = pair.web.command("h2load").args(["-n", "2000", "-c", "10", "-m", "20"]);
        let load = load.arg(format!("http://{to}/page")).stdout()?;
        assert!(load.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "by {to}: {load}");
    }
    Ok(())
}

#[test]
fn grpc_answers_and_talks_in_turns() -> Result<()> {
    needs!();
    let pair = Pair::open("grpc")?;
    pair.service("db", "db", &[(50051, 50051)])?;
    let _grpc = apps::grpc(&pair.db, 50051)?;
    for to in pair.ways(50051) {
        let called = pair.web.command(&built("grpc")?).args(["call", &to.to_string(), "--turns", "100"]).stdout()?;
        assert_eq!(called, format!("{}\n100 turns\n", pair.client_of(to.ip())), "by {to}");
    }
    Ok(())
}

#[test]
fn iperf3_measures_both_ways_with_one_stream_and_four() -> Result<()> {
    needs!("iperf3");
    let pair = Pair::open("iperf")?;
    pair.service("db", "db", &[(IPERF, IPERF)])?;
    let _iperf = apps::iperf3(&pair.db)?;
    for to in pair.ways(IPERF) {
        for more in [&[][..], &["--reverse"], &["--parallel", "4"]] {
            let ip = to.ip().to_string();
            let measured = pair.web.command("iperf3").args(["--json", "--time", "1", "--client", &ip]);
            let measured = measured.args(["--port", &to.port().to_string()]).args(more).stdout()?;
            let measured: serde_json::Value = serde_json::from_str(&measured)?;
            let end = &measured["end"];
            let [sent, received] = ["sum_sent", "sum_received"].map(|sum| end[sum]["bytes"].as_f64().unwrap_or(0.0));
            println!(
                "by {to} {more:?}: {:.2} Gbit/s",
                end["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9
            );
            ensure!(received > 1e6 && received <= sent, "by {to} {more:?}: {end}");
        }
    }
    Ok(())
}

#[test]
fn every_kind_of_destination_is_reached_in_its_own_way() -> Result<()> {
    needs!();
    let pair = Pair::open("kinds")?;
    let (mesh, web, outside) = (&pair.mesh, &pair.web, pair.mesh.world.outside());
    let near = mesh.enrolled(mesh.pod("near").namespace("shop"), "a")?;
    mesh.until_captured(&near)?;
    until("web and near to do without the agent", PATIENCE, || {
        mesh.admin("a", "/metrics").ok()?.contains("\nweft_same_node_verdicts 4\n").then_some(())
    })?;
    let bare = mesh.enrolled(mesh.pod("bare").namespace("plain"), "b")?;
    let _echoes = [
        apps::probe(&pair.db, "echo", 7000, &[])?,
        apps::probe(&near, "echo", 7001, &[])?,
        apps::probe(outside, "echo", 7002, &[])?,
        apps::probe(outside, "echo", 7003, &[])?,
        apps::probe(&bare, "echo", 7004, &[])?,
    ];
    mesh.apply("headless", &objects::service("shop", "headless", &[], "db", &[(7000, 7000)]))?;
    let [outside4, outside6] = mesh.world.outside_ips();
    let entry = |name: &str, address: &str, endpoint: std::net::IpAddr| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             hosts: [{name}.example.org]\n  addresses: [\"{address}\"]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: 7002}}]\n  endpoints: [{{address: \"{endpoint}\"}}]\n"
        )
    };
    let entries = [entry("four", "192.0.2.10", outside4), entry("six", "2001:db8::10", outside6)];
    mesh.apply("entries", &entries.join("---\n"))?;
    pair.service("db", "db", &[(70, 7000)])?;

    let (tunnel, kernel, plain) = ("mutual_tls", "kernel_attested", "none");
    let [cluster4, cluster6] = weft_tests::pair::CLUSTER_IPS;
    // Each with what its line in the log has to say: the endpoint's address and the service, or the address that was dialled.
    let cases: [(&str, SocketAddr, &str, &str); 14] = [
        ("a pod of a headless service", pair.db.at(7000), tunnel, "10.42.2.10:7000"),
        ("a pod of a headless service", pair.db.at6(7000), tunnel, "[fd42:2::10]:7000"),
        ("a ClusterIP", (cluster4, 70).into(), tunnel, "db.shop.svc.cluster.local"),
        ("a ClusterIP", (cluster6, 70).into(), tunnel, "db.shop.svc.cluster.local"),
        ("a pod on the same node", near.at(7001), kernel, "10.42.1.11:7001"),
        ("a pod on the same node", near.at6(7001), kernel, "[fd42:1::11]:7001"),
        ("a ServiceEntry's address", ([192, 0, 2, 10], 80).into(), plain, "four.example.org"),
        (
            "a ServiceEntry's address",
            ("2001:db8::10".parse::<std::net::Ipv6Addr>()?, 80).into(),
            plain,
            "six.example.org",
        ),
        ("a ServiceEntry's endpoint", (outside4, 7002).into(), plain, "172.31.0.77:7002"),
        ("a ServiceEntry's endpoint", (outside6, 7002).into(), plain, "[fd31::77]:7002"),
        ("an unknown address's port", (outside4, 7003).into(), plain, "172.31.0.77:7003"),
        ("an unknown address's port", (outside6, 7003).into(), plain, "[fd31::77]:7003"),
        ("a pod in no mesh", bare.at(7004), plain, "10.42.2.11:7004"),
        ("a pod in no mesh", bare.at6(7004), plain, "[fd42:2::11]:7004"),
    ];
    for (what, to, security, named) in cases {
        assert_eq!(ask(web, to), Outcome::Answered, "{what}: {to}");
        let named = format!("\"{named}\"");
        let access = mesh.agent("a").until_access(&["\"outbound\"", &named, &format!("\"security\":\"{security}\"")]);
        access.with_context(|| format!("{what}: {to}"))?;
    }
    // Somebody whom no object describes sees the pod itself, as without a mesh.
    let stranger = outside.listen(7005)?;
    for ip in [outside4, outside6] {
        let near_end = web.dial((ip, 7005).into())?;
        let (_far_end, peer) = accepted(&stranger)?;
        assert_eq!(peer.ip().to_canonical(), pair.client_of(ip));
        drop(near_end);
    }
    Ok(())
}

#[test]
fn a_service_with_an_endpoint_that_refuses_answers_every_time() -> Result<()> {
    needs!("nginx", "curl");
    let pair = Pair::open("refuses")?;
    let mesh = &pair.mesh;
    // Ready to the cluster, and nothing listens: a pod that crashed a moment ago.
    let dead = mesh.enrolled(mesh.pod("dead").namespace("shop"), "b")?;
    let bare = mesh.pod("bare").namespace("shop").label("istio.io/dataplane-mode", "none");
    let bare = mesh.enrolled(bare, "b")?;
    mesh.until_captured(&dead)?;
    let _nginx = apps::nginx(&pair.db, "alive")?;
    let endpoints = |family: &str, addresses: [std::net::IpAddr; 3]| {
        let endpoints: Vec<String> = ["db", "dead", "bare"]
            .iter()
            .zip(addresses)
            .map(|(name, ip)| {
                format!(
                    "- addresses: [\"{ip}\"]\n  conditions: {{ready: true}}\n  \
                     targetRef: {{kind: Pod, namespace: shop, name: {name}}}\n"
                )
            })
            .collect();
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-{}\n  namespace: shop\n  \
             labels: {{kubernetes.io/service-name: web}}\naddressType: {family}\n\
             ports: [{{name: p80, port: {HTTP}, protocol: TCP}}]\nendpoints:\n{}",
            family.to_lowercase(),
            endpoints.concat()
        )
    };
    let four = endpoints("IPv4", [pair.db.v4.into(), dead.v4.into(), bare.v4.into()]);
    let six = endpoints("IPv6", [pair.db.v6.into(), dead.v6.into(), bare.v6.into()]);
    mesh.apply("slices", &format!("{four}---\n{six}"))?;
    pair.service("web", "none", &[(HTTP, HTTP)])?;
    for ip in weft_tests::pair::CLUSTER_IPS {
        for _ in 0..20 {
            let answer = curl(&pair.web).arg(format!("http://{}/", SocketAddr::new(ip, HTTP))).stdout();
            let answer = answer.with_context(|| format!("{:#?}", pair.mesh.agent("a").accesses()))?;
            assert_eq!(answer, "alive");
        }
    }
    // The dead one has been asked too; else this shows nothing.
    let at = dead.at(HTTP).to_string();
    mesh.agent("b").until_access(&["inbound", "connect_refused", &at]).map(drop)
}
