//! The sample applications of the pages, in a mesh with a waypoint for each of their namespaces that has one.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::Mesh;
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::reviews::GATE;
use weft_tests::tokens::Issuer;
use weft_tests::waypoint::Waypoint;

/// One pod, labelled `app` and `version`.
pub(super) struct App {
    pub(super) app: &'static str,
    /// None: a client alone.
    pub(super) version: &'static str,
    pub(super) namespace: &'static str,
    pub(super) account: &'static str,
    pub(super) node: &'static str,
    pub(super) serves: Serves,
}

/// What runs in a pod, and on which port.
pub(super) enum Serves {
    Nothing,
    Http(u16),
    /// The version is said to who connects, on each port.
    Greets(&'static [u16]),
    /// Over gRPC on 9000; over HTTP, as the path says, on 8080.
    Authorizes,
}

/// Fields are dropped in this order.
pub(super) struct Stage {
    pub(super) programs: BTreeMap<String, Vec<Program>>,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) waypoint: Waypoint,
    pub(super) mesh: Mesh,
    /// Of tokens; its keys stand for `${KEYS}` in fixtures.
    pub(super) issuer: Issuer,
    services: Vec<Service>,
}

struct Service {
    names: [String; 2],
    ip: IpAddr,
    ports: Vec<u64>,
}

impl Stage {
    /// A mesh of `nodes` with the namespaces and services of the fixture `services`, and these pods; the waypoint is that of
    /// `namespace`, on the first node.
    pub(super) fn open(name: &str, nodes: &[&str], services: &str, namespace: &str, apps: &[App]) -> Result<Stage> {
        let mesh = Mesh::with_nodes(name, nodes)?;
        let text = fixture(services)?;
        mesh.apply("services", &text)?;
        let (mut pods, mut programs) = (BTreeMap::new(), BTreeMap::new());
        for app in apps {
            let pod = app.pod(&mesh)?;
            programs.insert(pod.name.clone(), app.start(&pod)?);
            pods.insert(pod.name.clone(), pod);
        }
        let waypoint = Waypoint::start(&mesh, namespace, "waypoint", nodes[0], "service", GATE)?;
        for pod in pods.values().filter(|pod| pod.namespace != OUTSIDE) {
            mesh.until_captured(pod)?;
        }
        let services = serde_saphyr::from_multiple::<Value>(&text)?.iter().filter_map(Service::of).collect();
        waypoint.settle(&mesh)?;
        Ok(Stage { programs, pods, waypoint, mesh, issuer: Issuer::new()?, services })
    }

    /// Writes these fixtures in place of those before, and waits until they are in force.
    pub(super) fn apply(&self, files: &[&str]) -> Result<()> {
        let texts: Vec<String> = files.iter().map(|file| fixture(file)).collect::<Result<_>>()?;
        let text = texts.join("\n---\n").replace("${KEYS}", &self.issuer.keys().to_string());
        self.mesh.apply("rules", &text)?;
        self.waypoint.settle(&self.mesh)
    }

    /// # Panics
    /// When there is none.
    pub(super) fn pod(&self, name: &str) -> &Pod {
        self.pods.get(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Virtual address of a service.
    pub(super) fn ip(&self, name: &str) -> Result<IpAddr> {
        let service = self.services.iter().find(|service| service.names.iter().any(|own| own == name));
        service.map(|service| service.ip).with_context(|| format!("no service {name}"))
    }

    /// What curl is told in place of a name server.
    pub(super) fn names(&self) -> Vec<String> {
        let each = |service: &Service| {
            let pairs = service.names.iter().flat_map(|name| service.ports.iter().map(move |port| (name, port)));
            let words = pairs.map(|(name, port)| ["--resolve".to_owned(), format!("{name}:{port}:{}", service.ip)]);
            words.flatten().collect::<Vec<_>>()
        };
        self.services.iter().flat_map(each).collect()
    }
}

impl App {
    fn pod(&self, mesh: &Mesh) -> Result<Pod> {
        let name = if self.version.is_empty() { self.app.to_owned() } else { format!("{}-{}", self.app, self.version) };
        let name = if mesh.source.file(&format!("pod-{}-{name}", self.namespace)).exists() {
            format!("{name}-{}", self.node)
        } else {
            name
        };
        let plan = mesh.pod(&name).namespace(self.namespace).service_account(self.account);
        mesh.enrolled(plan.label("app", self.app).label("version", self.version), self.node)
    }

    fn start(&self, pod: &Pod) -> Result<Vec<Program>> {
        match &self.serves {
            Serves::Nothing => Ok(Vec::new()),
            Serves::Http(port) => Ok(vec![apps::backend(pod, *port, &pod.name)?]),
            Serves::Greets(ports) => {
                ports.iter().map(|port| apps::probe(pod, "greet", *port, &["--greeting", self.version])).collect()
            }
            Serves::Authorizes => Ok(vec![apps::authorizer(pod, 9000)?, apps::backend(pod, 8080, &pod.name)?]),
        }
    }
}

impl Service {
    fn of(object: &Value) -> Option<Service> {
        let name = object["metadata"]["name"].as_str().filter(|_| object["kind"] == "Service")?;
        let namespace = object["metadata"]["namespace"].as_str()?;
        let ports = object["spec"]["ports"].as_array()?.iter().filter_map(|port| port["port"].as_u64()).collect();
        let ip = object["spec"]["clusterIP"].as_str()?.parse().ok()?;
        Some(Service { names: [name.to_owned(), format!("{name}.{namespace}")], ip, ports })
    }
}

/// The file `tests/fixtures/tasks/<name>.yaml`.
fn fixture(name: &str) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tasks").join(name).with_extension("yaml");
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// The namespace that is in no mesh.
pub(super) const OUTSIDE: &str = "legacy";
