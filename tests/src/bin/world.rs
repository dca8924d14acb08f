//! Brings up a world without a mesh and stays until Ctrl-C: for looking around by hand, and for tests of how a run ends.

use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use weft_tests::apps;
use weft_tests::run::take_down_on_signals;
use weft_tests::topology::Topology;

#[derive(Parser)]
struct Arguments {
    /// Names of nodes
    #[arg(long, value_delimiter = ',', default_value = "a,b")]
    nodes: Vec<String>,
    /// Pods as name@node; each serves echo on port 7000
    pods: Vec<String>,
}

fn main() -> Result<()> {
    take_down_on_signals();
    let arguments = Arguments::parse();
    let nodes: Vec<&str> = arguments.nodes.iter().map(String::as_str).collect();
    let world = Topology::with_nodes("world", &nodes)?;
    let mut servers = Vec::new();
    for plan in &arguments.pods {
        let (name, node) = plan.split_once('@').with_context(|| format!("{plan} is not name@node"))?;
        let pod = world.pod(name).on(world.node(node))?;
        servers.push(apps::probe(&pod, "echo", 7000, &[])?);
        println!("{name} on {node}: {} {}    ip netns exec {} sh", pod.v4, pod.v6, pod.netns().name());
    }
    println!("state: {}", world.run().dir().display());
    println!("up: {}", world.run().id());
    loop {
        thread::park();
    }
}
