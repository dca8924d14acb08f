//! Pods of a kubelet, found by the cgroups that it makes for them: those that ran before the agent did, and those that
//! nothing else told of.
//!
//! ```text
//! cgroup .../pod<uid>/<container>  ->  first process of its oldest container  ->  network namespace
//! control stream: uid -> namespace and name, addresses                        ->  whose pod that is
//! ```
//! Both halves have to agree before a namespace is taken for a pod's. The uid is the kubelet's and the API server's word;
//! what a pod can do within itself (another namespace inside, somebody else's address on its interface) changes neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::missing::Missing;
use super::{Command, Description, Manager, is_captured};
use crate::netns::Netns;

/// How often the cgroups are looked at. A pod that nothing else tells of is found within this time.
const LOOK: Duration = Duration::from_secs(1);
/// Levels of folders from the root down to a pod's: kubelets may be told to put theirs deeper.
const DEPTH: u32 = 8;

pub struct Kubelet {
    pub cgroup_root: PathBuf,
    pub node: Arc<str>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub commands: mpsc::Sender<Command>,
    pub roll: Roll,
    pub missing: Missing,
}

/// The kubelet's pods that the pods' manager was told of, shared with the CNI plugin's socket, which is told of a pod before
/// there is a process to find it by.
#[derive(Clone, Debug, Default)]
pub struct Roll(Arc<Mutex<BTreeMap<Arc<str>, By>>>);

/// Who told of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Plugin(Instant),
    Holder(Holder),
}

/// How long after the plugin told of it a pod need not have a process: its start may take that long.
const START: Duration = Duration::from_secs(180);

impl Roll {
    /// The plugin tells of a pod; a process by which it was found before counts no more.
    pub fn announce(&self, uid: &Arc<str>) {
        self.lock().insert(uid.clone(), By::Plugin(Instant::now()));
    }

    /// Takes out the pods that are gone: those not in `found`.
    fn take_gone(&self, found: &BTreeMap<Arc<str>, Holder>, now: Instant) -> Vec<Arc<str>> {
        let is_gone = |uid: &Arc<str>, by: &By| match by {
            _ if found.contains_key(uid) => false,
            By::Holder(_) => true,
            By::Plugin(at) => now.saturating_duration_since(*at) > START,
        };
        let mut roll = self.lock();
        let gone: Vec<Arc<str>> =
            roll.iter().filter(|(uid, by)| is_gone(uid, by)).map(|(uid, _)| uid.clone()).collect();
        roll.retain(|uid, _| !gone.contains(uid));
        gone
    }

    fn has(&self, uid: &Arc<str>, holder: Holder) -> bool {
        self.lock().get(uid) == Some(&By::Holder(holder))
    }

    fn found(&self, uid: &Arc<str>, holder: Holder) {
        self.lock().insert(uid.clone(), By::Holder(holder));
    }

    fn uids(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, By>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process by which a pod's namespace is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    /// In clock ticks after the machine's start. First, so that the oldest is the least.
    started: u64,
    pid: u32,
}

impl Kubelet {
    /// Tells of pods as they come and go, for as long as somebody listens.
    pub async fn run(mut self) {
        let own = match Netns::current() {
            Ok(own) => own,
            Err(error) => return warn!(%error, "the node's own namespace cannot be opened; no pods are looked for"),
        };
        let mut settled = false;
        let mut seen = BTreeSet::new();
        while !self.commands.is_closed() {
            let root = self.cgroup_root.clone();
            let found = tokio::task::spawn_blocking(move || scan(&root)).await.unwrap_or_default();
            let snapshot = self.snapshot.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                if self.tell(&snapshot, &found, &own, &mut seen).await.is_none() {
                    return;
                }
                if !settled {
                    settled = true;
                    let _ = self.commands.send(Command::Settle(Manager::Kubelet, self.roll.uids())).await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = self.snapshot.changed() => if changed.is_err() { return },
            }
        }
    }

