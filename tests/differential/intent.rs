//! Intents, and how they are carried out and asked.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::LocalSet;
use weft_tests::netns::Netns;
use weft_tests::place::Place;
use weft_tests::program::Program;
use weft_tests::run::Run;

use crate::ask::{Ask, Outcome};
use crate::backends::{Backends, Seen};
use crate::compare::{difference_of_time, differences};
use crate::{envoy, weft};

/// One thing that somebody wants, in `tests/fixtures/differential/<name>.yaml` for Weft and `<name>.envoy.yaml` for Envoy, and what
/// is asked then.
pub(crate) struct Intent {
    pub(crate) name: &'static str,
    pub(crate) asks: Vec<Ask>,
    /// Text in both files, and what stands for it.
    pub(crate) replaced: Vec<(&'static str, String)>,
}

impl Intent {
    pub(crate) fn new(name: &'static str, asks: impl IntoIterator<Item = Ask>) -> Intent {
        Intent { name, asks: asks.into_iter().collect(), replaced: Vec::new() }
    }

    fn file(&self, ending: &str) -> Result<String> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/differential");
        let file = dir.join(format!("{}.{ending}", self.name));
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(self.replaced.iter().fold(text, |text, (from, to)| text.replace(from, to)))
    }
}

/// What one side did with an ask.
pub(crate) struct Did {
    /// One, or as many as asked at once.
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) took: Duration,
}

/// Carries all out, beside each other, and asks one after another.
///
/// # Errors
/// All that differs.
pub(crate) fn run(intents: Vec<Intent>) -> Result<()> {
    let run = Run::new("differential")?;
    let place = Place::new(&run, "differential", Netns::make(&run, "differential")?, "differential")?;
    // Sockets belong to the namespace of the thread that makes them.
    place.run(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, compared(&place, &intents))
    })
}

async fn compared(place: &Place, intents: &[Intent]) -> Result<()> {
    let backends = [Backends::start(weft::SIDE).await?, Backends::start(envoy::SIDE).await?];
    let _envoy = sides(place, intents).await?;
    let (mut all, mut asked) = (Vec::new(), 0);
    for (number, intent) in intents.iter().enumerate() {
        let begun = Instant::now();
        for ask in &intent.asks {
            asked += 1;
            match asked_both(ask, number, &backends).await {
                Ok(found) => {
                    let found = match ask.differs {
                        None => found,
                        Some(why) if found.is_empty() => vec![format!("they do the same, in spite of: {why}")],
                        Some(_) => Vec::new(),
                    };
                    all.extend(found.into_iter().map(|what| format!("{}: {}\n    {what}", intent.name, ask.name())));
                }
                Err(error) => all.push(format!("{}: {}\n    {error:#}", intent.name, ask.name())),
            }
        }
        println!("{}: {} asked, {} ms", intent.name, intent.asks.len(), begun.elapsed().as_millis());
    }
    ensure!(all.is_empty(), "{} differences in {asked}:\n{}", all.len(), all.join("\n"));
    Ok(())
}

/// What tells the two by one ask. A busy machine takes its time: what backends see late counts, and an ask that only lasted longer
/// at one is repeated.
async fn asked_both(ask: &Ask, number: usize, backends: &[Backends; 2]) -> Result<Vec<String>> {
    let [weft, envoy] = [door(weft::SIDE, number), door(envoy::SIDE, number)];
    let mut repeats = 0;
    loop {
        let (first, second) = tokio::join!(does(ask, weft, &backends[0]), does(ask, envoy, &backends[1]));
        let mut both = [first.context("Weft")?, second.context("Envoy")?];
        if !differences(&both[0], &both[1], ask.coarse).is_empty() {
            tokio::time::sleep(LATE).await;
            for (did, backends) in both.iter_mut().zip(backends) {
                did.seen.extend(backends.take_seen());
            }
        }
        let mut found = differences(&both[0], &both[1], ask.coarse);
        let time = difference_of_time(&both[0], &both[1]);
        if found.is_empty() && time.is_some() && repeats < REPEATS {
            repeats += 1;
            continue;
        }
        found.extend(time);
        return Ok(found);
    }
}

/// What a backend may lag behind, and how often an ask is repeated.
const LATE: Duration = Duration::from_millis(300);
const REPEATS: u32 = 3;

async fn sides(place: &Place, intents: &[Intent]) -> Result<Program> {
    let mut files: Vec<(&str, Value, SocketAddr)> = Vec::new();
    for (number, intent) in intents.iter().enumerate() {
        let start = weft::start(&intent.file("yaml")?, door(weft::SIDE, number)).await;
        start.with_context(|| format!("{}.yaml", intent.name))?;
        let file = serde_saphyr::from_str(&intent.file("envoy.yaml")?);
        let file = file.with_context(|| format!("{}.envoy.yaml", intent.name))?;
        files.push((intent.name, file, door(envoy::SIDE, number)));
    }
    envoy::start(place, &files).await
}

/// Where an intent is carried out.
fn door(side: u8, number: usize) -> SocketAddr {
    let port = 10_000 + u16::try_from(number).unwrap_or_default();
    SocketAddr::new(IpAddr::from([127, 0, side, 100]), port)
}

async fn does(ask: &Ask, to: SocketAddr, backends: &Backends) -> Result<Did> {
    let mut under_way: Vec<_> = Vec::new();
    for _ in 0..ask.crowd {
        let one = ask.clone();
        under_way.push(tokio::task::spawn_local(async move { one.send(to).await }));
        if ask.crowd > 1 {
            // In an order that both sides see.
            tokio::time::sleep(APART).await;
        }
    }
    let (mut outcomes, mut took) = (Vec::new(), Duration::ZERO);
    for one in under_way {
        let (outcome, time) = one.await??;
        outcomes.push(outcome);
        took = took.max(time);
    }
    // Copies for a mirror are behind the response, and tries that nobody waits for.
    let mut before = usize::MAX;
    while before != backends.count() {
        before = backends.count();
        tokio::time::sleep(APART).await;
    }
    Ok(Did { outcomes, seen: backends.take_seen(), took })
}

/// Longer than anything takes on loopback that is not made to wait.
const APART: Duration = Duration::from_millis(20);
