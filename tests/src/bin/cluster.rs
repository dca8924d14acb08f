//! A real Kubernetes on this machine: `cargo xtask cluster`.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use weft_tests::cluster::Cluster;
use weft_tests::cluster::binaries::Binaries;
use weft_tests::cluster::helm;
use weft_tests::cluster::node::{self, Nodes, Proxy};
use xtask::clusters;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster, which stays until `down`
    Up {
        /// Nodes beside the control plane; 0 is etcd and the API server alone
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
        nodes: u8,
        /// How kube-proxy works on them
        #[arg(long, value_enum, default_value_t)]
        proxy: Proxy,
        #[arg(long, default_value = "weft")]
        name: String,
        /// Import images of the controller, the agent and the waypoint, as they are built here, into the nodes
        #[arg(long)]
        images: bool,
    },
    /// End a cluster and remove all of it
    Down {
        #[arg(long, default_value = "weft")]
        name: String,
    },
    /// Build the programs that a cluster is made of, if they are not there
    Build {
        /// Those of nodes too
        #[arg(long)]
        nodes: bool,
    },
    /// Write deploy/kubernetes/weft.yaml as the chart renders it
    Manifest,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Build { nodes } => {
            let binaries = if nodes { Binaries::ensure_with_nodes()? } else { Binaries::ensure()? };
            Binaries::ensure_grpc_calls()?;
            Binaries::ensure_helm()?;
            println!("etcd and kube-apiserver are in {}", binaries.dir().display());
        }
        Command::Manifest => helm::write_manifest()?,
        Command::Up { nodes, proxy, name, images } => up(&name, Nodes { count: nodes, proxy }, images)?,
        Command::Down { name } if clusters::remove(&name)? => println!("cluster {name} is gone"),
        Command::Down { name } => println!("there is no cluster {name}"),
    }
    Ok(())
}

fn up(name: &str, nodes: Nodes, images: bool) -> Result<()> {
    let count = nodes.count;
    if count > 0
        && let Some(lacking) = node::lacking()
    {
        bail!("{lacking}");
    }
    let binaries = if count > 0 { Binaries::ensure_with_nodes()? } else { Binaries::ensure()? };
    let begun = Instant::now();
    let mut cluster = Cluster::up(name, &binaries, nodes)?;
    if count > 0 {
        cluster.start_dns(&binaries)?;
    }
    if images {
        cluster.import_weft(&["mesh-ctrl", "mesh-node", "mesh-waypoint"])?;
    }
    let path = match binaries.nodes() {
        Ok(dir) => format!("export PATH=$PATH:{}\n  ", dir.display()),
        Err(_) => String::new(),
    };
    println!(
        "cluster {name} is up after {:.1} s: etcd, the API server, {count} nodes\n\n  \
         export KUBECONFIG={}\n  {path}kubectl get namespaces\n\n\
         its logs are in {}\ncargo xtask cluster down --name {name} removes it",
        begun.elapsed().as_secs_f64(),
        cluster.kubeconfig().display(),
        cluster.dir().display(),
    );
    Ok(())
}
