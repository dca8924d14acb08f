//! A node: kubelet, containerd, runc, the bridge CNI plugin and kube-proxy in namespaces and cgroups of their own.
//!
//! ```text
//! join new cgroups ──> unshare ──> node.sh (first process): root, network, containerd, kubelet, kube-proxy
//! ```
//! It is stopped by killing its first process, which is also what a node's failure is to a cluster.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use xtask::clusters;

use super::api::Api;
use super::binaries::Binaries;
use super::credentials::Credentials;
use super::daemon::Daemon;
use super::image::{self, PAUSE};
use super::network::{Network, PREFIX, children};
use crate::program::find;
use crate::wait::{PATIENCE, until};

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    /// Its link on the machine's bridge: what crosses it can be captured.
    pub port: String,
    dir: PathBuf,
    ctr: PathBuf,
    daemon: Daemon,
    /// Its first process.
    init: u32,
}

/// How many nodes a cluster has, and what they are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    pub count: u8,
    pub proxy: Proxy,
}

/// What kube-proxy leads Services' addresses to pods with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Proxy {
    #[default]
    Nftables,
    /// By the command `iptables` that the machine has: of nftables' make, or legacy
    Iptables,
}

impl Proxy {
    /// As kube-proxy's configuration names it.
    fn mode(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Where pods ask for names: what `super::dns` makes, if it is started.
pub(super) const DNS: &str = "10.96.0.10";

/// What the machine has to have besides the programs that are built. The CNI plugin for host ports runs iptables.
const NEEDED: [&str; 8] = ["runc", "nft", "iptables", "ip", "unshare", "nsenter", "pivot_root", "conntrack"];

/// What is lacking to run nodes, none when all is there.
#[must_use]
pub fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("nodes need root".to_owned());
    }
    let absent: Vec<&str> = NEEDED.into_iter().filter(|program| find(program).is_none()).collect();
    let plugins = plugins().is_none().then_some("the CNI plugin `bridge`");
    let busybox = (!image::has_busybox()).then_some("busybox, linked statically");
    let absent: Vec<&str> = absent.into_iter().chain(plugins).chain(busybox).collect();
    (!absent.is_empty()).then(|| format!("nodes need {} (cargo xtask setup)", absent.join(", ")))
}

/// The folder of CNI's own plugins.
fn plugins() -> Option<&'static str> {
    ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].into_iter().find(|dir| Path::new(dir).join("bridge").exists())
}