    /// None when nobody listens any more. `seen` are the pods that were found once: one of these that has no process is about to
    /// end, or to be started anew, and not missing.
    async fn tell(
        &self,
        snapshot: &Snapshot,
        found: &BTreeMap<Arc<str>, Holder>,
        own: &Netns,
        seen: &mut BTreeSet<Arc<str>>,
    ) -> Option<()> {
        seen.extend(self.roll.uids());
        let (mut absent, mut ours) = (Vec::new(), BTreeSet::new());
        for uid in self.roll.take_gone(found, Instant::now()) {
            info!(pod_uid = %uid, "pod gone");
            let (reply, _) = oneshot::channel();
            self.commands.send(Command::Remove(uid, reply)).await.ok()?;
        }
        let here = snapshot.workloads().filter(|w| w.node == self.node && !w.pod_uid.is_empty() && !w.host_network);
        for workload in here {
            let uid = &workload.pod_uid;
            ours.insert(uid.clone());
            // One without an address has no network yet.
            let expected = is_captured(workload) && !workload.addresses.is_empty() && !seen.contains(uid);
            let mut missing = |why: String| {
                if expected {
                    absent.push((uid.clone(), workload.uid.clone(), why));
                }
            };
            let Some(holder) = found.get(uid) else {
                missing(format!("no process of it below {}", self.cgroup_root.display()));
                continue;
            };
            if self.roll.has(&workload.pod_uid, *holder) {
                continue;
            }
            let netns = match namespace_of(*holder, workload, own) {
                Ok(netns) => netns,
                Err(why) => {
                    debug!(pod = %workload.uid, why, "not the pod's namespace");
                    missing(why);
                    continue;
                }
            };
            info!(pod = %workload.uid, netns_cookie = netns.cookie().0, "pod found");
            self.roll.found(&workload.pod_uid, *holder);
            let description = Description {
                uid: workload.pod_uid.clone(),
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                service_account: None,
                netns,
                manager: Manager::Kubelet,
            };
            let (reply, _) = oneshot::channel();
            self.commands.send(Command::Add(description, reply)).await.ok()?;
        }
        seen.retain(|uid| ours.contains(uid));
        for lost in self.missing.replace(absent, Instant::now()) {
            let (pod, why, seconds) = (&lost.workload, lost.why, lost.seconds);
            warn!(%pod, why, seconds, "a pod that should be in the mesh is not found; the agent is ready without it");
        }
        Some(())
    }
}

/// The namespace of `holder`, if it is the pod's by the address that the control plane has for it; or why it is not.
fn namespace_of(holder: Holder, workload: &Workload, own: &Netns) -> Result<Netns, String> {
    let pid = holder.pid;
    let path = format!("/proc/{pid}/ns/net");
    let opened = Netns::open(&path).map_err(|error| format!("open {path}: {error}"))?;
    // The number may have been another process's by the time it was opened.
    if started(pid) != Some(holder.started) {
        return Err(format!("process {pid}, by which it was found, has ended"));
    }
    if opened.cookie() == own.cookie() {
        return Err(format!("process {pid}, by which it was found, is in the node's own network namespace"));
    }
    let addresses = opened.addresses().map_err(|error| format!("read the addresses in {path}: {error}"))?;
    if !workload.addresses.iter().any(|address| addresses.contains(address)) {
        return Err(format!("{path} has addresses {addresses:?}, the control plane {:?}", workload.addresses));
    }
    Ok(opened)
}

/// Every pod below `root` that has a process to find its namespace by.
fn scan(root: &Path) -> BTreeMap<Arc<str>, Holder> {
    let mut pods = Vec::new();
    find(root, DEPTH, &mut pods);
    pods.into_iter().filter_map(|(uid, folder)| Some((uid, holder_below(&folder)?))).collect()
}

fn find(folder: &Path, depth: u32, pods: &mut Vec<(Arc<str>, PathBuf)>) {
    for child in folders(folder) {
        match child.file_name().and_then(|name| pod_uid(name.to_str()?)) {
            Some(uid) => pods.push((uid.into(), child)),
            None if depth > 0 => find(&child, depth - 1, pods),
            None => {}
        }
    }
}

fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// The uid in the name of a pod's cgroup: `pod<uid>` by the cgroupfs driver, `kubepods-<class>-pod<uid>.slice` with
/// underscores by systemd's, which has hyphens mean levels.
fn pod_uid(folder: &str) -> Option<String> {
    let uid = match folder.strip_suffix(".slice") {
        Some(slice) if slice.starts_with("kubepods") => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        Some(_) => return None,
        None => folder.strip_prefix("pod")?.to_owned(),
    };
    // RFC 4122's text form.
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let hexadecimal = uid.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
    (groups == [8, 4, 4, 4, 12] && hexadecimal).then_some(uid)
}

/// The first process of the pod's oldest container, which is the one that holds the pod's namespaces: the runtime starts
/// it before the others. Only a container's first process is looked at, because any other could have been put into a
/// namespace of its own by the pod itself.
fn holder_below(pod: &Path) -> Option<Holder> {
    let mut folders = vec![pod.to_owned()];
    let mut oldest: Option<Holder> = None;
    while let Some(folder) = folders.pop() {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            if is_first(&status)
                && let Some(started) = started(pid)
            {
                let holder = Holder { started, pid };
                oldest = Some(oldest.map_or(holder, |oldest| oldest.min(holder)));
            }
        }
        folders.extend(self::folders(&folder));
    }
    oldest
}

