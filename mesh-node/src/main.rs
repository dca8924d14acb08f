//! `mesh-node`: the agent of one node, and the commands that talk to it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mesh_net::logging;
use mesh_node::app;
use mesh_node::direct::trial;
use mesh_node::ebpf;
use mesh_node::handover;
use mesh_node::pods::local::{self, Answer, Registration, Request};
use mesh_node::settings::Flags;
use mesh_node::uninstall::{self, Traces};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Weft's node agent.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Box<Flags>,
}

#[derive(Subcommand)]
enum Command {
    /// Tells the agent of a pod or process group of this host.
    Enrol {
        #[command(flatten)]
        agent: Agent,
        /// Its network namespace: a path such as /run/netns/web or /proc/PID/ns/net.
        #[arg(long)]
        netns: PathBuf,
        /// Its cgroup v2 folder; checked to lie where the agent's hooks are.
        #[arg(long)]
        cgroup: Option<PathBuf>,
        /// Whose identity it has: namespace/name of a Pod or WorkloadEntry that the controller knows.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        identity_of: String,
        /// Its service account; by default the one that the controller knows.
        #[arg(long)]
        service_account: Option<String>,
        /// In the mesh whatever its label says; by default the label decides.
        #[arg(long)]
        always: bool,
    },
    /// Takes a pod out of the mesh and forgets it.
    Withdraw {
        #[command(flatten)]
        agent: Agent,
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: String,
    },
    /// Whether the agent with this container's settings has started, and not the one before it. For a startup probe.
    Started {
        #[arg(long, env = "ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
        admin_address: SocketAddr,
        #[arg(long, env = "INSTANCE", default_value = "")]
        instance: String,
    },
    /// What the agent runs at start to try direct connections.
    #[command(hide = true, name = trial::COMMAND)]
    Trial { from: PathBuf, to: PathBuf },
    /// Removes every trace from the kernel: links, maps, pins, rules and routes. The agent must not be running.
    Remove {
        #[arg(long, env = "PIN_DIR", default_value = "/sys/fs/bpf/weft")]
        pin_dir: PathBuf,
        #[arg(long, env = "CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
        cgroup_root: PathBuf,
    },
    /// Removes every trace from the node: all that `remove` does, and what is in the run directory. For a node whose agent has
    /// ended; nothing there is success.
    Uninstall {
        #[command(flatten)]
        agent: Agent,
        #[arg(long, env = "PIN_DIR", default_value = "/sys/fs/bpf/weft")]
        pin_dir: PathBuf,
        /// As the agent's: auto for where cgroup v2 is mounted.
        #[arg(long, env = "CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
        cgroup_root: PathBuf,
        #[arg(long, env = "CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
        cni_conf_dir: PathBuf,
        #[arg(long, env = "CNI_BIN_DIR", default_value = "/opt/cni/bin")]
        cni_bin_dir: PathBuf,
    },
}

#[derive(Args)]
struct Agent {
    /// The agent's run directory.
    #[arg(long, env = "RUN_DIR", default_value = "/run/weft")]
    run_dir: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => run(*cli.flags),
        Some(Command::Enrol { agent, netns, cgroup, identity_of, service_account, always }) => {
            let Some((namespace, name)) = split(&identity_of) else { return ExitCode::from(2) };
            // The agent may run elsewhere: a relative path would mean something else to it.
            let full = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
            let registration =
                Registration { namespace, name, service_account, netns: full(netns), cgroup: cgroup.map(full), always };
            ask(&agent, Request::Enrol(registration))
        }
        Some(Command::Withdraw { agent, pod }) => {
            let Some((namespace, name)) = split(&pod) else { return ExitCode::from(2) };
            ask(&agent, Request::Withdraw { namespace, name })
        }
        Some(Command::Started { admin_address, instance }) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let asked = runtime.map_err(|error| format!("start the runtime: {error}"));
            match asked.and_then(|runtime| runtime.block_on(handover::started(admin_address, &instance))) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => {
                    eprintln!("mesh-node: {why}");
                    ExitCode::FAILURE
                }
            }
        }
        Some(Command::Trial { from, to }) => match trial::applied(&from, &to) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error}");
                ExitCode::FAILURE
            }
        },
        Some(Command::Remove { pin_dir, cgroup_root }) => concluded(uninstall::from_kernel(&pin_dir, &cgroup_root)),
        Some(Command::Uninstall { agent, pin_dir, cgroup_root, cni_conf_dir, cni_bin_dir }) => {
            let cgroup_root = ebpf::cgroup_root(&cgroup_root).unwrap_or(cgroup_root);
            let run_dir = agent.run_dir;
            concluded(uninstall::from_node(&Traces { pin_dir, cgroup_root, run_dir, cni_conf_dir, cni_bin_dir }))
        }
    }
}

fn concluded(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => {
            eprintln!("mesh-node: {mistakes}");
            return ExitCode::from(2);
        }
    };
    let log = logging::start(&settings.log_level, settings.log_json);
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mesh-node: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::run(settings, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A connection takes two descriptors, and the usual soft limit, 1,024, is there for programs that use select(2). The hard one
/// is raised too where the agent may.
fn raise_file_limit() {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let above = most.filter(|most| *most > hard);
        match above.map(|most| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most)) {
            Some(Ok(most)) => Ok(most),
            Some(Err(_)) | None => setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard),
        }
    });
    match raised {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

fn ask(agent: &Agent, request: Request) -> ExitCode {
    let socket = agent.run_dir.join(local::SOCKET);
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(local::ask(&socket, &request, Duration::from_secs(30))));
    match answer {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::Waiting(why)) => {
            eprintln!("mesh-node: the agent knows the pod; it is not in the mesh yet: {why}");
            ExitCode::SUCCESS
        }
        Ok(Answer::Failed(why)) => {
            eprintln!("mesh-node: {why}");
            ExitCode::FAILURE
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            eprintln!(
                "mesh-node: no agent listens at {}: is it running, with that run directory? ({error})",
                socket.display()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("mesh-node: ask the agent at {}: {error}", socket.display());
            ExitCode::FAILURE
        }
    }
}

fn split(text: &str) -> Option<(String, String)> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Some((namespace.to_owned(), name.to_owned()))
        }
        _ => {
            eprintln!("mesh-node: {text:?} is not namespace/name");
            None
        }
    }
}
