//! What a proxy adds to the time of a request when it is not busy: an open loop at half of the rate that Envoy has just carried.

use anyhow::{Context, Result};

use super::Plan;
use super::address::{self, Door};
use super::figures::Figures;
use super::generator::{Shape, pace, saturate};
use super::ground::Ground;
use super::link::Link;
use super::proxy::{Proxy, Who};
use super::talk::Kind;

const TESTS: [(&str, Shape); 2] = [
    ("HTTP/1.1", Shape { kind: Kind::Http1, connections: 64, streams: 1 }),
    ("gRPC", Shape { kind: Kind::Grpc, connections: 4, streams: 100 }),
];

/// All proxies in turn, and none at all, repetition by repetition.
pub(super) async fn measure(plan: &Plan, ground: &Ground, proxies: &[Proxy], figures: &mut Figures) -> Result<()> {
    let Some(envoy) = proxies.iter().find(|proxy| proxy.who == Who::Envoy) else {
        println!("no latencies: without Envoy there is no rate to take half of");
        return Ok(());
    };
    let lasting = plan.lasting();
    for (name, shape) in TESTS {
        let door = Door { kind: shape.kind, tls: false };
        for repetition in 1..=plan.repetitions() {
            let most = saturate(&envoy.who.link(ground, door)?, shape, lasting, || envoy.spent()).await;
            let most = most.context("Envoy's greatest rate")?;
            let rate = most.took.count() as f64 / most.seconds / 2.0;
            let direct = Link::Plain { to: address::backend(door) };
            let direct = pace(&direct, shape, rate, lasting).await.context("without a proxy")?;
            for proxy in proxies {
                match pace(&proxy.who.link(ground, door)?, shape, rate, lasting).await {
                    Ok(took) => {
                        let added = |share| took.micros(share) - direct.micros(share);
                        let what = |at| format!("added {at} at half of Envoy's rate, {name}");
                        figures.add(&what("p50"), "us", proxy.who, added(0.5));
                        figures.add(&what("p99"), "us", proxy.who, added(0.99));
                    }
                    Err(error) => figures.failed.push(format!("{}, latency of {name}: {error:#}", proxy.who.name())),
                }
                proxy.cut_log()?;
            }
            eprint!("\rlatency, {name}, {rate:.0}/s {repetition}/{}   ", plan.repetitions());
        }
        eprintln!();
    }
    Ok(())
}
