//! Programs in Go, Kubernetes' own above all: ready ones, or built once from source and kept outside of the checkout.
//!
//! `KUBEBUILDER_ASSETS` names a folder of ready ones (as envtest's users have it). Otherwise the modules in
//! `tests/binaries/` are built into `$XDG_CACHE_HOME/weft/cluster/<key>/`, where the key is of what they are built from.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest;
use nix::fcntl::{Flock, FlockArg};
use xtask::clusters;

use crate::program::find;

/// Folders with all the programs that were asked for.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
    /// Those of nodes, and the folder of the name server, which runs as a pod.
    nodes: Option<(PathBuf, PathBuf)>,
}

/// A Go module of `tests/binaries/`, and a program in it.
struct Source {
    program: &'static str,
    module: &'static str,
    package: &'static str,
    /// On two cores, with nothing in Go's cache.
    minutes: u32,
    flags: fn() -> String,
}

const CONTROL_PLANE: [Source; 2] = [
    Source {
        program: "etcd",
        module: "etcd",
        package: "go.etcd.io/etcd/server/v3",
        minutes: 2,
        flags: || "-s -w".to_owned(),
    },
    Source {
        program: "kube-apiserver",
        module: "kubernetes",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        minutes: 6,
        flags: kubernetes_flags,
    },
];

/// What runs on nodes, and what is only needed where nodes are.
const NODES: [Source; 4] = [
    Source { program: "kubernetes", module: "kubernetes", package: ".", minutes: 4, flags: kubernetes_flags },
    containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    containerd("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
];

/// The cluster's name server.
const DNS: [Source; 1] =
    [Source { program: "coredns", module: "coredns", package: ".", minutes: 3, flags: || "-s -w".to_owned() }];

/// A client by Go's gRPC library.
const CALLS: [Source; 1] =
    [Source { program: "grpc-calls", module: "grpc-calls", package: ".", minutes: 1, flags: || "-s -w".to_owned() }];

/// What installs the chart.
const HELM: [Source; 1] = [Source {
    program: "helm",
    module: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    minutes: 2,
    flags: || "-s -w".to_owned(),
}];

/// What `kubernetes` is called as.
const NAMES: [&str; 5] = ["kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler", "kubectl"];

const fn containerd(program: &'static str, package: &'static str) -> Source {
    Source { program, module: "containerd", package, minutes: 1, flags: || "-s -w".to_owned() }
}

/// Without these a program says that it is v0.0.0-master, and clients that compare versions believe it.
fn kubernetes_flags() -> String {
    let stamps = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].map(|package| {
        let (minor, patch) = (KUBERNETES.0, KUBERNETES.1);
        format!(
            " -X {package}.gitVersion=v1.{minor}.{patch} -X {package}.gitMajor=1 -X {package}.gitMinor={minor} \
             -X {package}.gitTreeState=clean"
        )
    });
    format!("-s -w{}", stamps.concat())
}

/// What containerd would need libraries for; nothing else has these tags.
const TAGS: &str = "no_btrfs,no_devmapper,no_zfs,no_aufs";

/// Minor and patch version of what `tests/binaries/kubernetes/go.mod` asks for; a test compares.
const KUBERNETES: (u32, u32) = (36, 3);

impl Binaries {
    /// The programs of a control plane if they are there, without building anything.
    #[must_use]
    pub fn present() -> Option<Binaries> {
        let dir = assets().or_else(|| cache(&CONTROL_PLANE).ok())?;
        all_in(&dir, &CONTROL_PLANE).then_some(Binaries { dir, nodes: None })
    }

    /// With the programs of nodes.
    #[must_use]
    pub fn present_with_nodes() -> Option<Binaries> {
        let nodes = cache(&NODES).ok().filter(|dir| all_in(dir, &NODES))?;
        let dns = cache(&DNS).ok().filter(|dir| all_in(dir, &DNS))?;
        Some(Binaries { nodes: Some((nodes, dns)), ..Binaries::present()? })
    }

    /// The programs of a control plane, built if they are not there. Says what it builds and how long that takes.
    ///
    /// # Errors
    /// Without Go or network, or when a build fails.
    pub fn ensure() -> Result<Binaries> {
        if let Some(present) = Binaries::present() {
            return Ok(present);
        }
        if let Some(dir) = assets() {
            bail!("KUBEBUILDER_ASSETS is {}, which lacks etcd or kube-apiserver", dir.display());
        }
        Ok(Binaries { dir: build(&CONTROL_PLANE)?, nodes: None })
    }

    /// As [`ensure`](Binaries::ensure), with the programs of nodes.
    ///
    /// # Errors
    /// Without Go or network, or when a build fails.
    pub fn ensure_with_nodes() -> Result<Binaries> {
        let plane = Binaries::ensure()?;
        let ensure = |sources: &[Source]| match cache(sources)? {
            dir if all_in(&dir, sources) => Ok(dir),
            _ => build(sources),
        };
        Ok(Binaries { nodes: Some((ensure(&NODES)?, ensure(&DNS)?)), ..plane })
    }

    /// The gRPC client (tests/binaries/grpc-calls) if it is there, without building it.
    #[must_use]
    pub fn grpc_calls() -> Option<PathBuf> {
        let dir = cache(&CALLS).ok().filter(|dir| all_in(dir, &CALLS))?;
        Some(dir.join(CALLS[0].program))
    }

    /// Builds it if it is not there.
    ///
    /// # Errors
    /// Without Go or network, or when the build fails.
    pub fn ensure_grpc_calls() -> Result<()> {
        if Binaries::grpc_calls().is_none() {
            build(&CALLS)?;
        }
        Ok(())
    }

