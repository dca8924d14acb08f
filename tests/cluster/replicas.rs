//! Several controllers: one of them writes, all of them serve.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weft_tests::binaries;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::controller::{Controller, NAMESPACE};
use weft_tests::cluster::{Cluster, Write};
use weft_tests::wait::{PATIENCE, until};

use crate::{identity, manifests};

/// Beyond the time for which a Lease counts: whoever says nothing for so long is dead to the others.
const LEASE: Duration = Duration::from_secs(15);
const POLICIES: usize = 40;

#[test]
fn of_three_replicas_exactly_one_writes_while_leaders_die_and_hang_and_all_serve() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    prepare(api)?;
    let token = identity::token(api, NAMESPACE, "weft-node", Some(("Pod", "weft-node-a")), "istio-ca")?;
    let replicas = Replicas { cluster: &cluster, live: RwLock::default(), token, started: AtomicU64::new(0) };
    for _ in 0..3 {
        replicas.start()?;
    }
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| -> Result<()> {
        // Always something to write, and somebody who looks.
        let changes = scope.spawn(|| change(&cluster, &stop));
        let watched = scope.spawn(|| replicas.watch(&stop, &served));
        let story = (|| {
            replicas.settled("at the start")?;
            for round in ["first", "second"] {
                let leader = replicas.take_leader()?;
                leader.1.signal(Signal::SIGKILL)?;
                replicas.start()?;
                replicas.settled(&format!("after the {round} kill -9"))?;
            }
            // It hangs for longer than its Lease lasts, in the middle of its work, and then goes on.
            let (name, hung) = replicas.take_leader()?;
            hung.signal(Signal::SIGSTOP)?;
            replicas.settled("while one hangs")?;
            thread::sleep(Duration::from_secs(1));
            hung.signal(Signal::SIGCONT)?;
            ensure!(hung.metric("weft_leader", &[])? == 0.0, "who woke up believes that it leads");
            replicas.live.write().expect("no panic").push((name, hung));
            replicas.settled("after it woke up")
        })();
        stop.store(true, Ordering::Relaxed);
        let (changes, watched) = (changes.join().expect("no panic"), watched.join().expect("no panic"));
        story.and(watched).and(changes)
    })?;

    let writes = cluster.writes()?;
    let (by_leaders, leaders) = judge(&writes)?;
    println!(
        "figure: {by_leaders} writes by {leaders} leaders; {} certificates and lists in between",
        served.load(Ordering::Relaxed)
    );
    ensure!(leaders >= 4 && by_leaders > 100, "{by_leaders} writes by {leaders} leaders: too few to tell");
    Ok(())
}

/// Every write is by whoever wrote the Lease last. Yields their number, and that of leaders.
fn judge(writes: &[Write]) -> Result<(usize, usize)> {
    let (mut leader, mut leaders, mut count) = (None, 0, 0);
    for write in writes {
        let done = write.status < 300;
        if write.resource == "leases" {
            if done && leader != Some(&write.user) {
                leader = Some(&write.user);
                leaders += 1;
            }
        } else if write.resource != "secrets" && write.resource != "events" && !of_each(write) {
            ensure!(leader == Some(&write.user), "{write:?} while {leader:?} led");
            count += 1;
        }
    }
    Ok((count, leaders))
}

/// What every replica writes: how far its own agents are.
fn of_each(write: &Write) -> bool {
    write.resource == "configmaps" && write.name == "weft-agents"
}

fn prepare(api: &Api) -> Result<()> {
    identity::populate(api)?;
    api.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "replicas"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "name": "system:serviceaccounts", "apiGroup": "rbac.authorization.k8s.io"}],
    }))?;
    api.apply(&crate::source::definition("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"))?;
    until("the definition to be served", PATIENCE, || api.apply(&policy(0, 0)).is_ok().then_some(()))
}

fn policy(number: usize, version: u64) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("p{number}"), "namespace": "shop"},
        "spec": {"rules": [{"from": [{"source": {"namespaces": [format!("v{version}")]}}]}]},
    })
}

