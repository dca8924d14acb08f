//! Who gets which certificates: agents by their service accounts' tokens, and one root for all replicas.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mesh_core::identity::SpiffeId;
use mesh_net::ca::{CaClient, CaError, Config};
use mesh_net::svid::KeyPair;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::controller::{Controller, NAMESPACE};
use weft_tests::wait::{PATIENCE, until};

/// A token of `account` for `audience`, bound to an object as kind and name.
pub(crate) fn token(
    api: &Api,
    namespace: &str,
    account: &str,
    bound: Option<(&str, &str)>,
    audience: &str,
) -> Result<String> {
    let mut spec = json!({"audiences": [audience], "expirationSeconds": 600});
    if let Some((kind, name)) = bound {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        if kind != "Node" {
            object["metadata"]["namespace"] = namespace.into();
        }
        let uid = api.get(&object)?.context("what it is bound to")?["metadata"]["uid"].clone();
        spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid});
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer = api.post(&path, &request)?;
    Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
}

/// Nodes a and b, with an agent each, and the pod shop/web on node a.
pub(crate) fn populate(api: &Api) -> Result<()> {
    api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
    for node in ["a", "b"] {
        api.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}))?;
        api.apply(&pod(&format!("weft-node-{node}"), NAMESPACE, "weft-node", node))?;
    }
    api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))?;
    api.apply(&pod("web", "shop", "web", "a"))?;
    for (namespace, account) in [(NAMESPACE, "weft-node"), ("shop", "web"), ("shop", "weft-node")] {
        let metadata = json!({"name": account, "namespace": namespace});
        api.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))?;
    }
    Ok(())
}

/// Nodes a and b with an agent each, and the pod shop/web on node a.
struct Mesh {
    runtime: Runtime,
    controller: Controller,
    cluster: Cluster,
}

impl Mesh {
    fn start(cluster: Cluster) -> Result<Mesh> {
        let controller = Controller::start(&cluster, "controller", &[])?;
        let mesh = Mesh { runtime: Runtime::new()?, controller, cluster };
        populate(mesh.cluster.api())?;
        mesh.controller.wait_ready()?;
        Ok(mesh)
    }

    /// A token of `account` for `audience`, bound to `pod` as a projected one is.
    fn token(&self, namespace: &str, account: &str, pod: Option<&str>, audience: &str) -> Result<String> {
        let pod = pod.map(|name| ("Pod", name));
        token(self.cluster.api(), namespace, account, pod, audience)
    }

    /// Asks for a certificate of shop/web with `token`.
    fn ask(&self, token: &str) -> Result<Result<usize, CaError>> {
        self.runtime.block_on(ask(&self.controller, token))
    }

    fn refused(&self, token: &str, words: &str, reason: &str) -> Result<()> {
        let metric = || self.controller.metric("weft_access_refused_total", &[&format!("reason=\"{reason}\"")]);
        let before = metric()?;
        let error = self.ask(token)?.err().with_context(|| format!("a certificate although {words}"))?;
        ensure!(error.to_string().contains(words), "{error} does not say {words}");
        ensure!(metric()? == before + 1.0, "no refusal with reason {reason}: {}", self.controller.log());
        Ok(())
    }
}

/// Asks for a certificate of shop/web with `token`.
pub(crate) async fn ask(controller: &Controller, token: &str) -> Result<Result<usize, CaError>> {
    let target = controller.target("token", token)?;
    let web = SpiffeId::new("cluster.local", "shop", "web")?;
    let csr = KeyPair::generate()?.csr_pem(&web)?;
    let client = CaClient::new(Config::new(target, "Kubernetes"))?;
    Ok(client.sign(csr, &web, Duration::from_secs(3600)).await.map(|chain| chain.len()))
}

/// Calls once with `token`, whatever comes of it.
pub(crate) fn call_with(controller: &Controller, token: &str) -> Result<()> {
    Runtime::new()?.block_on(ask(controller, token)).map(drop)
}