    /// Helm if it is there, without building it.
    #[must_use]
    pub fn helm() -> Option<PathBuf> {
        let dir = cache(&HELM).ok().filter(|dir| all_in(dir, &HELM))?;
        Some(dir.join(HELM[0].program))
    }

    /// Builds it if it is not there.
    ///
    /// # Errors
    /// Without Go or network, or when the build fails.
    pub fn ensure_helm() -> Result<PathBuf> {
        match Binaries::helm() {
            Some(helm) => Ok(helm),
            None => Ok(build(&HELM)?.join(HELM[0].program)),
        }
    }

    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of nodes' programs.
    ///
    /// # Errors
    /// They were not asked for.
    pub fn nodes(&self) -> Result<&Path> {
        let (nodes, _) = self.nodes.as_ref().context("the programs of nodes were not asked for")?;
        Ok(nodes)
    }

    /// CoreDNS.
    ///
    /// # Errors
    /// The programs of nodes were not asked for.
    pub fn coredns(&self) -> Result<PathBuf> {
        let (_, dns) = self.nodes.as_ref().context("the programs of nodes were not asked for")?;
        Ok(dns.join(DNS[0].program))
    }
}

fn all_in(dir: &Path, sources: &[Source]) -> bool {
    sources.iter().all(|source| dir.join(source.program).is_file())
}

fn build(sources: &[Source]) -> Result<PathBuf> {
    let go = go().context(
        "building Kubernetes' programs needs Go 1.26 or newer (https://go.dev/dl), in PATH or /usr/local/go",
    )?;
    let dir = cache(sources)?;
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    // Two runs at once would build the same thing twice.
    let lock = fs::File::create(dir.join(".lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the cache")?;
    for source in sources.iter().filter(|source| !dir.join(source.program).is_file()) {
        source.build(&go, &dir)?;
        if source.program == "kubernetes" {
            for name in NAMES {
                let link = dir.join(name);
                // Left by a build that was cut off.
                let _ = fs::remove_file(&link);
                symlink("kubernetes", &link)?;
            }
        }
    }
    Ok(dir)
}

impl Source {
    fn build(&self, go: &Path, dir: &Path) -> Result<()> {
        println!(
            "building {} from source, once: about {} minutes on two cores and 2 GiB of memory; kept in {}",
            self.program,
            self.minutes,
            dir.display()
        );
        let begun = Instant::now();
        let aside = dir.join(format!(".{}.new", self.program));
        let status = Command::new(go)
            .current_dir(modules().join(self.module))
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-mod=readonly", "-tags", TAGS, "-ldflags", &(self.flags)(), "-o"])
            .arg(&aside)
            .arg(self.package)
            .stdin(Stdio::null())
            .status()
            .context("run go build")?;
        if !status.success() {
            bail!("go build {} failed ({status})", self.package);
        }
        fs::rename(&aside, dir.join(self.program))?;
        println!("built {} in {} s", self.program, begun.elapsed().as_secs());
        Ok(())
    }
}

/// The programs of a control plane; returns from the test with `Ok(())` and one line `skipped: ..` where there are none.
#[macro_export]
macro_rules! binaries {
    () => {
        match $crate::cluster::binaries::Binaries::present() {
            Some(binaries) => binaries,
            None => {
                let what = "etcd and kube-apiserver, which `cargo xtask cluster build` builds with Go 1.26";
                println!("skipped: {}:{}: needs {what}", module_path!(), line!());
                return Ok(());
            }
        }
    };
}

/// As [`binaries!`](crate::binaries), for a cluster with nodes.
#[macro_export]
macro_rules! node_binaries {
    () => {
        match ($crate::cluster::node::lacking(), $crate::cluster::binaries::Binaries::present_with_nodes()) {
            (None, Some(binaries)) => binaries,
            (lacking, _) => {
                let built = "needs programs of nodes, which `cargo xtask cluster build --nodes` builds with Go 1.26";
                println!("skipped: {}:{}: {}", module_path!(), line!(), lacking.unwrap_or(built.to_owned()));
                return Ok(());
            }
        }
    };
}

/// As [`binaries!`](crate::binaries), for Helm.
#[macro_export]
macro_rules! helm {
    () => {
        match $crate::cluster::helm::Helm::present() {
            Some(helm) => helm,
            None => {
                println!(
                    "skipped: {}:{}: needs helm, which `cargo xtask cluster build` builds with Go 1.26",
                    module_path!(),
                    line!()
                );
                return Ok(());
            }
        }
    };
}

fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

fn go() -> Option<PathBuf> {
    find("go").or_else(|| find("/usr/local/go/bin/go")).map(PathBuf::from)
}

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("binaries")
}

/// The folder that holds what these sources come to.
fn cache(sources: &[Source]) -> Result<PathBuf> {
    let mut content = digest::Context::new(&digest::SHA256);
    for source in sources {
        for name in ["go.mod", "go.sum", "main.go"] {
            let path = modules().join(source.module).join(name);
            match fs::read(&path) {
                Ok(bytes) => content.update(&bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            }
        }
        content.update((source.flags)().as_bytes());
    }
    let key: String = content.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(clusters::base("XDG_CACHE_HOME", ".cache")?.join("weft/cluster").join(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stamped_is_the_one_built() {
        let module = fs::read_to_string(modules().join("kubernetes/go.mod")).unwrap();
        let (minor, patch) = KUBERNETES;
        assert!(module.contains(&format!("k8s.io/kubernetes v1.{minor}.{patch}\n")), "{module}");
        assert!(module.contains(&format!("k8s.io/api => k8s.io/api v0.{minor}.{patch}\n")), "{module}");
    }
}
