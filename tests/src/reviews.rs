//! A service with a waypoint, for scenarios about requests: `web` on node a asks the Service `reviews`, port 80, whose versions
//! are pods on node b that answer with what they were asked.

use std::net::IpAddr;

use anyhow::Result;

use crate::answer::Answer;
use crate::apps;
use crate::mesh::{Mesh, Setup};
use crate::pod::Pod;
use crate::program::Program;
use crate::waypoint::Waypoint;

/// Fields are dropped in this order.
#[derive(Debug)]
pub struct Reviews {
    pub web: Pod,
    pub versions: Vec<Pod>,
    pub backends: Vec<Program>,
    pub waypoint: Waypoint,
    pub mesh: Mesh,
}

impl Reviews {
    /// Versions are named `v1` and so on, or `v1-b` for a second pod of one.
    ///
    /// # Errors
    /// When a part of it does not come up.
    pub fn open(name: &str, versions: &[&str]) -> Result<Reviews> {
        Reviews::with_setup(name, versions, Setup::default())
    }

    /// As [`open`](Reviews::open), with something not as usual.
    ///
    /// # Errors
    /// When a part of it does not come up.
    pub fn with_setup(name: &str, versions: &[&str], setup: Setup) -> Result<Reviews> {
        let mesh = Mesh::with_setup(name, &["a", "b"], setup)?;
        mesh.namespace("shop", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let pods = versions.iter().map(|version| {
            let label = version.split('-').next().unwrap_or(version);
            let plan = mesh.pod(&format!("reviews-{version}")).namespace("shop").service_account("reviews");
            mesh.enrolled(plan.label("app", "reviews").label("version", label), "b")
        });
        let pods: Vec<Pod> = pods.collect::<Result<_>>()?;
        let backends =
            pods.iter().zip(versions).map(|(pod, version)| apps::backend(pod, 8080, version)).collect::<Result<_>>()?;
        mesh.apply("reviews", &service(true))?;
        let waypoint = Waypoint::start(&mesh, "shop", "gate", "a", "service", GATE)?;
        for pod in pods.iter().chain([&web]) {
            mesh.until_captured(pod)?;
        }
        let reviews = Reviews { web, versions: pods, backends, waypoint, mesh };
        reviews.settle()?;
        Ok(reviews)
    }

    /// Writes rules in place of those before, and waits until the waypoint and all agents have them.
    ///
    /// # Errors
    /// When they do not.
    pub fn apply(&self, rules: &str) -> Result<()> {
        self.mesh.apply("rules", rules)?;
        self.settle()
    }

    /// Waits until the waypoint and all agents have all that was written before.
    ///
    /// # Errors
    /// When they do not.
    pub fn settle(&self) -> Result<()> {
        self.mesh.settle()?;
        self.waypoint.settle(&self.mesh)
    }

    /// `web` asks the service for `path`, with headers as `name: value`.
    ///
    /// # Errors
    /// When curl gets no response.
    pub fn ask(&self, path: &str, headers: &[&str]) -> Result<Answer> {
        self.request(path, headers, &[])
    }

    /// As [`ask`](Reviews::ask), with further arguments for curl.
    ///
    /// # Errors
    /// When curl gets no response.
    pub fn request(&self, path: &str, headers: &[&str], more: &[&str]) -> Result<Answer> {
        Answer::to(&self.web, &format!("http://{SERVICE}{path}"), headers, more)
    }

    /// Who answered each of `count` requests over few connections, and with what status: `v1 200` and the like.
    ///
    /// # Errors
    /// When curl fails.
    pub fn crowd(&self, path: &str, count: usize) -> Result<Vec<String>> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let url = format!("http://{SERVICE}{path}{joint}n=[1-{count}]");
        let said =
            self.web.command("curl").args(["--silent", "--noproxy", "*", "--max-time", "60", "--output", "/dev/null"]);
        let said = said.args(["--write-out", "%header{served-by} %{http_code}\\n"]).arg(&url).stdout()?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

/// The Service `reviews`, with its waypoint or without.
#[must_use]
pub fn service(waypoint: bool) -> String {
    let label = if waypoint { "labels: {istio.io/use-waypoint: gate}, " } else { "" };
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: reviews, namespace: shop, {label}creationTimestamp: \
         \"2026-01-01T00:00:00Z\"}}, spec: {{type: ClusterIP, clusterIP: {SERVICE}, clusterIPs: [{SERVICE}], selector: {{app: \
         reviews}}, ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp-redis, port: 6379, targetPort: 6379}}, \
         {{name: grpc, port: 9000, targetPort: 9000}}, {{name: other, port: 7000, targetPort: 7000}}]}}}}"
    )
}

/// The DestinationRule with a subset for each version.
#[must_use]
pub fn subsets(versions: &[&str]) -> String {
    let each = |version: &&str| format!("{{name: {version}, labels: {{version: {version}}}}}");
    let subsets: Vec<String> = versions.iter().map(each).collect();
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: reviews, namespace: shop}}, spec: {{host: \
         reviews, subsets: [{}]}}}}\n---\n",
        subsets.join(", ")
    )
}

/// A VirtualService for `reviews` with `http` in YAML's flow style: a list of rules.
#[must_use]
pub fn virtual_service(http: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: reviews, namespace: shop}}, spec: {{hosts: \
         [reviews], http: {http}}}}}\n---\n"
    )
}

/// Virtual address of `reviews`.
pub const SERVICE: &str = "10.96.0.7";
/// Virtual address of the waypoint.
pub const GATE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 9));
