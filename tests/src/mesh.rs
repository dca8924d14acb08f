//! A mesh: the controller on the wire, an agent on every node, objects in a folder.
//!
//! ```text
//! let mesh = Mesh::with_nodes("opt_in", &["a", "b"])?;
//! mesh.namespace("shop", true)?;
//! let (web, db) = (mesh.pod("web").namespace("shop"), mesh.pod("db").namespace("shop"));
//! let (web, db) = (mesh.enrolled(web, "a")?, mesh.enrolled(db, "b")?);
//! ```

mod admin;
mod agent;
mod setup;

use std::env;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::knock::Knocking;
use crate::objects::{self, Source};
use crate::pod::{Pod, PodPlan};
use crate::program::{Launch, Output, Program, built};
use crate::topology::Topology;
use crate::wait::{PATIENCE, until};

use admin::{AGENT_ADMIN, get, rows};
pub(crate) use admin::{admin_of, wait_ready};
pub use agent::Agent;
pub use setup::Setup;

/// A running mesh. Fields are dropped in this order: agents first, the world last.
#[derive(Debug)]
pub struct Mesh {
    pub agents: Vec<Agent>,
    pub controller: Program,
    pub source: Source,
    pub world: Topology,
    /// Holds for what is started from now on.
    pub setup: Setup,
    markers: AtomicUsize,
}

impl Mesh {
    /// Starts controller and agents, and waits until all are ready.
    ///
    /// # Errors
    /// When one does not come up, with the end of its log.
    pub fn with_nodes(name: &str, nodes: &[&str]) -> Result<Mesh> {
        Mesh::with_setup(name, nodes, Setup::default())
    }

    /// As [`with_nodes`](Mesh::with_nodes), with something not as usual.
    ///
    /// # Errors
    /// When one does not come up, with the end of its log.
    pub fn with_setup(name: &str, nodes: &[&str], setup: Setup) -> Result<Mesh> {
        let world = Topology::with_nodes(name, nodes)?;
        let source = Source::new(world.run().dir())?;
        for node in world.nodes() {
            source.apply(&format!("node-{}", node.name), &objects::node(&node.name, node.v4, node.v6))?;
        }
        let tokens: Vec<String> = nodes.iter().map(|node| format!("{node}: {}\n", token(node))).collect();
        fs::write(world.run().dir().join("tokens"), tokens.concat())?;

        let mut controller = controller(&world, &source, &setup)?.start()?;
        wait_ready(world.wire(), &mut controller, CONTROLLER_ADMIN)?;
        let mut mesh = Mesh { agents: Vec::new(), controller, source, world, setup, markers: AtomicUsize::new(0) };
        for node in nodes {
            let agent = mesh.start_agent(node)?;
            mesh.agents.push(agent);
        }
        Ok(mesh)
    }

