//! How pods come to an agent: from a pod manager over ZDS, and from the command line.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use weft_tests::apps;
use weft_tests::footprint::footprint;
use weft_tests::knock::{Knocking, ask};
use weft_tests::mesh::{Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::pod::Pod;
use weft_tests::program::{Output, built};
use weft_tests::wait::{PATIENCE, until};

#[test]
fn a_pod_managers_pods_are_in_the_mesh_from_add_to_delete() -> Result<()> {
    needs!();
    let (mut mesh, manager, [web, db, _]) = managed("managers")?;
    let before = footprint(&db)?;
    let echo = apps::probe(&db, "echo", 7000, &[])?;
    mesh.agents[0] = mesh.launch_agent("a")?;
    let line = manager.accept()?;
    assert_eq!(line.receive()?, [0x08, 1], "hello: version 1");
    line.send(&add("uid-web", &web), Some(web.netns().path()))?;
    assert_eq!(line.ack()?, "");
    // Not before the list is complete, whatever else is.
    until("the agent to wait for the rest", PATIENCE, || {
        let said = format!("{:#}", mesh.admin("a", "/healthz/ready").expect_err("more pods may follow"));
        (said.contains("503") && said.contains("pod manager")).then_some(())
    })?;
    line.send(&SNAPSHOT_SENT, None)?;
    assert_eq!(line.ack()?, "");
    until("readiness", PATIENCE, || mesh.admin("a", "/healthz/ready").ok())?;

    line.send(&add("uid-db", &db), Some(db.netns().path()))?;
    assert_eq!(line.ack()?, "", "the manager may start the pod now");
    assert_eq!(states(&mesh)?, ["uid-db enrolled zds", "uid-web enrolled zds"]);
    for address in db.everywhere(7000) {
        ask(&web, address, "hello")?;
    }
    let both = [web.identity("cluster.local"), db.identity("cluster.local")];
    mesh.agents[0].until_access(&[&both[0], &both[1], "\"reason\":\"complete\""])?;

    drop(echo);
    line.send(&delete("uid-db"), None)?;
    assert_eq!(line.ack()?, "");
    until("the pod to be clean", PATIENCE, || footprint(&db).is_ok_and(|now| now == before).then_some(()))?;
    until("the pod to be forgotten", PATIENCE, || (states(&mesh).ok()? == ["uid-web enrolled zds"]).then_some(()))
}

#[test]
fn packets_that_make_no_sense_are_answered_with_what_is_wrong() -> Result<()> {
    needs!();
    let (mut mesh, manager, [web, ..]) = managed("managers_hostile")?;
    mesh.agents[0] = mesh.launch_agent("a")?;
    let line = manager.accept()?;
    line.receive()?;
    line.send(&SNAPSHOT_SENT, None)?;
    assert_eq!(line.ack()?, "");
    let whole = add("uid-web", &web);
    let mut info_missing = Vec::new();
    field(&mut info_missing, 1, &text(1, "uid-web"));
    let cases: [(&str, Vec<u8>, Option<&Path>, &str); 9] = [
        ("garbage", b"\xff\xff\xff\xff\xff\xff".to_vec(), None, "WorkloadRequest"),
        ("nothing at all", text(9, "of a later version"), None, "no"),
        ("too long", vec![0x0a; 1100], None, "1024"),
        ("an add without a namespace", whole.clone(), None, "descriptors"),
        ("an add of something else", whole.clone(), Some(Path::new("/dev/null")), "namespace"),
        ("an add of another kind of namespace", whole.clone(), Some(Path::new("/proc/self/ns/mnt")), "namespace"),
        ("an add without a name", info_missing, Some(web.netns().path()), "identity"),
        ("an add without a uid", add("", &web), Some(web.netns().path()), "uid"),
        ("a delete of a stranger", delete("uid-nobody"), None, "uid-nobody"),
    ];
    for (what, packet, fd, expected) in cases {
        line.send(&packet, fd)?;
        let said = line.ack().with_context(|| what.to_owned())?;
        assert!(said.contains(expected), "{what}: {said:?}");
    }
    // A pod whose identity cannot be one, because its namespace's name could break out of the URI.
    let mut elsewhere = web.clone();
    elsewhere.namespace = "shop/sa/admin".to_owned();
    line.send(&add("uid-evil", &elsewhere), Some(web.netns().path()))?;
    let said = line.ack()?;
    assert!(said.contains("shop/sa/admin"), "{said:?}");
    line.send(&delete("uid-evil"), None)?;
    assert_eq!(line.ack()?, "");
    // And the line still works.
    line.send(&whole, Some(web.netns().path()))?;
    assert_eq!(line.ack()?, "");
    assert_eq!(states(&mesh)?, ["uid-web enrolled zds"]);
    Ok(())
}

#[test]
fn a_manager_that_comes_back_with_other_pods_takes_the_rest_out() -> Result<()> {
    needs!();
    let (mut mesh, manager, [web, db, extra]) = managed("managers_again")?;
    let before = footprint(&extra)?;
    let _echo = apps::probe(&db, "echo", 7000, &[])?;
    mesh.agents[0] = mesh.launch_agent("a")?;
    let line = manager.accept()?;
    line.receive()?;
    for (uid, pod) in [("uid-web", &web), ("uid-db", &db), ("uid-extra", &extra)] {
        line.send(&add(uid, pod), Some(pod.netns().path()))?;
        assert_eq!(line.ack()?, "");
    }
    line.send(&SNAPSHOT_SENT, None)?;
    assert_eq!(line.ack()?, "");
    until("three pods", PATIENCE, || {
        (states(&mesh).ok()? == ["uid-db enrolled zds", "uid-extra enrolled zds", "uid-web enrolled zds"]).then_some(())
    })?;
    let knocking = Knocking::begin(&web, &db.everywhere(7000));
    knocking.until_answered(10)?;
    // The manager dies: nothing changes.
    drop(line);
    knocking.until_answered(10)?;
    let line = manager.accept()?;
    assert_eq!(line.receive()?, [0x08, 1]);
    assert_eq!(states(&mesh)?.len(), 3);
    line.send(&keep("uid-web"), None)?;
    assert_eq!(line.ack()?, "");
    line.send(&add("uid-db", &db), Some(db.netns().path()))?;
    assert_eq!(line.ack()?, "");
    line.send(&SNAPSHOT_SENT, None)?;
    assert_eq!(line.ack()?, "");
    until("the third to be clean", PATIENCE, || footprint(&extra).is_ok_and(|now| now == before).then_some(()))?;
    knocking.until_answered(10)?;
    assert_eq!(states(&mesh)?, ["uid-db enrolled zds", "uid-web enrolled zds"]);
    knocking.none_failed().map(drop)
}

#[test]
fn the_command_line_says_what_is_wrong() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("managers_cli", &["a"])?;
    mesh.namespace("shop", true)?;
    let web = mesh.pod("web").namespace("shop").on(mesh.world.node("a"))?;
    mesh.apply("pod-shop-web", &objects::pod(&web))?;
    let run_dir = mesh.agents[0].run_dir().to_owned();
    let run = |run_dir: &Path, arguments: &[&str]| -> Result<Output> {
        let command = mesh.world.node("a").command(&built("mesh-node")?);
        command.args(&arguments[..1]).arg("--run-dir").arg(run_dir).args(&arguments[1..]).output()
    };
    let netns = web.netns().path().display().to_string();
    let cgroup = web.cgroup().dir().display().to_string();
    let elsewhere = mesh.world.outside().cgroup().dir().display().to_string();
    let whole = ["enrol", "--netns", &netns, "--cgroup", &cgroup, "--identity-of", "shop/web"];
    let with = |at: usize, value: &'static str| {
        let mut changed = whole;
        changed[at] = value;
        changed
    };
    let refused: [(&[&str], i32, &str); 7] = [
        (&["enrol", "--netns", &netns, "--cgroup", &elsewhere, "--identity-of", "shop/web"], 1, "is not below"),
        (&with(2, "/dev/null"), 1, "/dev/null is no network namespace"),
        (&with(2, "/proc/self/ns/mnt"), 1, "/proc/self/ns/mnt is no network namespace"),
        (&with(2, "/run/netns/no-such"), 1, "/run/netns/no-such: No such file"),
        (&with(4, "/sys/fs/no-such"), 1, "/sys/fs/no-such: No such file"),
        (&with(6, "web"), 2, "is not namespace/name"),
        (&["withdraw", "shop/nobody"], 1, "no pod shop/nobody is known"),
    ];
    for (arguments, code, expected) in refused {
        let output = run(&run_dir, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("mesh-node: ") && said.contains(expected), "{arguments:?}: {said}");
    }
    let output = run(Path::new("/run/no-such-agent"), &whole)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no agent") && said.contains("/run/no-such-agent/node.sock"), "{said}");
    // The node's own namespace: it would capture the node.
    let own = mesh.world.node("a").netns().path().display().to_string();
    let output = run(&run_dir, &["enrol", "--netns", &own, "--identity-of", "shop/web"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("own network namespace"), "{said}");

    assert!(run(&run_dir, &whole)?.status.success());
    mesh.until_captured(&web)?;
    // Twice is no mistake, and neither is out and in again.
    assert!(run(&run_dir, &whole)?.status.success());
    assert!(run(&run_dir, &["withdraw", "shop/web"])?.status.success());
    assert!(run(&run_dir, &whole)?.status.success());
    mesh.until_captured(&web)?;
    // One that the control plane does not know waits, and the answer says so.
    let output = run(&run_dir, &["enrol", "--netns", &netns, "--identity-of", "shop/nobody"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("not in the mesh yet") && said.contains("control plane"),
        "{said}"
    );
    Ok(())
}

/// A mesh whose agent, once started again, follows the manager; and three pods that the controller knows.
fn managed(name: &str) -> Result<(Mesh, Manager, [Pod; 3])> {
    let mut mesh = Mesh::with_nodes(name, &["a"])?;
    mesh.agents[0].program.kill()?;
    mesh.namespace("shop", true)?;
    let socket = mesh.world.node("a").dir().join("zds.sock");
    mesh.setup = Setup::default().agent("INPOD_UDS", &socket.display().to_string());
    let make = |name: &str| -> Result<Pod> {
        let pod = mesh.pod(name).namespace("shop").on(mesh.world.node("a"))?;
        mesh.apply(&format!("pod-{name}"), &objects::pod(&pod))?;
        Ok(pod)
    };
    let pods = [make("web")?, make("db")?, make("extra")?];
    Ok((mesh, Manager::listen(&socket)?, pods))
}

/// `<uid> <state> <manager>` of every pod that the agent knows.
fn states(mesh: &Mesh) -> Result<Vec<String>> {
    let config: Value = serde_json::from_str(&mesh.admin("a", "/config")?)?;
    let of = |pod: &Value, field: &str| pod[field].as_str().unwrap_or_default().to_owned();
    let pods = config["pods"].as_array().into_iter().flatten();
    Ok(pods.map(|pod| format!("{} {} {}", of(pod, "uid"), of(pod, "state"), of(pod, "manager"))).collect())
}

/// A pod manager, written from the protocol's description alone.
struct Manager {
    socket: Socket,
    path: PathBuf,
}

impl Manager {
    fn listen(path: &Path) -> Result<Manager> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(1)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Manager { socket, path: path.to_owned() })
    }

    /// The agent that comes.
    fn accept(&self) -> Result<Line> {
        let (socket, _) = self.socket.accept().with_context(|| format!("an agent at {}", self.path.display()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Line(socket))
    }
}

