//! Agents that die, that start together and that leave traces.

use std::{
    env, fs,
    io::{self, BufRead as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use mesh_ebpf::{maps, pins};
use mesh_node::{
    ebpf::{Config, Kernel, KernelError, Pod},
    netns::Netns,
};

use crate::{
    OUTSIDE, POD, at, connect, ip,
    world::{self, Listeners, World},
};

#[test]
fn a_killed_agents_pods_are_refused_until_another_agent_comes() {
    let Some(mut world) = World::new() else { return };
    world.kill();
    let mut agent = spawn(&world);
    for (outside, own) in OUTSIDE.into_iter().zip(POD) {
        world.in_pod(|| connect(at(outside, 8080)).unwrap());
        world.outside(|| connect(at(own, 8080)).unwrap());
        world.outside(|| connect(at(own, 15_008)).unwrap());
    }
    // SIGKILL.
    agent.kill().unwrap();
    agent.wait().unwrap();
    for (outside, own) in OUTSIDE.into_iter().zip(POD) {
        let refused = |result: io::Result<_>| result.map(drop).unwrap_err().kind() == io::ErrorKind::ConnectionRefused;
        assert!(world.in_pod(|| refused(connect(at(outside, 8080)))), "to {outside}");
        assert!(world.outside(|| refused(connect(at(own, 8080)))), "to {own}");
        assert!(world.outside(|| refused(connect(at(own, 15_008)))), "tunnel to {own}");
    }

    world.load().unwrap();
    assert_eq!(world.kernel().enrolled(), [world.pod.cookie()]);
    world.listeners = Listeners::open(&world.pod);
    world.enrol();
    for (outside, own) in OUTSIDE.into_iter().zip(POD) {
        world.in_pod(|| world.expect_captured(&connect(at(outside, 8080)).unwrap(), at(outside, 8080)));
        let _client = world.outside(|| connect(at(own, 8080)).unwrap());
        world::accept(&world.listeners.plaintext).unwrap();
    }
    world.kernel().withdraw(world.pod.cookie()).unwrap();
    assert_eq!(world.before, world.trace());
}

/// This test binary again, as an agent that has enrolled the pod.
fn spawn(world: &World) -> Child {
    let descriptor = |netns: &Netns| {
        let fd = std::os::fd::AsFd::as_fd(netns).as_raw_fd();
        format!("/proc/{}/fd/{fd}", std::process::id())
    };
    let agent = world.config.agent_cgroup.as_ref().unwrap();
    let paths = [&world.config.pin_dir, &world.config.cgroup_root, agent].map(|path| path.display().to_string());
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "agents::an_agent", "--ignored", "--nocapture"])
        .env(AGENT, [&paths[..], &[descriptor(&world.node), descriptor(&world.pod)]].concat().join("|"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(ENROLLED)), "the agent process ended early");
    child
}

#[test]
#[ignore = "the other process of a_killed_agents_pods_are_refused_until_another_agent_comes"]
fn an_agent() {
    let Ok(paths) = env::var(AGENT) else { return };
    let paths: Vec<_> = paths.split('|').map(PathBuf::from).collect();
    let [pin_dir, cgroup_root, agent, node, pod] = &paths[..] else { panic!("{paths:?}") };
    let config = Config {
        pin_dir: pin_dir.clone(),
        cgroup_root: cgroup_root.clone(),
        agent_cgroup: Some(agent.clone()),
        object: None,
        debug: false,
    };
    let (node, pod) = (Netns::open(node).unwrap(), Netns::open(pod).unwrap());
    let kernel = node.enter(|| Kernel::load(config)).unwrap().unwrap();
    let listeners = Listeners::open(&pod);
    let addresses = POD.map(ip);
    let listeners = listeners.all();
    kernel.enrol(&Pod { netns: &pod, addresses: &addresses, id: 1, listeners: &listeners }).unwrap();
    println!("{ENROLLED}");
    // Until killed; not for ever, should nobody do so.
    std::thread::sleep(Duration::from_secs(60));
}

const AGENT: &str = "WEFT_KERNEL_TEST_AGENT";
const ENROLLED: &str = "the pod is enrolled";

#[test]
fn of_agents_that_load_at_once_all_succeed_and_one_owns_the_pins() {
    let Some(mut world) = World::new() else { return };
    for _ in 0..3 {
        // From nothing, so that they race for the folders and maps too.
        world.kernel().remove_all().unwrap();
        world.kernel = None;
        let load = || world.node.enter(|| Kernel::load(world.config.clone())).unwrap().unwrap();
        let loaded: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (mut owners, others): (Vec<_>, Vec<_>) =
            loaded.into_iter().partition(|kernel| kernel.withdraw(world.pod.cookie()).is_ok());
        assert_eq!((owners.len(), others.len()), (1, 3));
        for other in others {
            let refused = other.withdraw(world.pod.cookie());
            assert!(matches!(refused, Err(KernelError::Superseded { .. })), "{refused:?}");
        }
        world.kernel = owners.pop();
    }
    world.enrol();
    world.in_pod(|| world.expect_captured(&connect(at(OUTSIDE[0], 80)).unwrap(), at(OUTSIDE[0], 80)));
}

#[test]
fn an_agent_is_forgotten_when_its_cgroup_is_gone_and_not_while_it_drains() {
    let Some(mut world) = World::new() else { return };
    let ours = world.config.agent_cgroup.clone().unwrap();
    let (dead, draining) = (ours.with_file_name("dead"), ours.with_file_name("draining"));
    let ids = [&dead, &draining].map(|folder| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("cgroup.type"), "threaded").unwrap();
        world.config.agent_cgroup = Some(folder.clone());
        world.load().unwrap();
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(folder).unwrap())
    });
    fs::remove_dir(&dead).unwrap();
    world.config.agent_cgroup = Some(ours);
    world.load().unwrap();
    let known = agents(&world.config.pin_dir);
    let links = world.trace();
    fs::remove_dir(&draining).unwrap();
    assert_eq!((known.contains(&ids[0]), known.contains(&ids[1])), (false, true), "{ids:?} in {known:?}");
    let has_link = |id| links.contains(&format!("-agent-{id}\n"));
    assert_eq!((has_link(ids[0]), has_link(ids[1])), (false, true), "{ids:?} in {links}");
}

fn agents(pin_dir: &Path) -> Vec<u64> {
    let data = MapData::from_pin(pin_dir.join(pins::MAPS).join(maps::AGENTS)).unwrap();
    let map: HashMap<_, u64, u8> = Map::HashMap(data).try_into().unwrap();
    map.keys().map(Result::unwrap).collect()
}