    /// Starts an agent on `node`, also a second one, or one after a crash; it finds the pins of the one before.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_agent(&self, node: &str) -> Result<Agent> {
        let mut agent = self.launch_agent(node)?;
        wait_ready(self.world.node(node), &mut agent.program, AGENT_ADMIN)?;
        Ok(agent)
    }

    /// As [`start_agent`](Mesh::start_agent), without waiting until it is ready.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn launch_agent(&self, node: &str) -> Result<Agent> {
        let place = self.world.node(node);
        let token_file = place.dir().join("token");
        fs::write(&token_file, token(node))?;
        let run_dir = place.dir().join("run");
        let pins = self.world.run().bpffs().join(node);
        fs::create_dir_all(&run_dir)?;
        fs::create_dir_all(&pins)?;
        let [controller, _] = self.world.controller_ips();
        let address = format!("{controller}:{CONTROL}");
        let pods = self.world.run().cgroup().child(&place.pods_cgroup())?;
        let root = self.world.wire().dir().join("ctrl/root-cert.pem");
        let launch = match self.setup.through.split_first() {
            Some((command, arguments)) => place.command(command).args(arguments).arg(built("mesh-node")?),
            None => place.command(&built("mesh-node")?),
        };
        let launch = launch
            .env("NODE_NAME", node)
            // Nobody else has translated addresses here.
            .env("SAME_NODE_SERVICES_SECONDS", "0")
            .env("XDS_ADDRESS", &address)
            .env("XDS_ROOT_CA", &root)
            .env("CA_ADDRESS", &address)
            .env("CA_ROOT_CA", &root)
            .env("AUTH_TOKEN_FILE", &token_file)
            .env("CGROUP_ROOT", pods.dir())
            .env("AGENT_CGROUP", place.cgroup().dir())
            .env("PIN_DIR", &pins)
            .env("RUN_DIR", &run_dir)
            .env("ADMIN_ADDRESS", format!("127.0.0.1:{AGENT_ADMIN}"))
            .env("LOG_FORMAT", "json")
            .env("LOG_LEVEL", "info,mesh_node=debug,mesh_net=debug");
        let launch = transport().iter().fold(launch, |launch, value| launch.env("TRANSPORT", value));
        let launch = self.setup.agent.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        let own = self.setup.agent_of.iter().filter(|(name, ..)| name == node);
        let launch = own.fold(launch, |launch, (_, name, value)| launch.env(name, value));
        let core = self.setup.cores.iter().find(|(name, _)| name == node);
        let launch = core.map(|(_, core)| *core).into_iter().fold(launch, Launch::on_core);
        Ok(Agent { program: launch.start()?, node: node.to_owned(), run_dir })
    }

    /// Starts the controller again after it was ended; agents find it by themselves.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_controller(&mut self) -> Result<()> {
        self.controller = controller(&self.world, &self.source, &self.setup)?.start()?;
        wait_ready(self.world.wire(), &mut self.controller, CONTROLLER_ADMIN)
    }

    /// Replaces the file `<name>.yaml` in the controller's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.source.apply(name, yaml)
    }

    /// Writes a namespace, in the mesh or not.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn namespace(&self, name: &str, in_mesh: bool) -> Result<()> {
        self.apply(&format!("namespace-{name}"), &objects::namespace(name, in_mesh.then_some("weft")))
    }

    /// A pod to be made.
    pub fn pod(&self, name: &str) -> PodPlan<'_> {
        self.world.pod(name)
    }

    /// Makes the pod on `node`, describes it to the controller and tells the agent of it. Whether it is in the mesh is up to
    /// its namespace; [`until_config`](Mesh::until_config) waits for that.
    ///
    /// # Errors
    /// What a step said.
    pub fn enrolled(&self, plan: PodPlan<'_>, node: &str) -> Result<Pod> {
        let pod = plan.on(self.world.node(node))?;
        self.apply(&format!("pod-{}-{}", pod.namespace, pod.name), &objects::pod(&pod))?;
        self.enrol(&pod)?;
        Ok(pod)
    }

    /// Runs `mesh-node enrol` for the pod.
    ///
    /// # Errors
    /// What it said.
    pub fn enrol(&self, pod: &Pod) -> Result<String> {
        self.enrolment(pod)?.stdout()
    }

    /// As [`enrol`](Mesh::enrol), with everything that the command said.
    ///
    /// # Errors
    /// When it does not end.
    pub fn enrol_output(&self, pod: &Pod) -> Result<Output> {
        self.enrolment(pod)?.output()
    }

    fn enrolment(&self, pod: &Pod) -> Result<Launch> {
        let command = self.agent_command(pod, "enrol")?;
        let command = command.arg("--netns").arg(pod.netns().path()).arg("--cgroup").arg(pod.cgroup().dir());
        Ok(command.args(["--identity-of", &format!("{}/{}", pod.namespace, pod.name)]))
    }

    /// Runs `mesh-node withdraw` for the pod.
    ///
    /// # Errors
    /// What it said.
    pub fn withdraw(&self, pod: &Pod) -> Result<String> {
        self.agent_command(pod, "withdraw")?.arg(format!("{}/{}", pod.namespace, pod.name)).stdout()
    }

    /// The agent of `node`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn agent(&self, node: &str) -> &Agent {
        self.agents.iter().find(|agent| agent.node == node).unwrap_or_else(|| panic!("no agent on {node}"))
    }

    /// What the agent of `node` serves at `path` of its admin endpoint, such as `/config` or `/metrics`.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub fn admin(&self, node: &str, path: &str) -> Result<String> {
        get(self.world.node(node), AGENT_ADMIN, path)
    }

    /// As [`admin`](Mesh::admin), of an agent that serves it on another port.
    ///
    /// # Errors
    /// When it does not answer 200; the text has the status and what it said.
    pub fn admin_at(&self, node: &str, port: u16, path: &str) -> Result<String> {
        get(self.world.node(node), port, path)
    }

    /// Rows of the agent's `/connections`: those of the list `carried`, or `outside`.
    ///
    /// # Errors
    /// When there is no such list.
    pub fn connections(&self, node: &str, list: &str) -> Result<Vec<Value>> {
        rows(&self.admin(node, "/connections")?, list)
    }

    /// As [`connections`](Mesh::connections), of an agent that serves them on another port.
    ///
    /// # Errors
    /// When there is no such list.
    pub fn connections_at(&self, node: &str, port: u16, list: &str) -> Result<Vec<Value>> {
        rows(&self.admin_at(node, port, "/connections")?, list)
    }

    /// What the controller serves at `path` of its monitoring endpoint.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub fn controller_admin(&self, path: &str) -> Result<String> {
        get(self.world.wire(), CONTROLLER_ADMIN, path)
    }

    /// Waits until the agent of `node` believes what `holds` looks for in its `/config`.
    ///
    /// # Errors
    /// When it never does; with what it believes.
    pub fn until_config(&self, node: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let mut last = String::new();
        let waited = until(&format!("{what} at node {node}"), PATIENCE, || {
            last = self.admin(node, "/config").unwrap_or_else(|error| error.to_string());
            holds(&serde_json::from_str(&last).ok()?).then_some(())
        });
        waited.with_context(|| format!("it believes {last}"))
    }

    /// Waits until `node` captures the pod's connections, and every agent knows that it takes tunnels.
    ///
    /// # Errors
    /// When one does not, with what it believes.
    pub fn until_captured(&self, pod: &Pod) -> Result<()> {
        let is_pod = |entry: &Value| entry["name"] == *pod.name && entry["namespace"] == *pod.namespace;
        let any = |list: &Value, holds: &dyn Fn(&Value) -> bool| {
            list.as_array().is_some_and(|list| list.iter().any(|entry| is_pod(entry) && holds(entry)))
        };
        self.until_config(&pod.node, &format!("{} captured", pod.name), |config| {
            any(&config["pods"], &|entry| entry["state"] == "enrolled")
        })?;
        for Agent { node, .. } in &self.agents {
            self.until_config(node, &format!("{} in the mesh", pod.name), |config| {
                any(&config["workloads"], &|entry| entry["tunnel"] == "hbone")
            })?;
        }
        Ok(())
    }

    /// Waits until every agent has all that was written before. What was written reaches agents in order, but addresses
    /// and policies apart, so one object of each goes after it.
    ///
    /// # Errors
    /// When one does not, with what it believes.
    pub fn settle(&self) -> Result<()> {
        let number = self.markers.fetch_add(1, Ordering::Relaxed);
        let (policy, service) = (format!("policy-{number}"), format!("service-{number}"));
        let policy_yaml = objects::security(
            "AuthorizationPolicy",
            MARKERS,
            &policy,
            "{action: DENY, rules: [{to: [{operation: {ports: [\"9\"]}}]}]}",
        );
        let service_yaml = objects::service(MARKERS, &service, &[], "nothing", &[(9, 9)]);
        self.apply("markers", &format!("{policy_yaml}---\n{service_yaml}"))?;
        for Agent { node, .. } in &self.agents {
            self.until_config(node, &format!("marker {number}"), |config| {
                let has = |list: &Value, name: &str| {
                    list.as_array().is_some_and(|list| {
                        list.iter().any(|entry| entry["name"] == *name || entry["key"]["name"] == *name)
                    })
                };
                has(&config["policies"], &policy) && has(&config["services"], &service)
            })?;
        }
        Ok(())
    }

    /// Ends all of `loops`.
    ///
    /// # Errors
    /// When a request was not answered: all of these, and what the agents have on record that did not end well.
    pub fn none_failed(&self, loops: impl IntoIterator<Item = Knocking>) -> Result<()> {
        let ended: Vec<Result<u64>> = loops.into_iter().map(Knocking::none_failed).collect();
        let failed: Vec<String> = ended.iter().filter_map(|r| r.as_ref().err().map(|e| format!("{e:#}"))).collect();
        println!("answered: {:?}", ended.iter().flatten().collect::<Vec<_>>());
        if failed.is_empty() {
            return Ok(());
        }
        let unhappy: Vec<String> = self.agents.iter().map(Agent::ended_badly).collect();
        bail!("{}\n{}", failed.join("\n"), unhappy.concat())
    }

    fn agent_command(&self, pod: &Pod, verb: &str) -> Result<Launch> {
        let run_dir = &self.agent(&pod.node).run_dir;
        Ok(self.world.node(&pod.node).command(&built("mesh-node")?).arg(verb).arg("--run-dir").arg(run_dir))
    }
}

