//! The machine: what it is, and what its processors have done.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::cgroup::Cgroup;

/// What figures hold for.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) cores: usize,
    /// Of connections for which nobody chooses another.
    pub(super) congestion_control: String,
    pub(super) load: String,
}

impl Machine {
    pub(super) fn here() -> Result<Machine> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")));
        Ok(Machine {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            congestion_control: fs::read_to_string(CONGESTION_CONTROL)?.trim().to_owned(),
            load: load()?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu, cores, congestion_control, load } = self;
        write!(f, "Linux {kernel}, {cpu}, {cores} cores, TCP by {congestion_control}; load average before it: {load}")
    }
}

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Load averages of 1, 5 and 15 minutes.
pub(super) fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Seconds of processor time spent so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// By the whole machine, soft interrupts included: everything but idling.
    pub(super) machine: f64,
    /// By the run's own processes, soft interrupts only where the kernel charges them to whom they interrupt.
    pub(super) run: f64,
}

impl Spent {
    pub(super) fn so_far(run: &Cgroup) -> Result<Spent> {
        let stat = fs::read_to_string("/proc/stat")?;
        let own = fs::read_to_string(run.dir().join("cpu.stat")).context("read the run's cpu.stat")?;
        let micros =
            own.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("no usage_usec in cpu.stat")?;
        let hertz = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok(Spent { machine: busy_ticks(&stat) as f64 / hertz as f64, run: micros.trim().parse::<f64>()? / 1e6 })
    }
}

/// Seconds of processor time that a process, by its number or `self`, has used with all its threads.
pub(super) fn process_seconds(process: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the process has ended")?;
    let hertz = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(process_ticks(&stat).context("no utime and stime")? as f64 / hertz as f64)
}

/// utime and stime: the 12th and 13th field behind the name, which may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Ticks of the line `cpu` that were not idle: user, nice, system, irq and softirq, but neither idle, iowait nor stolen.
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum()
}

/// Anonymous memory of a process that is in RAM, in bytes.
pub(super) fn anonymous(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in its status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_be_called_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 200 0 0 31 11 5 6 20 0 1 0 100 0";
        assert_eq!(process_ticks(stat), Some(42));
    }

    #[test]
    fn idle_iowait_and_stolen_time_are_no_work() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 4000 0 0\ncpu0 9 9 9 9 9 9 9 9 9 9\n"), 31);
    }
}
