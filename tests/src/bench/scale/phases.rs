//! The parts of the measurement, one after the other, on one cluster with one controller.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, sleep_until};

use super::figures::Figures;
use super::subscriber::{Count, Crowd, Holding};
use super::world::{self, World};
use super::{CONTROLLER_CORE, OTHERS_CORE, Plan, children, pin, pin_process};
use crate::bench::machine::process_seconds;
use crate::cluster::Cluster;
use crate::cluster::controller::Controller;
use crate::wait::until;

/// A filled cluster with its controller, each on its core.
pub(super) struct Stage<'a> {
    plan: &'a Plan,
    world: World,
    controller: Controller,
    /// In PEM.
    roots: String,
    /// Where agents are.
    agents: Runtime,
    /// Where changes are made: a thread of its own, so that the time of a write is not that of the agents before it.
    writes: Runtime,
}

impl<'a> Stage<'a> {
    pub(super) fn set(plan: &'a Plan, cluster: &Cluster, world: World) -> Result<Self> {
        let (first, last) = (plan.changes, plan.changes + plan.seconds * PER_SECOND);
        ensure!(world.pods >= last, "{first} and {last} changes need as many pods, and there are {}", world.pods);
        for pid in children()? {
            pin_process(pid, OTHERS_CORE)?;
        }
        // A process is where the thread that starts it is.
        pin(0, CONTROLLER_CORE)?;
        let begun = Instant::now();
        let controller = Controller::start(cluster, "controller", &[]);
        pin_process(std::process::id(), OTHERS_CORE)?;
        let controller = controller?;
        until("the controller to be ready", READY, || controller.is_ready().then_some(()))?;
        let roots = fs::read_to_string(controller.state().join("root-cert.pem"))?;
        let agents = Builder::new_current_thread().enable_all().build()?;
        let writes = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let stage = Stage { plan, world, controller, roots, agents, writes };
        println!("controller ready after {:.1} s, {:.2} CPU s", begun.elapsed().as_secs_f64(), stage.spent()?);
        Ok(stage)
    }

    pub(super) fn measure(&mut self, figures: &mut Figures) -> Result<()> {
        figures.add("start: memory, peak", "MiB", self.peak()?);
        let runtime = &self.agents;
        runtime.block_on(async {
            let crowd = self.sync(figures).await.context("first sync")?;
            if self.plan.only.wants("change") {
                self.changes(&crowd, figures).await.context("single changes")?;
            }
            if self.plan.only.wants("stream") {
                self.stream(&crowd, figures).await.context("a stream of changes")?;
            }
            if self.plan.only.wants("return") {
                self.returning(crowd, figures).await.context("return")?;
            }
            anyhow::Ok(())
        })?;
        figures.add("memory, peak of all this", "MiB", self.peak()?);
        Ok(())
    }

    pub(super) fn log(&self) -> String {
        self.controller.log()
    }

    /// All agents come and hold nothing.
    async fn sync(&self, figures: &mut Figures) -> Result<Crowd> {
        let repetitions = if self.plan.only.wants("sync") { self.plan.repetitions.max(1) } else { 1 };
        let mut last = None;
        for _ in 0..repetitions {
            drop(last.take());
            let (crowd, cost) = self.come(&Holding::default()).await?;
            if self.plan.only.wants("sync") {
                figures.add("first sync of all: CPU", "s", cost.cpu);
                figures.add("first sync of all: until the last has all", "s", cost.wall);
                figures.add("first sync of all: sent to them", "MiB", mebibytes(cost.count.received));
                figures.add("first sync of all: as they read it", "MiB", mebibytes(cost.count.read));
                figures.add("first sync of all: memory, peak so far", "MiB", self.peak()?);
            }
            last = Some(crowd);
        }
        last.context("at least one")
    }