/// Whether `/proc/<pid>/status` is of the first process of a namespace right below ours: NSpid has its number here, and 1
/// there, and no further one.
fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| {
        let mut numbers = numbers.split_whitespace();
        numbers.next().is_some() && numbers.next() == Some("1") && numbers.next().is_none()
    })
}

/// Field 22 of `/proc/<pid>/stat`; the second may hold blanks and brackets itself.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_cgroup_is_known_by_its_name_with_both_drivers() {
        let uid = "0a1b2c3d-1111-2222-3333-444455556666";
        assert_eq!(pod_uid(&format!("pod{uid}")).as_deref(), Some(uid));
        let underscored = uid.replace('-', "_");
        for class in ["kubepods", "kubepods-burstable", "kubepods-besteffort"] {
            assert_eq!(pod_uid(&format!("{class}-pod{underscored}.slice")).as_deref(), Some(uid), "{class}");
        }
        for other in [
            "kubepods",
            "kubepods.slice",
            "kubepods-burstable.slice",
            "pod",
            "podman",
            "system-pod0a1b2c3d_1111_2222_3333_444455556666.slice",
            "pod0a1b2c3d-1111-2222-3333-44445555666g",
            "cri-containerd-0a1b.scope",
        ] {
            assert_eq!(pod_uid(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_first_process_of_a_container_holds_a_namespace() {
        assert!(is_first("Name:\tpause\nNSpid:\t4242\t1\n"));
        assert!(!is_first("NSpid:\t4242\t7\n"), "started later in the container");
        assert!(!is_first("NSpid:\t4242\t30\t1\n"), "first in a namespace that the pod made within itself");
        assert!(!is_first("NSpid:\t1\n"), "in our own namespace");
        assert!(!is_first("Name:\tpause\n"));
    }

    #[test]
    fn a_pod_that_the_plugin_told_of_is_not_gone_before_its_first_process() {
        let (roll, uid, holder) = (Roll::default(), Arc::from("u1"), Holder { started: 1, pid: 2 });
        let (nobody, somebody) = (BTreeMap::new(), BTreeMap::from([(Arc::clone(&uid), holder)]));
        let now = Instant::now();
        roll.found(&uid, holder);
        assert!(roll.has(&uid, holder));
        // Its sandbox is made anew: the processes are gone, and the pod is not.
        roll.announce(&uid);
        assert!(!roll.has(&uid, holder));
        assert_eq!(roll.take_gone(&nobody, now), []);
        assert_eq!(roll.take_gone(&somebody, now + 2 * START), []);
        assert_eq!(roll.take_gone(&nobody, now + 2 * START), std::slice::from_ref(&uid), "it never started");
        roll.found(&uid, holder);
        assert_eq!(roll.take_gone(&nobody, now), std::slice::from_ref(&uid));
        assert_eq!(roll.uids(), []);
    }

    #[test]
    fn a_process_has_the_time_of_its_start() {
        assert!(started(std::process::id()).is_some());
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn pods_are_found_however_deep_their_kubelet_puts_them() {
        let root = tempfile::tempdir().unwrap();
        let uid = |n: u32| format!("0a1b2c3d-1111-2222-3333-{n:012}");
        for path in [
            format!("kubepods/pod{}", uid(1)),
            format!("kubepods/burstable/pod{}/container", uid(2)),
            format!("kubelet.slice/kubelet-kubepods.slice/kubepods-besteffort-pod{}.slice", uid(3).replace('-', "_")),
            "system.slice/sshd.service".to_owned(),
        ] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let mut pods = Vec::new();
        find(root.path(), DEPTH, &mut pods);
        let mut uids: Vec<String> = pods.into_iter().map(|(uid, _)| uid.to_string()).collect();
        uids.sort();
        assert_eq!(uids, [uid(1), uid(2), uid(3)]);
        assert!(scan(root.path()).is_empty(), "nobody lives in them");
    }
}
