//! The plugin's socket: which pod is about to start, and is it in the mesh?

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_cni::packet::{Answer, MOST, Pod, Request};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Uid;
use mesh_net::control::ControlStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::meshed;
use crate::connections::Connections;
use crate::netns::Netns;
use crate::pods::kubelet::Roll;
use crate::pods::{Command, Description, Manager, PodsView, SUPERSEDED, Standing};
use crate::socket::packet;

/// How long the control plane may take to tell of a pod that kubelet has heard of. After that, and at once while there is no
/// stream, a pod of a namespace that has none in the mesh is not kept waiting.
const HEARD: Duration = Duration::from_secs(3);
/// Between attempts at what failed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a pod's network may be kept for what its connections have still to say.
const LAST: Duration = Duration::from_secs(1);
/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Server {
    pub socket: PathBuf,
    pub cluster_id: String,
    pub commands: mpsc::Sender<Command>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub status: ControlStatus,
    pub views: watch::Receiver<PodsView>,
    pub connections: Connections,
    pub roll: Roll,
    pub requests: Requests,
}

/// Requests by what came of them.
#[derive(Clone, Debug, Default)]
pub struct Requests(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

impl Requests {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_cni_requests", "Requests of the CNI plugin, by outcome", self.0.clone());
    }

    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&Labels { outcome }).inc();
    }
}

impl Server {
    /// Serves for as long as the agent runs: requests come in on a thread of its own, and are answered in the runtime.
    ///
    /// # Errors
    /// The socket cannot be made, or the process may have no more threads.
    pub fn start(self) -> io::Result<()> {
        let (listener, runtime) = (bound(&self.socket)?, Handle::current());
        std::thread::Builder::new().name("cni-requests".to_owned()).spawn(move || {
            while !self.commands.is_closed() {
                match listener.accept().and_then(|(plugin, _)| Ok((received(&plugin)?, plugin))) {
                    Ok((request, plugin)) => drop(runtime.spawn(self.clone().serve(request, plugin))),
                    Err(error) => {
                        warn!(%error, "a request of the CNI plugin");
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        })?;
        Ok(())
    }

    async fn serve(self, (request, netns): (Request, Netns), plugin: Socket) {
        let answer = match request {
            Request::Add { pod, milliseconds } => self.add(pod, netns, Duration::from_millis(milliseconds)).await,
            Request::Delete { pod } => self.delete(pod, netns).await,
        };
        // Without an answer the plugin asks again: there may be another agent by then.
        let Some(answer) = answer else { return };
        self.requests.count(match answer {
            Answer::Enrolled => "enrolled",
            Answer::Outside => "outside",
            Answer::Deleted => "deleted",
            Answer::Failed(_) => "failed",
        });
        // The plugin waits for this one packet, or has been given up by the runtime.
        let sent = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|answer| plugin.send(&answer));
        if let Err(error) = sent {
            warn!(%error, "answer the CNI plugin");
        }
    }

    /// None when another agent has the pods.
    async fn add(&self, pod: Pod, netns: Netns, limit: Duration) -> Option<Answer> {
        if Netns::current().is_ok_and(|own| own.cookie() == netns.cookie()) {
            return Some(Answer::Failed("its network namespace is the node's own".to_owned()));
        }
        let (begun, cookie) = (Instant::now(), netns.cookie());
        let deadline = begun + limit;
        let uid: Arc<str> = pod.uid.as_str().into();
        self.roll.announce(&uid);
        let description = Description {
            uid: uid.clone(),
            namespace: pod.namespace.as_str().into(),
            name: pod.name.as_str().into(),
            service_account: None,
            netns,
            manager: Manager::Kubelet,
        };
        loop {
            let (reply, answer) = oneshot::channel();
            self.commands.send(Command::Add(description.clone(), reply)).await.ok()?;
            let why = tokio::select! {
                answer = answer => match answer.ok()? {
                    Ok(Standing::Enrolled) => {
                        let waited = begun.elapsed();
                        info!(namespace = pod.namespace, pod = pod.name, ?waited, "a new pod may start, enrolled");
                        return Some(Answer::Enrolled);
                    }
                    Ok(Standing::Outside) => return Some(Answer::Outside),
                    Err(why) if why == SUPERSEDED => return None,
                    Err(why) => why,
                },
                () = self.is_nobodys(&pod, begun) => {
                    // It is found as those that run are, should it be in the mesh after all.
                    let (reply, _) = oneshot::channel();
                    self.commands.send(Command::Leave(uid, cookie, reply)).await.ok()?;
                    return Some(Answer::Outside);
                }
                () = sleep_until(deadline) => self.waits_for(&uid),
            };
            if Instant::now() + PAUSE >= deadline {
                warn!(namespace = pod.namespace, pod = pod.name, why, "a new pod cannot be enrolled");
                return Some(Answer::Failed(why));
            }
            sleep(PAUSE).await;
        }
    }

    async fn delete(&self, pod: Pod, netns: Netns) -> Option<Answer> {
        let cookie = netns.cookie();
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Leave(pod.uid.into(), cookie, reply)).await.ok()?;
        if let Err(why) = answer.await.ok()? {
            return if why == SUPERSEDED { None } else { Some(Answer::Failed(why)) };
        }
        // Its processes have ended, so each of its connections has little left to say.
        let deadline = Instant::now() + LAST;
        while self.connections.of_pod(cookie) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        Some(Answer::Deleted)
    }

    /// Waits until a pod that the control plane does not tell of can be taken for none of the mesh's.
    async fn is_nobodys(&self, pod: &Pod, begun: Instant) {
        loop {
            if let Some(snapshot) = self.snapshot.borrow().clone() {
                let workload = snapshot.workload(&Uid::pod(&self.cluster_id, &pod.namespace, &pod.name));
                let is_told = workload.is_some_and(|workload| *workload.pod_uid == *pod.uid);
                let is_late = begun.elapsed() >= HEARD || !self.status.view().connected;
                if is_late && !is_told && !meshed::is_meshed(&snapshot, &pod.namespace) {
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    fn waits_for(&self, uid: &str) -> String {
        let view = self.views.borrow();
        let why = view.pods.iter().find(|pod| *pod.uid == *uid).and_then(|pod| pod.waiting_for.clone());
        why.map_or_else(|| "it was not enrolled in time".to_owned(), |why| format!("it waits for {why}"))
    }
}

fn bound(path: &Path) -> io::Result<Socket> {
    // Aside and then into its place, so that there is no moment without a socket while one agent follows another.
    let aside = path.with_extension("new");
    let _ = std::fs::remove_file(&aside);
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    listener.bind(&SockAddr::unix(&aside)?)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    listener.listen(128)?;
    std::fs::rename(&aside, path)?;
    Ok(listener)
}

/// The one packet of a connection.
fn received(plugin: &Socket) -> io::Result<(Request, Netns)> {
    plugin.set_read_timeout(Some(REQUEST))?;
    let mut buffer = [0; MOST];
    let (length, mut descriptors) = packet::receive(plugin.as_fd(), &mut buffer)?;
    let netns = descriptors.pop().map(Netns::from_fd).transpose()?;
    let netns = netns.ok_or_else(|| io::Error::other("it came without a network namespace"))?;
    Ok((serde_json::from_slice(&buffer[..length])?, netns))
}