#[test]
fn an_agents_token_gets_identities_of_its_own_node_and_every_other_token_nothing() -> Result<()> {
    let mesh = Mesh::start(Cluster::of_test(&binaries!())?)?;
    let (of_a, of_b) = (Some("weft-node-a"), Some("weft-node-b"));
    let agent = mesh.token(NAMESPACE, "weft-node", of_a, "istio-ca")?;
    ensure!(mesh.ask(&agent)??.ge(&2), "a leaf and its root");

    let other = mesh.ask(&mesh.token(NAMESPACE, "weft-node", of_b, "istio-ca")?)?.unwrap_err();
    ensure!(other.to_string().contains("no workload with identity") && other.to_string().contains("node b"), "{other}");

    mesh.refused(
        &mesh.token(NAMESPACE, "weft-node", of_a, "elsewhere")?,
        "not made for audience istio-ca",
        "audience",
    )?;
    mesh.refused(
        &mesh.token("shop", "web", Some("web"), "istio-ca")?,
        "neither an agent's nor a waypoint's",
        "account",
    )?;
    mesh.refused(&mesh.token(NAMESPACE, "weft-node", None, "istio-ca")?, "bound to no pod", "unbound")?;
    // Bound to the node itself, and not to a pod on it.
    let of_node = token(mesh.cluster.api(), NAMESPACE, "weft-node", Some(("Node", "a")), "istio-ca")?;
    mesh.refused(&of_node, "bound to no pod", "unbound")?;
    // An account of the agent's name, elsewhere.
    mesh.cluster.api().apply(&pod("weft-node-a", "shop", "weft-node", "a"))?;
    let namesake = mesh.token("shop", "weft-node", of_a, "istio-ca")?;
    mesh.refused(&namesake, "neither an agent's nor a waypoint's", "account")?;
    mesh.refused(&expired(&mesh)?, "the token has expired", "expired")?;
    let mut forged = agent.clone();
    forged.truncate(agent.len() - 8);
    mesh.refused(&format!("{forged}AAAAAAAA"), "is no node's", "unknown_token")?;
    mesh.refused("token-of-node-a-0123456789", "is no node's", "unknown_token")?;

    // With its pod the token goes, as soon as the answer about it is no longer believed.
    ensure!(mesh.ask(&agent)?.is_ok());
    mesh.cluster.api().delete(&pod("weft-node-a", NAMESPACE, "weft-node", "a"))?;
    let gone = until("the token of a deleted pod to be refused", 2 * PATIENCE, || {
        mesh.ask(&agent).is_ok_and(|answer| answer.is_err()).then_some(())
    });
    gone.with_context(|| mesh.controller.log())?;
    // Nor does it come back with a pod of the same name, whose own token is good.
    mesh.cluster.api().apply(&pod("weft-node-a", NAMESPACE, "weft-node", "a"))?;
    ensure!(mesh.ask(&mesh.token(NAMESPACE, "weft-node", of_a, "istio-ca")?)?.is_ok(), "{}", mesh.controller.log());
    ensure!(mesh.ask(&agent)?.is_err(), "the token of a pod that is gone speaks for its successor");
    Ok(())
}

/// What the token of node a's agent would be an hour after its end.
fn expired(mesh: &Mesh) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let object = |kind: &str, name: &str| {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
        let found = mesh.cluster.api().get(&object)?.context("it is there")?;
        anyhow::Ok(json!({"name": name, "uid": found["metadata"]["uid"]}))
    };
    let claims = |end: u64| {
        anyhow::Ok(json!({
            "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["istio-ca"],
            "sub": format!("system:serviceaccount:{NAMESPACE}:weft-node"),
            "iat": now - 7200, "nbf": now - 7200, "exp": end,
            "kubernetes.io": {
                "namespace": NAMESPACE, "serviceaccount": object("ServiceAccount", "weft-node")?,
                "pod": object("Pod", "weft-node-a")?,
            },
        }))
    };
    // The same token with its end ahead is good: nothing else is wrong with the one that is returned. It does not name
    // its node, so this is also the way by the pod.
    ensure!(mesh.ask(&mesh.cluster.token_of(&claims(now + 600)?)?)?.is_ok(), "{}", mesh.controller.log());
    mesh.cluster.token_of(&claims(now - 3600)?)
}

#[test]
fn three_replicas_agree_on_one_root_and_one_of_them_leads_also_after_kill_9() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let start = |name| Controller::start(&cluster, name, &[]);
    let (one, (two, three)) = std::thread::scope(|scope| {
        let (two, three) = (scope.spawn(|| start("two")), scope.spawn(|| start("three")));
        (start("one"), (two.join().expect("no panic"), three.join().expect("no panic")))
    });
    let mut replicas = vec![one?, two?, three?];
    let roots: BTreeSet<String> =
        replicas.iter().map(|r| fs::read_to_string(r.state().join("root-cert.pem"))).collect::<Result<_, _>>()?;
    ensure!(roots.len() == 1, "{} roots", roots.len());
    let root = roots.first().context("one")?;

    let leaders = |replicas: &[Controller]| -> Result<Vec<usize>> {
        let mut leaders = Vec::new();
        for (number, replica) in replicas.iter().enumerate() {
            if replica.metric("weft_leader", &[])? == 1.0 {
                leaders.push(number);
            }
        }
        Ok(leaders)
    };
    let elected = |replicas: &[Controller], within| {
        until("one leader", within, || leaders(replicas).ok().filter(|leaders| leaders.len() == 1).map(|l| l[0]))
    };
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weft-ca-root", "namespace": NAMESPACE}});
    let published = || {
        let what = "the roots to be in the ConfigMap";
        until(what, PATIENCE, || {
            let found = cluster.api().get(&map).ok().flatten()?;
            (found["data"]["root-cert.pem"].as_str() == Some(root)).then_some(())
        })
    };
    let leader = elected(&replicas, PATIENCE)?;
    published()?;

    replicas.remove(leader).signal(Signal::SIGKILL)?;
    cluster.api().delete(&map)?;
    // A Lease is 15 s.
    let begun = std::time::Instant::now();
    let next = elected(&replicas, 2 * PATIENCE)?;
    println!("figure: another leader {:.1} s after kill -9", begun.elapsed().as_secs_f64());
    published()?;

    // Asked to end, a leader gives the Lease back: nobody has to wait for it.
    let begun = std::time::Instant::now();
    replicas.remove(next).signal(Signal::SIGTERM)?;
    elected(&replicas, PATIENCE)?;
    let after = begun.elapsed();
    println!("figure: another leader {:.1} s after SIGTERM", after.as_secs_f64());
    ensure!(after < Duration::from_secs(8), "the Lease was not given back");
    Ok(())
}

pub(crate) fn pod(name: &str, namespace: &str, account: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": node, "serviceAccountName": account, "containers": [{"name": "app", "image": "localhost/app:1"}],
        },
    })
}