impl Node {
    /// Starts node `number` of `nodes`, counted from 1. It need not be ready yet.
    pub(super) fn start(
        cluster: &Path,
        number: u8,
        nodes: Nodes,
        network: &Network,
        credentials: &Credentials,
        url: &str,
        binaries: &Binaries,
    ) -> Result<Node> {
        let name = format!("node-{number}");
        let dir = cluster.join(&name);
        for folder in ["root", "layer"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        configure(&dir, &name, nodes.proxy, credentials, url)?;
        let groups = cgroups(cluster, &network.port(number))?;
        let join: String = groups.iter().map(|group| format!("echo 0 > {}/cgroup.procs\n", group.display())).collect();
        let peers: Vec<String> = (1..=nodes.count)
            .filter(|peer| *peer != number)
            .map(|peer| format!("{} via {}", network.pods(peer), network.node(peer)))
            .collect();
        fs::write(dir.join("node.sh"), include_str!("node.sh"))?;
        let variables = [
            ("NODE", name.clone()),
            ("DIR", dir.display().to_string()),
            ("SHARED", cluster.join("pki").display().to_string()),
            ("BIN", binaries.nodes()?.display().to_string()),
            ("ADDRESS", network.node(number).to_string()),
            ("GATEWAY", network.gateway().to_string()),
            ("PREFIX", PREFIX.to_string()),
            ("POD_CIDR", network.pods(number)),
            ("PEERS", peers.join(";")),
        ];
        let export: String = variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        let namespaces = "--mount --uts --ipc --pid --net --cgroup --fork --kill-child=SIGKILL";
        let script = format!("{join}{export}exec unshare {namespaces} sh '{}/node.sh'\n", dir.display());
        let daemon = Daemon::start(cluster, &name, Path::new("/bin/sh"), &["-euc".to_owned(), script])?;
        let mut node = Node {
            address: network.node(number),
            port: network.port(number),
            ctr: binaries.nodes()?.join("ctr"),
            name,
            dir,
            daemon,
            init: 0,
        };
        let own = fs::read_link("/proc/self/ns/net")?;
        node.init = node.wait("be in a namespace of its own", |node| {
            let init = children(node.daemon.pid()).into_iter().next()?;
            fs::read_link(format!("/proc/{init}/ns/net")).is_ok_and(|netns| netns != own).then_some(init)
        })?;
        network.connect(number, node.init)?;
        Ok(node)
    }

    /// Waits until it runs pods.
    pub(super) fn wait_ready(&mut self, api: &Api) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}});
        self.wait("be ready", |_| {
            let node = api.get(&object).ok().flatten()?;
            let conditions = node["status"]["conditions"].as_array()?.clone();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(())
        })
    }

    /// Gives it an image, as an OCI archive.
    ///
    /// # Errors
    /// containerd does not take it.
    pub fn import(&mut self, archive: &[u8]) -> Result<()> {
        let socket = PathBuf::from(format!("/proc/{}/root/run/containerd/containerd.sock", self.init));
        self.wait("run containerd", |_| socket.exists().then_some(()))?;
        let ctr = self.ctr.display().to_string();
        // The first calls may come before containerd answers.
        let imported = until("containerd to take an image", PATIENCE, || {
            let child = self.command(&[&ctr, "-n", "k8s.io", "images", "import", "-"]).stdin(Stdio::piped()).spawn();
            let mut child = child.ok()?;
            // If it ends early, its status says so.
            let _ = child.stdin.take()?.write_all(archive);
            child.wait().ok()?.success().then_some(())
        });
        imported.with_context(|| self.log_ends())
    }

    /// A command that runs in the node, with its files, processes and network.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "--mount", "--pid", "--net", "--cgroup", "--"]).args(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// What a shell script prints that runs in the node.
    ///
    /// # Errors
    /// It fails, with what it said.
    pub fn read(&self, script: &str) -> Result<String> {
        let done = self.command(&["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        if !done.status.success() {
            bail!("{script} on {}: {}", self.name, String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Ends it as a power cut does.
    ///
    /// # Errors
    /// It has ended.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    fn wait<T>(&mut self, what: &str, mut condition: impl FnMut(&Node) -> Option<T>) -> Result<T> {
        let waited = until(&format!("{} to {what}", self.name), READY, || match condition(self) {
            Some(value) => Some(Ok(value)),
            None => self.daemon.ended().map(Err),
        });
        match waited.with_context(|| self.log_ends())? {
            Ok(value) => Ok(value),
            Err(status) => bail!("{} ended ({status}):\n{}", self.name, self.log_ends()),
        }
    }

    /// How its programs' logs end.
    fn log_ends(&self) -> String {
        let mut ends = format!("its log ends:\n{}\n", self.daemon.log_end());
        for name in ["containerd", "kubelet", "kube-proxy"] {
            let log = fs::read(self.dir.join(name).with_extension("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            ends += &format!("{name}:\n{}\n", lines[lines.len().saturating_sub(10)..].join("\n"));
        }
        ends
    }
}

/// Makes cgroups for a node, one in each hierarchy below the caller's own.
fn cgroups(cluster: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut made = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(own)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let Some(mount) = mount_of(&mounts, controllers) else { continue };
        let parent = mount.join(own.trim_start_matches('/'));
        let group = parent.join(name);
        clusters::note(cluster, "cgroup", &group.display().to_string())?;
        fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
        // A cpuset without processors takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let file = |dir: &Path| dir.join(file);
            if let (true, Ok(value)) = (controllers.contains("cpuset"), fs::read(file(&parent))) {
                fs::write(file(&group), value)?;
            }
        }
        made.push(group);
    }
    Ok(made)
}

/// Where the hierarchy of `controllers` is mounted; cgroup v2 has none.
fn mount_of(mountinfo: &str, controllers: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // proc(5): the file system's type and its options follow a lone hyphen.
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let mut options = options.split(',');
        let ours = match controllers {
            "" => kind == "cgroup2",
            _ => {
                kind == "cgroup"
                    && controllers.split(',').all(|c| options.clone().any(|option| option == c))
                    && options.next().is_some()
            }
        };
        ours.then(|| left.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

fn configure(dir: &Path, name: &str, proxy: Proxy, credentials: &Credentials, url: &str) -> Result<()> {
    let copy = |from: PathBuf, to: &str| -> Result<()> {
        fs::copy(from, dir.join(to))?;
        Ok(fs::set_permissions(dir.join(to), fs::Permissions::from_mode(0o600))?)
    };
    copy(credentials.kubeconfig(&format!("system:node:{name}"), "system:nodes", url)?, "kubelet.kubeconfig")?;
    copy(credentials.kubeconfig("system:kube-proxy", "system:node-proxier", url)?, "kube-proxy.kubeconfig")?;
    let nothing = "0%";
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": credentials.path("ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
        "clusterDNS": [DNS], "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        // The disk is the machine's, and how full it is no concern of a test.
        "evictionHard": {
            "memory.available": nothing, "nodefs.available": nothing, "nodefs.inodesFree": nothing,
            "imagefs.available": nothing, "imagefs.inodesFree": nothing,
        },
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "makeIPTablesUtilChains": false, "resolvConf": "/etc/kubernetes/resolv.conf",
    });
    fs::write(dir.join("kubelet.yaml"), kubelet.to_string())?;
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": dir.join("kube-proxy.kubeconfig")},
        "mode": proxy.mode(), "hostnameOverride": name,
        "detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"},
        // Writable in the first network namespace alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    fs::write(dir.join("kube-proxy.yaml"), proxy.to_string())?;
    let plugins = plugins().context("CNI's plugins are installed")?;
    let runc = find("runc").context("runc is installed")?;
    let containerd = format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n  bin_dirs = ['/opt/cni/bin', '{plugins}']\n  conf_dir = '/etc/cni/net.d'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n  runtime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n  BinaryName = '{}'\n",
        Path::new(&runc).display()
    );
    Ok(fs::write(dir.join("containerd.toml"), containerd)?)
}

/// From a cold disk, on a machine that builds something else.
const READY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_found_by_its_controllers() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let at = |controllers| mount_of(mounts, controllers).map(|path| path.display().to_string());
        assert_eq!(at("cpu,cpuacct").as_deref(), Some("/sys/fs/cgroup/cpu"));
        assert_eq!(at("name=systemd").as_deref(), Some("/sys/fs/cgroup/systemd"));
        assert_eq!(at("").as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(at("memory"), None);
    }
}
