//! What a waypoint counts, as people see it: read by Prometheus, asked for by the dashboard.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::pod::Pod;
use weft_tests::program::find;
use weft_tests::reviews::Reviews;
use weft_tests::wait::{PATIENCE, until};
use weft_tests::{dashboard, needs};

const DASHBOARD: &str = include_str!("../../deploy/grafana/waypoints.json");
/// Where Prometheus answers.
const PORT: u16 = 9090;
/// Reads every second.
const CONFIG: &str = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs: [{job_name: waypoints, static_configs: \
                      [{targets: ['127.0.0.1:15000']}]}]\n";

/// What Prometheus makes of `query` now: one sample for each series.
fn answered(pod: &Pod, query: &str) -> Result<Vec<f64>> {
    let url = format!("http://127.0.0.1:{PORT}/api/v1/query");
    let asked = pod.command("curl").args(["-sS", "--max-time", "5", "--data-urlencode"]).arg(format!("query={query}"));
    let text = asked.arg(url).stdout()?;
    let answer: Value = serde_json::from_str(&text).with_context(|| format!("{query}: {text}"))?;
    ensure!(answer["status"] == "success", "{query}: {text}");
    let series = answer["data"]["result"].as_array().context("a vector")?;
    let sample = |series: &Value| series["value"][1].as_str().and_then(|number| number.parse().ok());
    Ok(series.iter().filter_map(sample).collect())
}

#[test]
fn prometheus_reads_a_waypoint_and_the_dashboards_panels_are_filled() -> Result<()> {
    needs!("curl");
    let reviews = Reviews::open("l7-scraped", &["v1"])?;
    for _ in 0..20 {
        assert_eq!(reviews.ask("/", &[])?.status, 200);
    }
    let metrics = reviews.waypoint.admin("/metrics")?;
    let names = dashboard::names(concat!(env!("CARGO_MANIFEST_DIR"), "/../mesh-waypoint/src").as_ref())?;
    let lacking = dashboard::lacking(DASHBOARD, &metrics, &names)?;
    ensure!(lacking.is_empty(), "a dashboard asks for {lacking:?}, which is not in {metrics}");

    let pod = &reviews.waypoint.pod;
    if find("prometheus").is_none() {
        println!(
            "Prometheus cannot be had here (cargo xtask setup): the dashboard was held against our own reading alone"
        );
        return Ok(());
    }
    let config = pod.dir().join("prometheus.yml");
    fs::write(&config, CONFIG)?;
    let mut prometheus = pod
        .command("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", pod.dir().join("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
        .start()?;
    prometheus.wait_listens(PORT)?;
    let counted = "sum(istio_requests_total{reporter=\"waypoint\", response_code=\"200\"})";
    let requests = until("what was counted before, at Prometheus", PATIENCE, || {
        answered(pod, counted).ok()?.first().copied().filter(|count| *count >= 20.0)
    })?;
    ensure!(requests == 20.0, "{requests} of 20");

    // A rate needs two readings with something between them.
    let filled = |query: &str| -> Result<Vec<f64>> {
        answered(pod, &query.replace("$service", ".*").replace("$__rate_interval", "30s"))
    };
    let queries = dashboard::queries(DASHBOARD)?;
    let rate = queries.first().context("a rate of requests")?;
    until("a rate of requests", Duration::from_secs(30), || {
        reviews.ask("/", &[]).ok()?;
        filled(rate).ok()?.into_iter().find(|rate| *rate > 0.0)
    })?;
    for query in &queries {
        // Understood, every one; and what requests alone fill is filled.
        let samples = filled(query)?;
        let is_of_requests = query.contains("istio_") && !query.contains("response_flags!") && !query.contains("5..");
        ensure!(!is_of_requests || samples.iter().any(|sample| sample.is_finite()), "{query} shows nothing");
    }
    Ok(())
}
