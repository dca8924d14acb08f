//! Pages of docs/, word by word: what a user copies is what runs here, and what the page shows has to come of it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::binaries::Binaries;
use weft_tests::node_binaries;

const QUICK_START: &str = include_str!("../../docs/quickstart.md");
const LIBRARY: &str = include_str!("../../docs/library.md");

#[test]
fn every_command_of_the_quick_start_does_what_the_page_says() -> Result<()> {
    let binaries = node_binaries!();
    let cluster = begin(&binaries)?;
    ensure!(follow(QUICK_START, &cluster, &binaries)? >= 5);
    Ok(())
}

#[test]
fn every_command_of_the_library_does_what_the_page_says() -> Result<()> {
    let binaries = node_binaries!();
    let cluster = begin(&binaries)?;
    // It begins where Weft is installed.
    let (install, _) = QUICK_START.split_once("## Into the mesh").context("the quick start installs first")?;
    follow(install, &cluster, &binaries)?;
    ensure!(follow(LIBRARY, &cluster, &binaries)? >= 4);
    Ok(())
}

/// Two nodes with names, and Weft's images.
fn begin(binaries: &Binaries) -> Result<Cluster> {
    let mut cluster = Cluster::of_test_with_nodes(binaries, 2)?;
    cluster.start_dns(binaries)?;
    cluster.import_weft(&["mesh-ctrl", "mesh-node", "mesh-waypoint"])?;
    Ok(cluster)
}

/// Runs every command of a page; yields after how many blocks of them the page shows something, all of which came.
fn follow(page: &str, cluster: &Cluster, binaries: &Binaries) -> Result<usize> {
    let path = format!("{}:{}", std::env::var("PATH")?, binaries.nodes()?.display());
    let steps = steps(page);
    ensure!(!steps.is_empty(), "no command is on the page");
    let mut so_far = String::new();
    for step in &steps {
        let output = Command::new("sh")
            .args(["-ec", &format!("exec 2>&1\n{}", step.commands)])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("PATH", &path)
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        write!(so_far, "$ {}\n{said}\n", step.commands.trim())?;
        ensure!(output.status.success(), "{}\n{so_far}", output.status);
        comes(&said, &step.shown).with_context(|| so_far.clone())?;
    }
    Ok(steps.iter().filter(|step| !step.shown.is_empty()).count())
}

/// A block of commands, and the lines that the page shows after it.
#[derive(Debug, Default)]
struct Step {
    commands: String,
    shown: Vec<String>,
}

/// The blocks of `sh`, each with the block of `text` that follows it, if one does.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block = None;
    for line in page.lines() {
        match (block, line.strip_prefix("```")) {
            (Some(_), Some(_)) => block = None,
            (None, Some(kind)) => {
                block = Some(kind);
                if kind == "sh" {
                    steps.push(Step::default());
                }
            }
            (Some("sh"), None) => {
                if let Some(step) = steps.last_mut() {
                    step.commands += line;
                    step.commands.push('\n');
                }
            }
            (Some("text"), None) => {
                if let Some(step) = steps.last_mut() {
                    step.shown.push(line.to_owned());
                }
            }
            (_, None) => {}
        }
    }
    steps
}

/// Whether the lines are in `said`, in their order.
fn comes(said: &str, shown: &[String]) -> Result<()> {
    let mut rest = said;
    for line in shown {
        let at = rest.find(line.as_str()).with_context(|| format!("{line:?} is not said"))?;
        rest = &rest[at + line.len()..];
    }
    Ok(())
}

#[test]
fn what_a_page_shows_belongs_to_the_commands_before_it() {
    let page = "a\n```console\n# no\n```\n```sh\none\ntwo\n```\nwords\n```text\nx\ny\n```\n```sh\nthree\n```\n";
    let steps = steps(page);
    let found: Vec<(&str, usize)> = steps.iter().map(|step| (step.commands.as_str(), step.shown.len())).collect();
    assert_eq!(found, [("one\ntwo\n", 2), ("three\n", 0)]);
    let shown = ["x".to_owned(), "y".to_owned()];
    assert!(comes("a x b\ny", &shown).is_ok() && comes("y x", &shown).is_err());
}
