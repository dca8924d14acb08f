//! A waypoint in a mesh: a Gateway, a Service, and one instance of the program in a pod of its own.

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::mesh::{CONTROL, Mesh, admin_of, token, transport, wait_ready};
use crate::objects;
use crate::pod::Pod;
use crate::program::{Program, built};
use crate::wait::{PATIENCE, until};

/// Within which lines of the access log are written, and then some.
const LOG_PAUSE: Duration = Duration::from_millis(200);

/// A running instance.
#[derive(Debug)]
pub struct Waypoint {
    pub program: Program,
    pub pod: Pod,
    pub name: String,
    markers: AtomicU32,
}

impl Waypoint {
    /// Describes the Gateway `name` of `namespace`, and starts one instance of it on `node`. `serves` is its
    /// `istio.io/waypoint-for`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(mesh: &Mesh, namespace: &str, name: &str, node: &str, serves: &str, ip: IpAddr) -> Result<Waypoint> {
        let pod = mesh
            .pod(name)
            .namespace(namespace)
            .label("gateway.networking.k8s.io/gateway-name", name)
            .label("istio.io/dataplane-mode", "none")
            .on(mesh.world.node(node))?;
        mesh.apply(&format!("pod-{namespace}-{name}"), &objects::pod(&pod))?;
        mesh.apply(
            &format!("waypoint-{namespace}-{name}"),
            &format!(
                "{}---\n{}",
                objects::service(namespace, name, &[ip], name, &[(15008, 15008)]),
                gateway(namespace, name, serves)
            ),
        )?;
        let program = launch(mesh, &pod, name)?;
        Ok(Waypoint { program, pod, name: name.to_owned(), markers: AtomicU32::default() })
    }

    /// What it serves at `path` of its admin endpoint.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub fn admin(&self, path: &str) -> Result<String> {
        admin_of(&self.pod, path)
    }

    /// Lines of its access log, oldest first: of all that has been asked by now.
    #[must_use]
    pub fn accesses(&self) -> Vec<Value> {
        thread::sleep(LOG_PAUSE);
        let log = self.program.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "access").collect()
    }

    /// Waits until all agents and this waypoint have all that was written before: a service of its own goes after it.
    ///
    /// # Errors
    /// When they do not.
    pub fn settle(&self, mesh: &Mesh) -> Result<()> {
        mesh.settle()?;
        let number = self.markers.fetch_add(1, Ordering::Relaxed);
        let (namespace, gate) = (&self.pod.namespace, &self.name);
        let marker = format!("mark-{number}");
        mesh.apply(
            "waypoint-marker",
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {marker}, namespace: {namespace}, labels: \
                 {{istio.io/use-waypoint: {gate}}}}}, spec: {{clusterIP: None, clusterIPs: [None], selector: {{app: nobody}}, \
                 ports: [{{port: 9}}]}}}}"
            ),
        )?;
        self.until_config("a marker", |config| {
            let models = config["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            models.iter().any(|model| model.to_string().contains(&format!("{namespace}/{marker}.")))
        })?;
        Ok(())
    }

    /// Waits until its `/config` has what `holds` looks for.
    ///
    /// # Errors
    /// When it never does; with what it has.
    pub fn until_config(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let waited = until(&format!("{what} at waypoint {}", self.name), PATIENCE, || {
            last = serde_json::from_str(&self.admin("/config").ok()?).ok()?;
            holds(&last).then(|| last.clone())
        });
        waited.map_err(|error| error.context(format!("it has {last:#}")))
    }
}

/// Starts an instance in `pod`, also a second one, and waits until it is ready.
///
/// # Errors
/// When it does not come up.
pub fn launch(mesh: &Mesh, pod: &Pod, name: &str) -> Result<Program> {
    let token_file = pod.dir().join("token");
    fs::write(&token_file, token(&pod.node))?;
    let [controller, _] = mesh.world.controller_ips();
    let launch = pod
        .command(&built("mesh-waypoint")?)
        .env("GATEWAY_NAME", name)
        .env("POD_NAMESPACE", &pod.namespace)
        .env("POD_NAME", &pod.name)
        .env("SERVICE_ACCOUNT", &pod.service_account)
        .env("NODE_NAME", &pod.node)
        .env("XDS_ADDRESS", format!("{controller}:{CONTROL}"))
        .env("XDS_ROOT_CA", mesh.world.wire().dir().join("ctrl/root-cert.pem"))
        .env("AUTH_TOKEN_FILE", &token_file)
        .env("LOG_FORMAT", "json")
        .env("LOG_LEVEL", "info,mesh_waypoint=debug,mesh_net=debug");
    let launch = transport().iter().fold(launch, |l, value| l.env("TRANSPORT", value));
    let launch = mesh.setup.waypoint.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let mut program = launch.start()?;
    wait_ready(pod, &mut program, 15000)?;
    Ok(program)
}

/// The Gateway of a waypoint.
#[must_use]
pub fn gateway(namespace: &str, name: &str, serves: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         labels:\n    istio.io/waypoint-for: {serves}\nspec:\n  gatewayClassName: weft-waypoint\n  listeners:\n  \
         - name: mesh\n    port: 15008\n    protocol: HBONE\n"
    )
}
