//! A proxy that runs: what it was told, what it is told anew, what it has used.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::PROXY_CORE;
use super::address::{Door, MESHED_SERVICE, TUNNEL};
use super::ground::Ground;
use super::link::Link;
use super::routes::Routes;
use super::{envoy, haproxy, model, nginx};
use crate::bench::machine;
use crate::program::{Launch, Program};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Envoy,
    Weft,
    Nginx,
    Haproxy,
}

impl Who {
    pub(super) const ALL: [Who; 4] = [Who::Envoy, Who::Weft, Who::Nginx, Who::Haproxy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Who::Envoy => "Envoy",
            Who::Weft => "Weft",
            Who::Nginx => "nginx",
            Who::Haproxy => "HAProxy",
        }
    }

    fn ip(self) -> IpAddr {
        let last = match self {
            Who::Envoy => 1,
            Who::Weft => 2,
            Who::Nginx => 3,
            Who::Haproxy => 4,
        };
        IpAddr::V4(Ipv4Addr::new(127, 0, 1, last))
    }

    /// How a client reaches it.
    pub(super) fn link(self, ground: &Ground, door: Door) -> Result<Link> {
        let to = SocketAddr::new(self.ip(), door.proxy());
        match (door.tls, self) {
            (false, _) => Ok(Link::Plain { to }),
            (true, Who::Weft) => {
                let service = SocketAddr::new(MESHED_SERVICE, door.service());
                Link::lane(SocketAddr::new(self.ip(), TUNNEL), service, &ground.authority)
            }
            (true, _) => Link::tls(to, door.kind, &ground.authority),
        }
    }
}

/// Dropping it ends it.
pub(super) struct Proxy {
    pub(super) who: Who,
    program: Program,
    dir: PathBuf,
    log: PathBuf,
    certificates: PathBuf,
}

impl Proxy {
    /// Starts it; it may take a while until it answers.
    pub(super) fn start(ground: &Ground, who: Who, routes: Routes) -> Result<Proxy> {
        let (dir, certificates) = (ground.folder(who)?, ground.certificates().to_owned());
        let log = dir.join("access.log");
        fs::write(&log, "")?;
        let program = ground.program(who).with_context(|| format!("{} is not there", who.name()))?;
        // What it prints is behind its earlier lines also when those have been cut off.
        let launch = ground.place.command("sh").args(["-c", "exec \"$0\" \"$@\" >> \"$ACCESS_LOG\"", &program]);
        let launch = launch.env("ACCESS_LOG", &log).on_core(PROXY_CORE);
        write(who, routes, &dir, &certificates, &log)?;
        let program = arguments(launch, who, routes, &dir, &certificates).start()?;
        Ok(Proxy { who, program, dir, log, certificates })
    }

    /// Has it take other routes; when it was told.
    pub(super) fn change(&mut self, routes: Routes) -> Result<Instant> {
        match self.who {
            Who::Envoy => {
                // Into place at once: it watches for that.
                let (file, aside) = (self.dir.join(ROUTES), self.dir.join("aside.json"));
                fs::write(&aside, envoy::watched(routes).to_string())?;
                let told = Instant::now();
                fs::rename(aside, file)?;
                Ok(told)
            }
            Who::Weft | Who::Nginx | Who::Haproxy => {
                write(self.who, routes, &self.dir, &self.certificates, &self.log)?;
                let told = Instant::now();
                self.program.signal(if self.who == Who::Haproxy { Signal::SIGUSR2 } else { Signal::SIGHUP })?;
                Ok(told)
            }
        }
    }

    /// Seconds of processor time that it has used.
    pub(super) fn spent(&self) -> Result<f64> {
        machine::process_seconds(&self.program.pid().to_string())
    }

    /// Anonymous memory in use, in bytes.
    pub(super) fn memory(&self) -> Result<f64> {
        machine::anonymous(self.program.pid())
    }

    /// Cuts its access log off; the lines that were in it.
    pub(super) fn cut_log(&self) -> Result<u64> {
        let mut file = OpenOptions::new().read(true).write(true).open(&self.log)?;
        let (mut lines, mut buffer) = (0, vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                some => lines += memchr::memchr_iter(b'\n', &buffer[..some]).count() as u64,
            }
        }
        file.set_len(0)?;
        Ok(lines)
    }

    pub(super) fn is_running(&mut self) -> Result<()> {
        match self.program.ended() {
            Some(status) => bail!("{} has ended ({status}): {}", self.who.name(), self.program.log()),
            None => Ok(()),
        }
    }
}

/// Writes what it is told.
fn write(who: Who, routes: Routes, dir: &Path, certificates: &Path, log: &Path) -> Result<()> {
    let ip = who.ip();
    match who {
        Who::Envoy => {
            let files =
                envoy::Files { certificates: certificates.to_owned(), log: log.to_owned(), routes: dir.join(ROUTES) };
            fs::write(&files.routes, envoy::watched(routes).to_string())?;
            fs::write(dir.join(CONFIG), envoy::bootstrap(ip, &files).to_string())?;
        }
        Who::Weft => fs::write(dir.join(CONFIG), serde_json::to_vec(&model::models(routes))?)?,
        Who::Nginx => {
            let master = routes != Routes::Few;
            fs::write(dir.join(CONFIG), nginx::file(ip, routes, dir, certificates, log, master))?;
        }
        Who::Haproxy => fs::write(dir.join(CONFIG), haproxy::file(ip, routes, certificates))?,
    }
    Ok(())
}

fn arguments(launch: Launch, who: Who, routes: Routes, dir: &Path, certificates: &Path) -> Launch {
    let config = dir.join(CONFIG);
    match who {
        Who::Envoy => {
            launch.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "--config-path"]).arg(config)
        }
        Who::Weft => {
            launch.args(["--ip", &who.ip().to_string(), "--models"]).arg(config).arg("--certificates").arg(certificates)
        }
        Who::Nginx => launch.args(["-e", "stderr", "-p"]).arg(dir).arg("-c").arg(config),
        // One that watches over the other, where it is to be told something.
        Who::Haproxy if routes != Routes::Few => launch.args(["-W", "-db", "-f"]).arg(config),
        Who::Haproxy => launch.args(["-db", "-f"]).arg(config),
    }
}

/// JSON is YAML, too; what Envoy reads is named after what it is.
const CONFIG: &str = "config.json";
const ROUTES: &str = "routes.json";

/// How often a change is looked for.
pub(super) const POLL: Duration = Duration::from_millis(1);
