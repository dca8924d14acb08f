use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv, send, socket,
};

use super::*;

/// A node without Kubernetes: where the plugin looks for agent and file.
struct Node {
    dir: tempfile::TempDir,
}

const RESULT: &str = r#"{"cniVersion":"1.0.0","ips":[]}"#;

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn meshed(&self, text: &str) {
        fs::write(self.path("mesh.json"), text).unwrap();
    }

    fn call(&self, command: &str, on_failure: &str) -> Output {
        let network = json!({
            "cniVersion": "1.0.0", "type": "weft-cni", "onFailure": on_failure, "timeoutSeconds": 1,
            "excludeNamespaces": ["kube-system"], "socket": self.path("cni.sock"), "meshed": self.path("mesh.json"),
        });
        let network = network.to_string().replacen('{', &format!("{{\"prevResult\":{RESULT},"), 1);
        self.call_with(command, &network, "shop")
    }

    fn call_with(&self, command: &str, network: &str, namespace: &str) -> Output {
        let environment = Environment {
            command: Some(command.to_owned()),
            netns: Some("/proc/self/ns/net".to_owned()),
            args: Some(format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web;K8S_POD_UID=u1")),
        };
        run(&environment, network, &mut |_| {})
    }

    /// An agent that gives each of `answers` to a call of its own; nothing: it goes away. Returns what it was asked.
    fn agent(&self, answers: &[&'static str]) -> JoinHandle<Vec<String>> {
        let listener: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&self.path("cni.sock")).unwrap()).unwrap();
        listen(&listener, Backlog::new(4).unwrap()).unwrap();
        let answers = answers.to_vec();
        std::thread::spawn(move || {
            let answer = |answer: &str| {
                let plugin = accept(listener.as_raw_fd()).unwrap();
                let mut buffer = [0; 4096];
                let length = recv(plugin, &mut buffer, MsgFlags::empty()).unwrap();
                if !answer.is_empty() {
                    send(plugin, answer.as_bytes(), MsgFlags::empty()).unwrap();
                }
                nix::unistd::close(plugin).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            answers.into_iter().map(answer).collect()
        })
    }
}

fn passed(output: &Output) -> bool {
    output.is_success && output.stdout == RESULT
}

#[test]
fn a_pod_starts_once_the_agent_has_it_and_its_result_is_the_one_before() {
    let node = Node::new();
    let agent = node.agent(&[r#""enrolled""#]);
    assert!(passed(&node.call("ADD", "closed")));
    let asked = agent.join().unwrap();
    let expected = r#"{"add":{"pod":{"namespace":"shop","name":"web","uid":"u1"},"milliseconds":"#;
    assert!(asked[0].starts_with(expected), "{asked:?}");
}

#[test]
fn an_agent_that_goes_away_is_asked_again() {
    let node = Node::new();
    node.meshed(r#"{"namespaces": ["shop"]}"#);
    let agent = node.agent(&["", r#""outside""#]);
    assert!(passed(&node.call("ADD", "closed")));
    assert_eq!(agent.join().unwrap().len(), 2);
}

#[test]
fn what_fails_is_refused_or_started_as_configured() {
    for (on_failure, starts) in [("open", true), ("closed", false)] {
        let node = Node::new();
        let agent = node.agent(&[r#"{"failed": "no certificate"}"#]);
        let output = node.call("ADD", on_failure);
        agent.join().unwrap();
        assert_eq!(passed(&output), starts, "{output:?}");
        if !starts {
            let said =
                r#"{"cniVersion":"1.0.0","code":11,"msg":"weft: pod shop/web is not in the mesh yet: no certificate"}"#;
            assert_eq!(output.stdout, said);
        }
    }
}

#[test]
fn without_an_agent_only_pods_of_the_mesh_wait() {
    let node = Node::new();
    assert!(passed(&node.call("ADD", "closed")), "no file: Weft is not here");
    node.meshed(r#"{"namespaces": ["bank"]}"#);
    assert!(passed(&node.call("ADD", "closed")), "another namespace");
    node.meshed(r#"{"namespaces": ["bank", "shop"]}"#);
    let output = node.call("ADD", "closed");
    assert!(!output.is_success && output.stdout.contains("ask the node's agent at"), "{output:?}");
    assert!(passed(&node.call("ADD", "open")));
    node.meshed("half a fi");
    assert!(!node.call("ADD", "closed").is_success, "nobody knows who is in the mesh");
}

#[test]
fn excluded_namespaces_are_asked_for_nobody() {
    let node = Node::new();
    node.meshed(r#"{"namespaces": ["kube-system"]}"#);
    let network = json!({
        "cniVersion": "1.0.0", "type": "weft-cni", "excludeNamespaces": ["kube-system"], "timeoutSeconds": 1,
        "socket": node.path("cni.sock"), "meshed": node.path("mesh.json"), "prevResult": {},
    });
    assert!(node.call_with("ADD", &network.to_string(), "kube-system").is_success);
}

#[test]
fn a_pod_can_go_without_an_agent() {
    let node = Node::new();
    node.meshed(r#"{"namespaces": ["shop"]}"#);
    assert_eq!(node.call("DEL", "closed"), Output { stdout: String::new(), is_success: true });
    let agent = node.agent(&[r#""deleted""#]);
    assert!(node.call("DEL", "closed").is_success);
    assert!(agent.join().unwrap()[0].starts_with(r#"{"delete":"#));
}

#[test]
fn versions_are_said() {
    let output = run(&Environment { command: Some("VERSION".into()), ..Environment::default() }, "", &mut |_| {});
    let said = r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
    assert_eq!(output, Output { stdout: said.to_owned(), is_success: true });
}