fn controller(world: &Topology, source: &Source, setup: &Setup) -> Result<Launch> {
    let state = world.wire().dir().join("ctrl");
    fs::create_dir_all(&state)?;
    let [v4, v6] = world.controller_ips();
    Ok(world
        .wire()
        .command(&built("mesh-ctrl")?)
        .arg("--source")
        .arg(format!("dir:{}", source.dir().display()))
        .args(["--listen", &format!("[::]:{CONTROL}"), "--monitoring", &CONTROLLER_ADMIN.to_string()])
        .args(["--server-name", &format!("{v4},{v6}")])
        .arg("--state-dir")
        .arg(state)
        .arg("--tokens")
        .arg(world.run().dir().join("tokens"))
        .args(&setup.controller))
}

/// Long enough to be accepted; as secret as a test needs.
#[must_use]
pub fn token(node: &str) -> String {
    format!("token-of-node-{node}-in-a-test")
}

/// What all programs carry streams by, in place of their default: `WEFT_TEST_TRANSPORT=hbone cargo xtask test mesh`.
#[must_use]
pub fn transport() -> Option<String> {
    env::var("WEFT_TEST_TRANSPORT").ok()
}

/// Namespace of [`Mesh::settle`]'s objects.
const MARKERS: &str = "markers";
/// Where the controller listens, beside its [`Topology::controller_ips`].
pub const CONTROL: u16 = 15012;
const CONTROLLER_ADMIN: u16 = 15014;
