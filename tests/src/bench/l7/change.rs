//! How long a change takes to be in force among 10,000 routes: from when the proxy is told until a request is answered by it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Plan;
use super::address::Door;
use super::figures::Figures;
use super::ground::Ground;
use super::link::Link;
use super::proxy::{POLL, Proxy, Who};
use super::routes::Routes;
use super::talk::Kind;

/// All proxies, one after the other, each a few times.
pub(super) async fn measure(plan: &Plan, ground: &Ground, there: &[Who], figures: &mut Figures) -> Result<()> {
    let what = "a change among 10,000 routes in force";
    for who in there.iter().copied() {
        match changes(plan.repetitions(), ground, who).await {
            Ok(seconds) => seconds.into_iter().for_each(|seconds| figures.add(what, "s", who, seconds)),
            Err(error) => figures.failed.push(format!("{}, {what}: {error:#}", who.name())),
        }
        eprintln!("{what}, {}", who.name());
    }
    Ok(())
}

async fn changes(repetitions: usize, ground: &Ground, who: Who) -> Result<Vec<f64>> {
    let mut status = 410;
    let mut proxy = Proxy::start(ground, who, Routes::Many { status })?;
    let link = who.link(ground, Door { kind: Kind::Http1, tls: false })?;
    answers(&link, status).await?;
    let mut seconds = Vec::new();
    for _ in 0..repetitions {
        // It may still be busy with what it was told last.
        tokio::time::sleep(Duration::from_millis(500)).await;
        status = if status == 410 { 418 } else { 410 };
        let told = proxy.change(Routes::Many { status })?;
        answers(&link, status).await?;
        seconds.push(told.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Asks until the last route answers with `status`.
async fn answers(link: &Link, status: u16) -> Result<()> {
    let begun = Instant::now();
    let expected = format!("HTTP/1.1 {status} ");
    while begun.elapsed() < PATIENCE {
        // A proxy that reads its configuration again may refuse a connection.
        if ask(link).await.is_ok_and(|reply| reply.starts_with(&expected)) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the last route does not answer {status}")
}

/// The beginning of the reply: a proxy may take its time to close.
async fn ask(link: &Link) -> Result<String> {
    let mut io = link.connect().await?;
    io.write_all(Routes::question().as_bytes()).await?;
    let mut reply = Vec::new();
    while reply.len() < "HTTP/1.1 200 ".len() && io.read_buf(&mut reply).await? > 0 {}
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

const PATIENCE: Duration = Duration::from_secs(30);
