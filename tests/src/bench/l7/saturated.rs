//! Requests as fast as they are answered: how many a proxy carries with a second of its processor's time.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Plan;
use super::address::Door;
use super::figures::Figures;
use super::generator::{Lasting, Shape, saturate, visit};
use super::ground::Ground;
use super::proxy::Proxy;
use super::talk::Kind;

struct Test {
    name: &'static str,
    shape: Shape,
    tls: bool,
    /// A connection for each request.
    visits: bool,
    /// Whether the slowest of a hundred is a figure, too.
    p99: bool,
}

const fn test(name: &'static str, kind: Kind, connections: usize, streams: usize) -> Test {
    Test { name, shape: Shape { kind, connections, streams }, tls: false, visits: false, p99: false }
}

const TESTS: [Test; 8] = [
    Test { p99: true, ..test("HTTP/1.1, 1 KiB, 64 connections", Kind::Http1, 64, 1) },
    test("HTTP/2, 1 KiB, 4 x 100 streams", Kind::Http2, 4, 100),
    Test { p99: true, ..test("gRPC, 64 B, 4 x 100 streams", Kind::Grpc, 4, 100) },
    test("gRPC, 64 B, 16 x 1 stream", Kind::Grpc, 16, 1),
    test("HTTP/1.1, 1 MiB, 16 connections", Kind::Large, 16, 1),
    Test { tls: true, ..test("mTLS, HTTP/1.1, 1 KiB, 64 connections", Kind::Http1, 64, 1) },
    Test { tls: true, ..test("mTLS, gRPC, 64 B, 4 x 100 streams", Kind::Grpc, 4, 100) },
    Test { tls: true, visits: true, ..test("mTLS, a connection for each request, 8 clients", Kind::Http1, 8, 1) },
];

/// All proxies in turn, repetition by repetition.
pub(super) async fn measure(plan: &Plan, ground: &Ground, proxies: &mut [Proxy], figures: &mut Figures) -> Result<()> {
    let lasting = plan.lasting();
    for test in TESTS.iter().filter(|test| plan.only.wants(test.name)) {
        for repetition in 1..=plan.repetitions() {
            for proxy in &mut *proxies {
                let what = format!("{}, {}", proxy.who.name(), test.name);
                match once(test, ground, proxy, lasting, figures).await {
                    Ok(()) => {}
                    Err(error) => {
                        figures.failed.push(format!("{what}: {error:#}"));
                        proxy.is_running().context(what)?;
                    }
                }
            }
            eprint!("\r{} {repetition}/{}   ", test.name, plan.repetitions());
        }
        eprintln!();
    }
    Ok(())
}

async fn once(test: &Test, ground: &Ground, proxy: &Proxy, lasting: Lasting, figures: &mut Figures) -> Result<()> {
    let Test { name, shape, .. } = *test;
    let link = proxy.who.link(ground, Door { kind: shape.kind, tls: test.tls })?;
    proxy.cut_log()?;
    let seen = match test.visits {
        true => visit(&link, shape, lasting, || proxy.spent()).await?,
        false => saturate(&link, shape, lasting, || proxy.spent()).await?,
    };
    let count = seen.took.count();
    // Most is written at once, the rest within a second.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let lines = proxy.cut_log()?;
    figures.logged(proxy.who, lines, count);
    let requests = count as f64;
    figures.add(name, "/CPU s", proxy.who, requests / seen.spent);
    figures.add(&format!("{name}: by the clock"), "/s", proxy.who, requests / seen.seconds);
    if test.p99 {
        figures.add(&format!("{name}: p99"), "us", proxy.who, seen.took.micros(0.99));
    }
    Ok(())
}
