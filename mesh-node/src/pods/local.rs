//! The agent's own socket: `mesh-node enrol` and `withdraw` on hosts without a pod manager.
//!
//! One request a connection: a line of JSON each way. What was enrolled is kept in a file, so that an agent that starts
//! knows the pods of the one before it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tracing::{info, warn};

use super::{Command, Description, Manager, PodsView, Standing};
use crate::netns::Netns;

/// Name of the socket in the agent's run directory.
pub const SOCKET: &str = "node.sock";
/// Longest request, in bytes: two paths and two names.
const MAX_REQUEST: u64 = 16 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Enrol(Registration),
    Withdraw { namespace: String, name: String },
}

/// A pod of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    pub namespace: String,
    pub name: String,
    /// `None`: the account that the control plane knows the workload by.
    pub service_account: Option<String>,
    pub netns: PathBuf,
    /// The pod's cgroup v2 folder; checked to lie where the hooks are.
    pub cgroup: Option<PathBuf>,
    /// In the mesh whatever its label says.
    pub always: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    /// Known, and not in the mesh yet.
    Waiting(String),
    Failed(String),
}

/// Sends a request to the agent at `socket` and waits for its answer.
///
/// # Errors
/// No agent listens there, or it went away.
pub async fn ask(socket: &Path, request: &Request, deadline: Duration) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        serde_json::from_str(&answer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    };
    tokio::time::timeout(deadline, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

pub struct Local {
    pub socket: PathBuf,
    pub cgroup_root: PathBuf,
    /// Where registrations are kept.
    pub record: PathBuf,
    pub commands: mpsc::Sender<Command>,
    /// What is known of the pods, to say why one waits.
    pub views: watch::Receiver<PodsView>,
    /// How long an answer may take.
    pub deadline: Duration,
}

type Registrations = BTreeMap<String, Registration>;

impl Local {
    /// Brings back what was registered, then serves requests for as long as the agent runs.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn run(self) -> io::Result<()> {
        let registrations = Arc::new(Mutex::new(self.restore().await));
        // In the place of the predecessor's, without a moment in which there is none.
        let beside = self.socket.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, &self.socket)?;
        let this = Arc::new(self);
        loop {
            let (stream, _) = listener.accept().await?;
            let (this, registrations) = (this.clone(), registrations.clone());
            tokio::spawn(async move {
                if let Err(error) = this.serve(stream, &registrations).await {
                    warn!(%error, "request on the local socket");
                }
            });
        }
    }

    async fn serve(&self, mut stream: UnixStream, registrations: &Mutex<Registrations>) -> io::Result<()> {
        let mut line = String::new();
        let (read, mut write) = stream.split();
        BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await?;
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => self.answer(request, registrations).await,
            Err(error) => Answer::Failed(format!("request not understood: {error}")),
        };
        let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        text.push(b'\n');
        write.write_all(&text).await
    }

    async fn answer(&self, request: Request, registrations: &Mutex<Registrations>) -> Answer {
        match request {
            Request::Enrol(registration) => {
                if let Err(why) = self.check_cgroup(&registration) {
                    return Answer::Failed(why);
                }
                let key = key(&registration.namespace, &registration.name);
                let uid = key.clone();
                let reply = match self.add(&registration).await {
                    Ok(reply) => reply,
                    Err(why) => return Answer::Failed(why),
                };
                registrations.lock().await.insert(key, registration);
                self.keep(&*registrations.lock().await);
                match tokio::time::timeout(self.deadline, reply).await {
                    Ok(Ok(Ok(Standing::Enrolled | Standing::Outside))) => Answer::Done,
                    Ok(Ok(Err(why))) => Answer::Waiting(why),
                    Ok(Err(_)) => Answer::Failed("the agent is stopping".to_owned()),
                    Err(_) => Answer::Waiting(self.waits_for(&uid)),
                }
            }
            Request::Withdraw { namespace, name } => {
                let uid = key(&namespace, &name);
                let (reply, answer) = oneshot::channel();
                if self.commands.send(Command::Remove(uid.as_str().into(), reply)).await.is_err() {
                    return Answer::Failed("the agent is stopping".to_owned());
                }
                registrations.lock().await.remove(&uid);
                self.keep(&*registrations.lock().await);
                match answer.await {
                    Ok(Ok(())) => Answer::Done,
                    Ok(Err(why)) => Answer::Failed(why),
                    Err(_) => Answer::Failed("the agent is stopping".to_owned()),
                }
            }
        }
    }

    fn waits_for(&self, uid: &str) -> String {
        let view = self.views.borrow();
        let why = view.pods.iter().find(|pod| *pod.uid == *uid).and_then(|pod| pod.waiting_for.clone());
        why.map_or_else(|| format!("not enrolled within {:?}", self.deadline), |why| format!("it waits for {why}"))
    }

    async fn add(&self, r: &Registration) -> Result<oneshot::Receiver<Result<Standing, String>>, String> {
        let netns = open_netns(&r.netns)?;
        let description = Description {
            uid: key(&r.namespace, &r.name).into(),
            namespace: r.namespace.as_str().into(),
            name: r.name.as_str().into(),
            service_account: r.service_account.as_deref().map(Into::into),
            netns,
            manager: if r.always { Manager::Always } else { Manager::Label },
        };
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Add(description, reply)).await.map_err(|_| "the agent is stopping".to_owned())?;
        Ok(answer)
    }

    fn check_cgroup(&self, r: &Registration) -> Result<(), String> {
        let Some(cgroup) = &r.cgroup else { return Ok(()) };
        let full = |path: &Path| path.canonicalize().map_err(|e| format!("cgroup {}: {e}", path.display()));
        let (cgroup, root) = (full(cgroup)?, full(&self.cgroup_root)?);
        if !cgroup.starts_with(&root) {
            return Err(format!(
                "cgroup {} is not below {}, where the hooks are: the pod's connections would not be captured; start the \
                 agent with another --cgroup-root",
                cgroup.display(),
                root.display()
            ));
        }
        Ok(())
    }

    /// Registers what the file says; a pod whose namespace is gone is left out.
    async fn restore(&self) -> Registrations {
        let mut restored = Registrations::new();
        let text = match std::fs::read(&self.record) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.settle(restored).await,
            Err(error) => {
                warn!(%error, file = %self.record.display(), "read the registrations; pods must be enrolled anew");
                return restored;
            }
        };
        let kept: Registrations = match serde_json::from_slice(&text) {
            Ok(kept) => kept,
            Err(error) => {
                warn!(%error, file = %self.record.display(), "read the registrations; pods must be enrolled anew");
                return restored;
            }
        };
        for (key, registration) in kept {
            match self.add(&registration).await {
                Ok(_later) => {
                    info!(pod = key, "registered by an earlier agent");
                    restored.insert(key, registration);
                }
                Err(why) => info!(pod = key, why, "registered by an earlier agent and gone since"),
            }
        }
        self.settle(restored).await
    }

    /// Everything that this socket knows has been told: what the kernel holds beyond it can go.
    async fn settle(&self, restored: Registrations) -> Registrations {
        let uids: Vec<Arc<str>> = restored.keys().map(|k| k.as_str().into()).collect();
        let _ = self.commands.send(Command::Settle(Manager::Label, uids)).await;
        restored
    }

    fn keep(&self, registrations: &Registrations) {
        let written = serde_json::to_vec_pretty(registrations).map_err(io::Error::other).and_then(|text| {
            let beside = self.record.with_extension("new");
            std::fs::write(&beside, text)?;
            std::fs::rename(&beside, &self.record)
        });
        if let Err(error) = written {
            warn!(%error, file = %self.record.display(), "keep the registrations; after a restart pods must be enrolled anew");
        }
    }
}

fn open_netns(path: &Path) -> Result<Netns, String> {
    let path_text = path.display();
    let netns = Netns::open(path).map_err(|error| match error.raw_os_error() {
        // setns(2) on a descriptor of something else.
        Some(libc::EINVAL) => format!("{path_text} is no network namespace"),
        _ => format!("open the namespace {path_text}: {error}"),
    })?;
    if Netns::current().is_ok_and(|own| own.cookie() == netns.cookie()) {
        return Err(format!("{path_text} is the node's own network namespace, which cannot be a pod's"));
    }
    Ok(netns)
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
