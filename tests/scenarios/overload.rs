//! More is asked of a waypoint than it takes on.

use std::io;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use weft_tests::mesh::Setup;
use weft_tests::needs;
use weft_tests::reviews::{Reviews, SERVICE, virtual_service};
use weft_tests::wait::{PATIENCE, until};

/// Requests that one worker carries at once, and those that the greedy client makes.
const BOUND: usize = 40;
const MANY: usize = 400;

#[test]
fn a_greedy_client_stops_no_other() -> Result<()> {
    needs!("curl", "h2load");
    let setup = Setup::default().waypoint("WORKER_THREADS", "1").waypoint("WORKER_REQUESTS", &BOUND.to_string());
    let reviews = Reviews::with_setup("l7-overload", &["v1"], setup)?;
    reviews.apply(&virtual_service(
        "[{match: [{uri: {prefix: /slow}}], fault: {delay: {fixedDelay: 4s, percentage: {value: 100}}}, route: [{destination: {host: \
         reviews}}]}, {route: [{destination: {host: reviews}}]}]",
    ))?;
    let plan = reviews.mesh.pod("greedy").namespace("shop").service_account("greedy");
    let greedy = reviews.mesh.enrolled(plan, "a")?;
    reviews.mesh.until_captured(&greedy)?;

    let requests = MANY.to_string();
    let url = format!("http://{SERVICE}/slow");
    let load = greedy.command("h2load").args(["-n", &requests, "-c", "4", "-m", "100", &url]);
    let said = std::thread::scope(|scope| -> Result<String> {
        let loading = scope.spawn(|| load.stdout());
        let shed = || -> Result<bool> {
            Ok(reviews.waypoint.admin("/metrics")?.contains("weft_requests_shed_total{reason=\"share\"}"))
        };
        until("requests that are shed", PATIENCE, || shed().ok()?.then_some(()))?;
        // While the greedy one waits for what it got.
        for _ in 0..BOUND / 4 {
            let answer = reviews.ask("/quick", &[])?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        loading.join().expect("loading does not panic")
    })?;
    let codes = said.lines().find(|line| line.starts_with("status codes:")).context("h2load says no codes")?;
    ensure!(codes.contains(&format!(" {BOUND} 2xx")) && codes.contains(&format!(" {} 5xx", MANY - BOUND)), "{said}");
    let lines = reviews.waypoint.accesses();
    let shed =
        lines.iter().filter(|line| line["response_flags"] == "OM" && line["response_code_details"] == "overload");
    assert_eq!(shed.count(), MANY - BOUND);
    let log = reviews.waypoint.program.log();
    assert_eq!(log.matches("overload: requests are refused").count(), 1, "it is told once");
    assert_eq!(log.matches("overload is over").count(), 1);
    let again = greedy.command("curl").args(["--silent", "--write-out", "%{http_code}", "--output", "/dev/null"]);
    assert_eq!(again.arg(&url).stdout()?, "200");

    // Connections without a request are counted too, up to twice as many.
    let to = SocketAddr::new(SERVICE.parse()?, 80);
    let _idle: Vec<TcpStream> = (0..MANY).map(|_| greedy.dial(to)).collect::<io::Result<_>>()?;
    let refused = || -> Result<bool> {
        Ok(reviews.waypoint.admin("/metrics")?.contains("streams_refused_total{reason=\"overload\"}"))
    };
    until("streams that are refused", PATIENCE, || refused().ok()?.then_some(()))?;
    for _ in 0..10 {
        assert_eq!(reviews.ask("/quick", &[])?.status, 200);
    }
    Ok(())
}
