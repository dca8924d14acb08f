//! What a client costs that has asked once and stays connected.

use anyhow::Result;

use super::Plan;
use super::address::Door;
use super::figures::Figures;
use super::generator::{Shape, hold};
use super::ground::Ground;
use super::proxy::{Proxy, Who};
use super::routes::Routes;
use super::talk::Kind;

const TESTS: [(&str, bool); 2] = [("HTTP/1.1", false), ("mTLS", true)];

/// A process of its own for each figure, so that no earlier load has left its memory.
pub(super) async fn measure(plan: &Plan, ground: &Ground, there: &[Who], figures: &mut Figures) -> Result<()> {
    for (name, tls) in TESTS {
        let what = format!("memory of an idle client, {name}");
        for who in there.iter().copied() {
            match grown(plan.clients(), ground, who, tls).await {
                Ok(each) => figures.add(&what, "KiB", who, each / 1024.0),
                Err(error) => figures.failed.push(format!("{}, {what}: {error:#}", who.name())),
            }
        }
        eprintln!("{what}, {} of them", plan.clients());
    }
    Ok(())
}

/// Bytes by which a client makes the proxy's memory grow.
async fn grown(clients: usize, ground: &Ground, who: Who, tls: bool) -> Result<f64> {
    let mut proxy = Proxy::start(ground, who, Routes::Few)?;
    super::ready(ground, &mut proxy).await?;
    let link = who.link(ground, Door { kind: Kind::Http1, tls })?;
    let shape = |connections| Shape { kind: Kind::Http1, connections, streams: 1 };
    // The first bring the program's own memory.
    drop(hold(&link, shape(50)).await?);
    let before = proxy.memory()?;
    let held = hold(&link, shape(clients)).await?;
    let after = proxy.memory()?;
    drop(held);
    Ok((after - before) / clients as f64)
}
