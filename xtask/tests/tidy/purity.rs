//! mesh-core and mesh-analysis are pure: no socket, no clock, no task. Time and randomness are arguments.

use crate::source::{Source, code, line_of, without_tests, words};

pub(crate) fn findings(file: &Source) -> Vec<String> {
    let text = without_tests(&code(&file.text));
    let mut findings = Vec::new();
    for (what, why) in FORBIDDEN {
        for at in words(&text, what) {
            findings.push(format!("{}:{}: {what}: {why}", file.path, line_of(&text, at)));
        }
    }
    findings
}

const FORBIDDEN: &[(&str, &str)] = &[
    ("TcpStream", "a socket"),
    ("TcpListener", "a socket"),
    ("UdpSocket", "a socket"),
    ("UnixStream", "a socket"),
    ("UnixListener", "a socket"),
    ("Instant::now", "reads the clock"),
    ("SystemTime::now", "reads the clock"),
    ("elapsed", "reads the clock"),
    ("tokio", "a runtime"),
    ("async_std", "a runtime"),
    ("spawn", "starts a task"),
    ("thread::sleep", "waits"),
    ("std::fs", "reads files"),
    ("std::env", "reads the environment"),
    ("rand", "makes its own randomness"),
];

#[test]
fn sockets_clocks_and_tasks_are_found_in_code_only() {
    let bad = Source::sample(
        "mesh-core/src/x.rs",
        "// Instant::now is someone else's\nuse std::net::{IpAddr, TcpStream};\nfn f(now: Instant) {\n  let t = \
         Instant::now();\n  tokio::spawn(g());\n}\n#[cfg(test)]\nmod tests { fn t() { std::time::Instant::now(); } }\n",
    );
    assert_eq!(
        findings(&bad),
        [
            "mesh-core/src/x.rs:2: TcpStream: a socket",
            "mesh-core/src/x.rs:4: Instant::now: reads the clock",
            "mesh-core/src/x.rs:5: tokio: a runtime",
            "mesh-core/src/x.rs:5: spawn: starts a task",
        ]
    );
}