struct Line(Socket);

impl Line {
    fn send(&self, packet: &[u8], fd: Option<&Path>) -> Result<()> {
        let file = fd.map(File::open).transpose()?;
        let fds: Vec<_> = file.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(packet)], control, MsgFlags::empty(), None)?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut packet = vec![0; 4096];
        let length = io::Read::read(&mut &self.0, &mut packet)?;
        packet.truncate(length);
        Ok(packet)
    }

    /// The error of the acknowledgement that comes next; empty if all is well.
    fn ack(&self) -> Result<String> {
        let packet = self.receive().context("an acknowledgement")?;
        let ack = inner(1, &packet)?;
        if ack.is_empty() { Ok(String::new()) } else { Ok(String::from_utf8(inner(1, ack)?.to_vec())?) }
    }
}

/// The bytes of the only field of a message.
fn inner(number: u8, message: &[u8]) -> Result<&[u8]> {
    let [tag, rest @ ..] = message else { return Ok(&[]) };
    ensure!(*tag == number << 3 | 2, "field {} where {number} was expected, in {message:?}", tag >> 3);
    let (mut length, mut at) = (0, 0);
    for (index, byte) in rest.iter().enumerate().take(3) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        at = index + 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    ensure!(rest.len() == at + length, "{message:?} holds more than one field");
    Ok(&rest[at..])
}

fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(bytes);
}

fn text(number: u8, text: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !text.is_empty() {
        field(&mut message, number, text.as_bytes());
    }
    message
}

fn add(uid: &str, pod: &Pod) -> Vec<u8> {
    let info = [text(1, &pod.name), text(2, &pod.namespace), text(3, &pod.service_account)].concat();
    let mut workload = text(1, uid);
    field(&mut workload, 2, &info);
    let mut request = Vec::new();
    field(&mut request, 1, &workload);
    request
}

fn delete(uid: &str) -> Vec<u8> {
    let mut request = Vec::new();
    field(&mut request, 2, &text(2, uid));
    request
}

fn keep(uid: &str) -> Vec<u8> {
    let mut request = Vec::new();
    field(&mut request, 5, &text(1, uid));
    request
}

/// `snapshot_sent`, an empty message in field 3.
const SNAPSHOT_SENT: [u8; 2] = [3 << 3 | 2, 0];