    /// One pod changes, and once all agents know, another.
    async fn changes(&self, crowd: &Crowd, figures: &mut Figures) -> Result<()> {
        crowd.watch();
        let client = self.writes.spawn(self.world.client()).await??;
        let (mut each, mut last, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        for pod in 0..self.plan.changes {
            let writing = self.writes.spawn(write(client.clone(), pod, Instant::now()));
            let (told, times) = tokio::join!(crowd.told(std::slice::from_ref(&pod)), writing);
            let ((begun, written), told) = (times??, told?.pop().context("one pod")?);
            each.extend(told.iter().map(|at| at.saturating_duration_since(written)));
            let end = told.iter().max().context("one agent")?;
            last.push(end.saturating_duration_since(written));
            whole.push(*end - begun);
            sleep(Duration::from_millis(20)).await;
        }
        figures.add("one change: at each agent, p50", "ms", percentile(&mut each, 50));
        figures.add("one change: at each agent, p99", "ms", percentile(&mut each, 99));
        figures.add("one change: at all agents, p50", "ms", percentile(&mut last, 50));
        figures.add("one change: at all agents, p99", "ms", percentile(&mut last, 99));
        figures.add("one change: at all agents, with the write, p50", "ms", percentile(&mut whole, 50));
        figures.add("one change: at all agents, with the write, p99", "ms", percentile(&mut whole, 99));
        Ok(())
    }

    /// Pods change at an even rate, whether or not agents follow.
    async fn stream(&self, crowd: &Crowd, figures: &mut Figures) -> Result<()> {
        crowd.watch();
        let client = self.writes.spawn(self.world.client()).await??;
        let pods: Vec<usize> = (self.plan.changes..).take(self.plan.seconds * PER_SECOND).collect();
        let (cpu, before, begun) = (self.spent()?, crowd.count(), Instant::now());
        let writing: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let due =
                    begun + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / PER_SECOND as u32;
                self.writes.spawn(write(client.clone(), *pod, due))
            })
            .collect();
        let mut written = Vec::new();
        for write in writing {
            written.push(write.await??);
        }
        let told = crowd.told(&pods).await?;
        sleep(SETTLED).await;
        let (wall, cpu, after) = (begun.elapsed().as_secs_f64(), self.spent()? - cpu, crowd.count());
        let (mut each, mut last) = (Vec::new(), Vec::new());
        for ((_, written), told) in written.iter().zip(told) {
            each.extend(told.iter().map(|at| at.saturating_duration_since(*written)));
            last.push(told.iter().max().context("one agent")?.saturating_duration_since(*written));
        }
        figures.add("100 changes a second: at each agent, p50", "ms", percentile(&mut each, 50));
        figures.add("100 changes a second: at each agent, p99", "ms", percentile(&mut each, 99));
        figures.add("100 changes a second: at all agents, p99", "ms", percentile(&mut last, 99));
        figures.add("100 changes a second: CPU", "cores", cpu / wall);
        let responses = (after.responses - before.responses) as f64 / wall / self.plan.agents as f64;
        figures.add("100 changes a second: responses to an agent", "/s", responses);
        figures.add("100 changes a second: memory, peak so far", "MiB", self.peak()?);
        Ok(())
    }

    /// All agents go, and come with what they hold: as Weft's say that, and as others do.
    async fn returning(&self, mut crowd: Crowd, figures: &mut Figures) -> Result<()> {
        for named in [false, true] {
            for _ in 0..self.plan.repetitions.max(1) {
                let holding = crowd.holding();
                drop(crowd);
                let holding = if named { holding.named() } else { holding };
                let cost;
                (crowd, cost) = self.come(&holding).await?;
                let what = if named { "return of all, naming what they hold" } else { "return of all" };
                figures.add(&format!("{what}: CPU"), "s", cost.cpu);
                figures.add(&format!("{what}: until the last is answered"), "s", cost.wall);
                figures.add(&format!("{what}: sent to them"), "MiB", mebibytes(cost.count.received));
                figures.add(&format!("{what}: sent by them"), "MiB", mebibytes(cost.count.sent));
                figures.add(&format!("{what}: memory, peak so far"), "MiB", self.peak()?);
            }
        }
        Ok(())
    }

    /// Connects all agents with fresh tokens, and waits until each has been told all.
    async fn come(&self, holding: &Holding) -> Result<(Crowd, Cost)> {
        let tokens = self.world.tokens().await?;
        // Those who left are gone for the controller as well.
        sleep(SETTLED).await;
        let (cpu, begun) = (self.spent()?, Instant::now());
        let crowd = Crowd::join(self.controller.control(), &self.roots, tokens, holding);
        crowd.synced().await?;
        let wall = begun.elapsed().as_secs_f64();
        sleep(SETTLED).await;
        let cost = Cost { cpu: self.spent()? - cpu, wall, count: crowd.count() };
        Ok((crowd, cost))
    }

    /// Seconds of processor time that the controller has used.
    fn spent(&self) -> Result<f64> {
        process_seconds(&self.controller.pid().to_string())
    }

    /// Most memory that the controller has had in RAM, in MiB.
    fn peak(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.controller.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in its status")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

/// What an arrival of all agents took.
struct Cost {
    cpu: f64,
    wall: f64,
    count: Count,
}

/// Makes a pod unready when it is due; yields when the write began and returned.
async fn write(client: kube::Client, pod: usize, due: Instant) -> Result<(Instant, Instant)> {
    sleep_until(due.into()).await;
    let begun = Instant::now();
    world::set_ready(&client, pod, false).await?;
    Ok((begun, Instant::now()))
}

/// In milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// Longest wait for the cluster to be read.
const READY: Duration = Duration::from_secs(60);
/// Changes a second.
const PER_SECOND: usize = 100;
/// Long enough for what was said to be acknowledged.
const SETTLED: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_least_time_that_so_many_do_not_exceed() {
        let mut times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&mut times, percent)), [100.0, 198.0, 200.0]);
        assert!(percentile(&mut [], 50).is_nan());
    }
}
