//! Where something runs: a network namespace and a cgroup.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use anyhow::Result;

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::program::{Launch, built};
use crate::run::Run;
use crate::sockets::Sockets;

/// A network namespace and a cgroup, in which programs and closures run.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    netns: Netns,
    cgroup: Cgroup,
    dir: PathBuf,
    logs: PathBuf,
    launched: Arc<AtomicUsize>,
    sockets: Arc<OnceLock<Sockets>>,
}

impl Place {
    /// A place of the run in `netns`, with the cgroup `cgroup` (a path inside the run's) and a directory for files.
    ///
    /// # Errors
    /// When cgroup or directory cannot be made.
    pub fn new(run: &Run, name: &str, netns: Netns, cgroup: &str) -> Result<Place> {
        let cgroup = run.cgroup().child(cgroup)?;
        let dir = run.dir().join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(Place {
            name: name.to_owned(),
            netns,
            cgroup,
            dir,
            logs: run.logs(),
            launched: Arc::default(),
            sockets: Arc::default(),
        })
    }

    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A directory for files of programs that run here.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command to run here: in this namespace and cgroup.
    pub fn command(&self, program: &str) -> Launch {
        let label = program.rsplit('/').next().unwrap_or(program);
        let number = self.launched.fetch_add(1, Ordering::Relaxed);
        let log = self.logs.join(format!("{}-{number}-{label}", self.name.replace('/', "-")));
        Launch::new(program, self.netns.clone(), &self.cgroup, log)
    }

    /// Connects as a program here would, with the socket in the test's hand.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.sockets().dial(to)
    }

    /// Listens on `port` of every address, IPv4 and IPv6, as a program here would.
    ///
    /// # Errors
    /// What `bind` says.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        self.sockets().listen(SocketAddr::from(([0; 16], port)))
    }

    /// Sockets that belong to this namespace and this cgroup.
    ///
    /// # Panics
    /// When the program that makes them has not been built.
    pub fn sockets(&self) -> &Sockets {
        self.sockets.get_or_init(|| {
            let lender = built("probe").map(|probe| self.command(&probe).arg("lend"));
            lender.and_then(Sockets::lent_by).unwrap_or_else(|error| panic!("lend sockets of {}: {error:#}", self.name))
        })
    }

    /// Calls `action` on a thread in this namespace and waits for it. Only the namespace: the thread stays in the test's
    /// cgroup, so eBPF on the pod's cgroup does not see sockets made here. For those, [`dial`](Place::dial) and
    /// [`listen`](Place::listen).
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        self.netns.run(action)
    }

    /// As [`run`](Place::run), beside the caller.
    pub fn begin<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.netns.begin(action)
    }
}
