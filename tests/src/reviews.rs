//! A service with a waypoint, for scenarios about requests: `web` on node a asks the Service `reviews`, port 80, whose versions
//! are pods on node b that answer with what they were asked.

use std::cell::Cell;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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
    markers: Cell<u32>,
}

/// A response, as curl printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The first line of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// What the backend was asked, when one answered.
    ///
    /// # Errors
    /// When none did.
    pub fn report(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no report of a backend: {self:?}"))
    }

    /// Who answered; empty: nobody.
    #[must_use]
    pub fn by(&self) -> &str {
        self.header("served-by").unwrap_or_default()
    }

    /// Values of a header that the backend was sent.
    ///
    /// # Errors
    /// When no backend answered.
    pub fn sent(&self, name: &str) -> Result<Vec<String>> {
        let report = self.report()?;
        let pairs = report["headers"].as_array().context("no headers")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(pairs.iter().filter(|pair| pair[0] == name).map(|pair| text(&pair[1])).collect())
    }
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
        let reviews = Reviews { web, versions: pods, backends, waypoint, mesh, markers: Cell::new(0) };
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
        let number = self.markers.get();
        self.markers.set(number + 1);
        let name = format!("mark-{number}");
        self.mesh.apply(
            "waypoint-marker",
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: \
                 gate}}}}, spec: {{clusterIP: None, clusterIPs: [None], selector: {{app: nobody}}, ports: [{{port: 9}}]}}}}"
            ),
        )?;
        self.waypoint.until_config("a marker", |config| {
            let models = config["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            models.iter().any(|model| model.to_string().contains(&format!("shop/{name}.")))
        })?;
        Ok(())
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
        let headers = headers.iter().flat_map(|header| ["--header", header]);
        let url = format!("http://{SERVICE}{path}");
        let common = [
            "--silent",
            "--show-error",
            "--globoff",
            "--path-as-is",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "--include",
        ];
        let said = self.web.command("curl").args(common).args(headers).args(more).arg(&url).stdout()?;
        answer(&said)
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

fn answer(said: &str) -> Result<Answer> {
    let (mut head, mut body) = said.split_once("\r\n\r\n").context("no end of a head")?;
    // Interim responses come before.
    while head.split(' ').nth(1).is_some_and(|status| status.starts_with('1')) && body.starts_with("HTTP/") {
        (head, body) = body.split_once("\r\n\r\n").context("no end of a head")?;
    }
    let mut lines = head.split("\r\n");
    let Some(status) = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok())
    else {
        bail!("no status in {said:?}");
    };
    let headers = lines.filter_map(|line| line.split_once(": ").or_else(|| line.split_once(':')));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Ok(Answer { status, headers, body: body.to_owned() })
}

/// Virtual address of `reviews`.
pub const SERVICE: &str = "10.96.0.7";
/// Virtual address of the waypoint.
pub const GATE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 9));
