//! The world of the demo: two nodes, five pods that run real programs, and a way to run commands in them.

use std::fs;

use anyhow::{Context, Result, bail};

use super::screen::Screen;
use crate::apps::{self, HTTP, IPERF, REDIS};
use crate::mesh::Mesh;
use crate::objects;
use crate::place::Place;
use crate::pod::Pod;
use crate::program::Program;

/// Programs are dropped before the mesh that they run in.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) web: Pod,
    pub(super) db: Pod,
    pub(super) site: Pod,
    pub(super) files: Pod,
    pub(super) bulk: Pod,
    pub(super) python: Program,
    pub(super) iperf3: Program,
    _redis: Program,
    _nginx: Program,
    pub(super) mesh: Mesh,
}

impl Stage {
    /// Brings everything up, outside of the mesh: the namespace carries no label.
    pub(super) fn set() -> Result<Stage> {
        let mesh = Mesh::with_nodes("demo", &["a", "b"])?;
        mesh.namespace(NAMESPACE, false)?;
        let pod = |name, node| mesh.enrolled(mesh.pod(name).namespace(NAMESPACE), node);
        let web = pod("web", "a")?;
        let [db, site, files, bulk] = [pod("db", "b")?, pod("site", "b")?, pod("files", "b")?, pod("bulk", "b")?];
        let (redis, nginx) = (apps::redis(&db)?, apps::nginx(&site, "hello from nginx")?);
        let (python, iperf3) = (apps::python_http(&files, PYTHON)?, apps::iperf3(&bulk)?);
        fs::write(files.dir().join("www/hello"), "hello from python\n")?;
        Ok(Stage { web, db, site, files, bulk, python, iperf3, _redis: redis, _nginx: nginx, mesh })
    }

    pub(super) fn pods(&self) -> [(&Pod, String); 5] {
        [
            (&self.web, "redis-cli, curl, iperf3".to_owned()),
            (&self.db, format!("redis-server on {REDIS}")),
            (&self.site, format!("nginx on {HTTP}")),
            (&self.files, format!("python3 -m http.server on {PYTHON}")),
            (&self.bulk, format!("iperf3 --server on {IPERF}")),
        ]
    }

    /// Replaces the namespace's file and shows what changed in it.
    pub(super) fn label(&self, screen: &Screen, in_mesh: bool) -> Result<()> {
        let file = self.mesh.source.file(&format!("namespace-{NAMESPACE}"));
        let before = fs::read_to_string(&file)?;
        self.mesh.namespace(NAMESPACE, in_mesh)?;
        screen.say(&format!("{}:", file.display()));
        screen.change(&before, &objects::namespace(NAMESPACE, in_mesh.then_some("weft")));
        Ok(())
    }

    /// Adds a file to the controller's folder and shows it.
    pub(super) fn apply(&self, screen: &Screen, name: &str, yaml: &str) -> Result<()> {
        screen.say(&format!("{}:", self.mesh.source.file(name).display()));
        screen.change("", yaml);
        self.mesh.apply(name, yaml)
    }
}

/// What a command said, both outputs.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) succeeded: bool,
    pub(super) text: String,
}

/// Runs a command at `place`, showing it and those lines of its output that `shown` picks.
pub(super) fn run(screen: &Screen, place: &Place, words: &[&str], shown: impl Fn(&str) -> bool) -> Result<Said> {
    let prompt = place.name().strip_prefix("shop-").unwrap_or(place.name());
    screen.command(prompt, words);
    let (program, arguments) = words.split_first().context("a command")?;
    // Proxies that this machine may be configured with are not reachable from a pod.
    let output = place.command(program).args(arguments).env("no_proxy", "*").output()?;
    let text = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    screen.quote(text.lines().map(str::trim_end).filter(|line| !line.is_empty() && shown(line)));
    Ok(Said { succeeded: output.status.success(), text })
}

/// As [`run`], for a command that has to succeed and to say `expected`.
pub(super) fn expect(
    screen: &Screen,
    place: &Place,
    words: &[&str],
    shown: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<String> {
    let said = run(screen, place, words, shown)?;
    if !said.succeeded || !said.text.contains(expected) {
        bail!("{} said {:?}, not {expected:?}", words.join(" "), said.text.trim());
    }
    Ok(said.text)
}

pub(super) fn all(_: &str) -> bool {
    true
}

pub(super) const NAMESPACE: &str = "shop";
pub(super) const PYTHON: u16 = 8000;
