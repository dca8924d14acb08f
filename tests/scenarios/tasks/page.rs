//! A page: fixtures that are applied, and then one step after another: ask this, expect that.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_tests::answer::Answer;
use weft_tests::outcome::LIMIT;
use weft_tests::wait::{PATIENCE, until};

use super::stage::Stage;

/// Fixtures, and what is seen while they are in force.
pub(super) struct Page {
    fixtures: Vec<&'static str>,
    steps: Vec<Step>,
}

type Action = dyn Fn(&mut Stage) -> Result<()>;

enum Step {
    Ask(Ask),
    /// Asked until it is answered so.
    Until(Ask),
    /// Who answers of so many requests, each with about its percentage.
    Shares(Ask, usize, Vec<(&'static str, usize)>),
    /// The same of connections: what the server says first.
    Greetings(Say, usize, Vec<(&'static str, usize)>),
    /// One of these is heard; none: the connection is cut.
    Say(Say, Vec<&'static str>),
    Then(Box<Action>),
}

/// A connection of a client to `name:port`.
#[derive(Clone, Copy)]
pub(super) struct Say {
    pub(super) client: &'static str,
    pub(super) name: &'static str,
    pub(super) port: u16,
}

/// A request and what it has to be answered.
#[derive(Clone)]
pub(super) struct Ask {
    client: &'static str,
    url: String,
    headers: Vec<String>,
    more: Vec<String>,
    times: usize,
    expected: Vec<Expected>,
}

#[derive(Clone)]
enum Expected {
    Status(u16),
    /// One of these pods answers.
    By(Vec<&'static str>),
    /// What the backend was asked for.
    Target(&'static str),
    /// What the backend was sent.
    Sent(&'static str, Vec<&'static str>),
    /// Header of the response; none: it is not there.
    Header(&'static str, Option<&'static str>),
    Body(&'static str),
    /// Milliseconds: no sooner and no later.
    Takes(u64, u64),
    /// No response: the connection is cut.
    Cut,
}

impl Page {
    pub(super) fn of(fixtures: &[&'static str]) -> Page {
        Page { fixtures: fixtures.to_vec(), steps: Vec::new() }
    }

    pub(super) fn ask(mut self, ask: Ask) -> Page {
        self.steps.push(Step::Ask(ask));
        self
    }

    pub(super) fn until(mut self, ask: Ask) -> Page {
        self.steps.push(Step::Until(ask));
        self
    }

    pub(super) fn shares(mut self, ask: Ask, count: usize, shares: &[(&'static str, usize)]) -> Page {
        self.steps.push(Step::Shares(ask, count, shares.to_vec()));
        self
    }

    pub(super) fn greetings(mut self, say: Say, count: usize, shares: &[(&'static str, usize)]) -> Page {
        self.steps.push(Step::Greetings(say, count, shares.to_vec()));
        self
    }

    /// Which greetings may be heard; none: the connection is cut.
    pub(super) fn say(mut self, say: Say, heard: &[&'static str]) -> Page {
        self.steps.push(Step::Say(say, heard.to_vec()));
        self
    }

    pub(super) fn then(mut self, action: impl Fn(&mut Stage) -> Result<()> + 'static) -> Page {
        self.steps.push(Step::Then(Box::new(action)));
        self
    }

    /// Applies it and takes its steps; what fails is added to `failures`.
    fn turn(self, stage: &mut Stage, failures: &mut Vec<String>) -> Result<()> {
        let begun = Instant::now();
        let name = self.fixtures.join(" + ");
        stage.apply(&self.fixtures).with_context(|| name.clone())?;
        let findings = stage.mesh.controller_admin("/debug/findings")?;
        if findings.contains("\"severity\":\"error\"") {
            failures.push(format!("{name}: {findings}"));
        }
        for (i, step) in self.steps.into_iter().enumerate() {
            if let Err(error) = step.take(stage) {
                failures.push(format!("{name}, step {}: {error:#}", i + 1));
            }
        }
        println!("{name}: {} ms", begun.elapsed().as_millis());
        Ok(())
    }
}

/// Turns the pages one after another, to the last.
///
/// # Errors
/// All that was not as a page says.
pub(super) fn turn(pages: impl IntoIterator<Item = Page>, stage: &mut Stage) -> Result<()> {
    let mut failures = Vec::new();
    pages.into_iter().try_for_each(|page| page.turn(stage, &mut failures))?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

impl Step {
    fn take(self, stage: &mut Stage) -> Result<()> {
        match self {
            Step::Ask(ask) => (0..ask.times).try_for_each(|_| ask.try_once(stage)),
            Step::Until(ask) => {
                let mut last = Ok(());
                let waited = until("the answer", PATIENCE, || {
                    last = ask.try_once(stage);
                    last.is_ok().then_some(())
                });
                waited.and(last)
            }
            Step::Shares(ask, count, shares) => {
                let (host, query) = ask.url.split_once('?').map_or((&*ask.url, ""), |(host, query)| (host, query));
                let url = format!("{host}?{query}&n=[1-{count}]");
                let curl =
                    stage.pod(ask.client).command("curl").args(["--silent", "--noproxy", "*", "--output", "/dev/null"]);
                let curl = curl.args(stage.names()).args(ask.headers.iter().flat_map(|header| ["--header", header]));
                let said = curl.args(["--write-out", "%header{served-by}\\n"]).arg(&url).stdout()?;
                within_shares(said.lines().map(str::to_owned), count, &shares)
            }
            Step::Greetings(say, count, shares) => {
                let heard: Vec<String> = (0..count).map(|_| say.hear(stage)).collect::<Result<_>>()?;
                within_shares(heard.into_iter(), count, &shares)
            }
            Step::Say(say, expected) => {
                let heard = say.hear(stage)?;
                let right = if expected.is_empty() { heard.is_empty() } else { expected.contains(&&*heard) };
                ensure!(right, "heard {heard:?}, not one of {expected:?}");
                Ok(())
            }
            Step::Then(action) => action(stage),
        }
    }
}

/// Each within four standard deviations of its percentage; nobody else.
fn within_shares(all: impl Iterator<Item = String>, count: usize, shares: &[(&'static str, usize)]) -> Result<()> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    all.for_each(|who| *counts.entry(who).or_default() += 1);
    for (who, percent) in shares {
        let mean = count * percent / 100;
        let off = counts.get(*who).copied().unwrap_or_default().abs_diff(mean);
        // Variance of a binomial draw, in hundredths twice.
        let variance = count * percent * (100 - percent) / 10_000;
        ensure!(off * off <= 16 * variance, "{who} {percent} % of {count}: {counts:?}");
    }
    ensure!(counts.keys().all(|who| shares.iter().any(|(named, _)| named == who)), "somebody else: {counts:?}");
    Ok(())
}

impl Say {
    /// The first line; empty: the connection is cut before.
    fn hear(self, stage: &Stage) -> Result<String> {
        let to = SocketAddr::new(stage.ip(self.name)?, self.port);
        let mut stream = stage.pod(self.client).dial(to)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut buffer = [0; 64];
        match stream.read(&mut buffer) {
            Ok(read) => Ok(String::from_utf8_lossy(&buffer[..read]).trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A GET of `url` by `client`.
pub(super) fn get(client: &'static str, url: &str) -> Ask {
    Ask { client, url: url.to_owned(), headers: Vec::new(), more: Vec::new(), times: 1, expected: Vec::new() }
}

impl Ask {
    pub(super) fn method(self, method: &str) -> Ask {
        self.curl(&["--request", method])
    }

    /// Further arguments for curl.
    pub(super) fn curl(mut self, more: &[&str]) -> Ask {
        self.more.extend(more.iter().map(|argument| (*argument).to_owned()));
        self
    }

    pub(super) fn header(mut self, header: impl Into<String>) -> Ask {
        self.headers.push(header.into());
        self
    }

    /// So often, with the same expectations each time.
    pub(super) fn times(mut self, times: usize) -> Ask {
        self.times = times;
        self
    }

    pub(super) fn status(self, status: u16) -> Ask {
        self.expect(Expected::Status(status))
    }

    /// A 200 of one of these pods.
    pub(super) fn by(self, pods: &[&'static str]) -> Ask {
        self.expect(Expected::Status(200)).expect(Expected::By(pods.to_vec()))
    }

    pub(super) fn target(self, target: &'static str) -> Ask {
        self.expect(Expected::Target(target))
    }

    pub(super) fn sent(self, name: &'static str, values: &[&'static str]) -> Ask {
        self.expect(Expected::Sent(name, values.to_vec()))
    }

    pub(super) fn answers(self, name: &'static str, value: Option<&'static str>) -> Ask {
        self.expect(Expected::Header(name, value))
    }

    pub(super) fn body(self, body: &'static str) -> Ask {
        self.expect(Expected::Body(body))
    }

    pub(super) fn takes(self, least: u64, most: u64) -> Ask {
        self.expect(Expected::Takes(least, most))
    }

    pub(super) fn cut(self) -> Ask {
        self.expect(Expected::Cut)
    }

    fn expect(mut self, expected: Expected) -> Ask {
        self.expected.push(expected);
        self
    }

    /// Asks, without a look at the answer.
    pub(super) fn answer(&self, stage: &Stage) -> Result<Answer> {
        let headers: Vec<&str> = self.headers.iter().map(String::as_str).collect();
        let names = stage.names();
        let more: Vec<&str> = names.iter().chain(&self.more).map(String::as_str).collect();
        Answer::to(stage.pod(self.client), &self.url, &headers, &more)
    }

    fn try_once(&self, stage: &Stage) -> Result<()> {
        let begun = Instant::now();
        let answer = self.answer(stage);
        let took = begun.elapsed();
        if matches!(self.expected[..], [Expected::Cut]) {
            ensure!(answer.is_err(), "answered: {answer:?}");
            return Ok(());
        }
        let answer = answer?;
        for expected in &self.expected {
            expected.holds(&answer, took).with_context(|| format!("{} {:?}: {answer:?}", self.url, self.headers))?;
        }
        Ok(())
    }
}

impl Expected {
    fn holds(&self, answer: &Answer, took: Duration) -> Result<()> {
        let right = match self {
            Expected::Status(status) => answer.status == *status,
            Expected::By(pods) => pods.contains(&answer.by()),
            Expected::Target(target) => answer.report()?["target"] == *target,
            Expected::Sent(name, values) => answer.sent(name)? == *values,
            Expected::Header(name, value) => answer.header(name) == *value,
            Expected::Body(body) => answer.body == *body,
            Expected::Takes(least, most) => (u128::from(*least)..=u128::from(*most)).contains(&took.as_millis()),
            Expected::Cut => false,
        };
        if right {
            return Ok(());
        }
        match self {
            Expected::Status(status) => bail!("status is not {status}"),
            Expected::By(pods) => bail!("none of {pods:?} answers"),
            Expected::Target(target) => bail!("the backend was not asked for {target}"),
            Expected::Sent(name, values) => bail!("the backend was not sent {name}: {values:?}"),
            Expected::Header(name, value) => bail!("{name} is not {value:?}"),
            Expected::Body(body) => bail!("the body is not {body:?}"),
            Expected::Takes(least, most) => bail!("it took {took:?}, not {least} to {most} ms"),
            Expected::Cut => bail!("it is answered"),
        }
    }
}