/// Changes what statuses follow from, and takes away what leaders keep.
fn change(cluster: &Cluster, stop: &AtomicBool) -> Result<()> {
    let api = Api::connect(cluster.kubeconfig())?;
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weft-ca-root", "namespace": NAMESPACE}});
    for version in 1_u64.. {
        for number in 0..POLICIES {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            api.apply(&policy(number, version))?;
            thread::sleep(Duration::from_millis(30));
        }
        if version % 5 == 0 && api.get(&map)?.is_some() {
            api.delete(&map)?;
        }
    }
    Ok(())
}

/// Controllers that run and answer; each has a name of its own to the API server.
struct Replicas<'a> {
    cluster: &'a Cluster,
    live: RwLock<Vec<(String, Controller)>>,
    /// Of node a's agent.
    token: String,
    started: AtomicU64,
}

impl Replicas<'_> {
    fn start(&self) -> Result<()> {
        let name = format!("replica-{}", self.started.fetch_add(1, Ordering::Relaxed));
        let user = format!("system:serviceaccount:{NAMESPACE}:{name}");
        let kubeconfig = self.cluster.kubeconfig_of(&user, "system:serviceaccounts")?;
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let start = || Controller::start(self.cluster, &name, &[&kubeconfig]).ok();
        // A role is in force a moment after it was accepted.
        let controller = until("the controller to start", 2 * PATIENCE, start)?;
        controller.wait_ready()?;
        self.live.write().expect("no panic").push((name, controller));
        Ok(())
    }

    /// The one that leads, which is no longer among the others.
    fn take_leader(&self) -> Result<(String, Controller)> {
        let mut live = self.live.write().expect("no panic");
        let leads =
            |replica: &(String, Controller)| replica.1.metric("weft_leader", &[]).is_ok_and(|leads| leads == 1.0);
        let at = live.iter().position(leads).context("one of them leads")?;
        Ok(live.remove(at))
    }

    /// Waits until one leads and has written what is to be written; all tell of what is new.
    fn settled(&self, when: &str) -> Result<()> {
        let begun = Instant::now();
        let api = Api::connect(self.cluster.kubeconfig())?;
        let leaders = || -> Result<f64> {
            let live = self.live.read().expect("no panic");
            live.iter().map(|(_, replica)| replica.metric("weft_leader", &[])).sum()
        };
        until(&format!("one leader {when}"), LEASE + PATIENCE, || leaders().is_ok_and(|n| n == 1.0).then_some(()))?;
        println!("figure: a leader {:.1} s {when}", begun.elapsed().as_secs_f64());

        let configuration = manifests::webhooks()?;
        if api.get(&configuration)?.is_some() {
            api.delete(&configuration)?;
        }
        api.apply(&configuration)?;
        let written =
            || api.get(&configuration).ok()??["webhooks"][0]["clientConfig"]["caBundle"].is_string().then_some(());
        until(&format!("caBundle {when}"), 2 * PATIENCE, written)?;
        // One that nothing changes: its status stays as it was written.
        let name = when.replace(' ', "-");
        let mut fresh = policy(0, 0);
        fresh["metadata"]["name"] = name.as_str().into();
        api.apply(&fresh)?;
        let said = || api.get(&fresh).ok()??["status"]["conditions"].is_array().then_some(());
        until(&format!("a status {when}"), 2 * PATIENCE, said)?;
        for (_, replica) in self.live.read().expect("no panic").iter() {
            replica.wait_resource(&format!("shop/{name}"), true)?;
        }
        Ok(())
    }

    /// No two say that they lead, and each of them issues certificates and lists what there is.
    fn watch(&self, stop: &AtomicBool, served: &AtomicU64) -> Result<()> {
        let runtime = Runtime::new()?;
        while !stop.load(Ordering::Relaxed) {
            let live = self.live.read().expect("no panic");
            let mut leading = BTreeMap::new();
            for (name, replica) in live.iter() {
                leading.insert(name.clone(), replica.metric("weft_leader", &[])?);
            }
            ensure!(leading.values().sum::<f64>() <= 1.0, "{leading:?}");
            for (name, replica) in live.iter() {
                let answer = runtime.block_on(identity::ask(replica, &self.token))?;
                answer.with_context(|| format!("{name} issues no certificate"))?;
                ensure!(replica.resources()?.contains("shop/p0"), "{name} does not tell");
                served.fetch_add(1, Ordering::Relaxed);
            }
            drop(live);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
