//! Unsafe code lives in the eBPF programs, in the agent's dealings with them, and in a few small files named here.

use crate::source::{Source, code, line_of, words};

pub(crate) fn findings(file: &Source) -> Vec<String> {
    if ROOMS.iter().any(|room| file.path.starts_with(room)) || FILES.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let text = code(&file.text);
    let blocks = words(&text, "unsafe").map(|at| (at, "unsafe code outside its rooms"));
    let permits = ["allow", "expect"].into_iter().flat_map(|lint| words(&text, lint)).filter_map(|at| {
        let arguments = text[at..].find(')').map(|end| &text[at..at + end])?;
        words(arguments, "unsafe_code").next().map(|_| (at, "permits unsafe code outside its rooms"))
    });
    let mut found: Vec<(usize, &str)> = blocks.chain(permits).collect();
    found.sort();
    found.into_iter().map(|(at, what)| format!("{}:{}: {what}", file.path, line_of(&text, at))).collect()
}

/// Whole directories.
const ROOMS: &[&str] = &["mesh-ebpf/", "mesh-node/src/ebpf/"];

/// Single files: one system call each that has no safe wrapper, with a test beside it.
const FILES: &[&str] = &[
    "mesh-node/src/netns.rs",
    "mesh-node/src/socket/option.rs",
    "mesh-node/src/socket/packet.rs",
    "tests/src/sockets.rs",
];

#[test]
fn unsafe_outside_its_rooms_is_found() {
    let text = "#![allow(dead_code, unsafe_code)]\n// unsafe\nfn f() { unsafe { g(\"unsafe\") } }\n";
    assert_eq!(
        findings(&Source::sample("mesh-net/src/tls.rs", text)),
        [
            "mesh-net/src/tls.rs:1: permits unsafe code outside its rooms",
            "mesh-net/src/tls.rs:3: unsafe code outside its rooms",
        ]
    );
    assert!(findings(&Source::sample("mesh-ebpf/src/connect.rs", text)).is_empty());
    assert!(findings(&Source::sample("mesh-node/src/netns.rs", text)).is_empty());
    assert!(!findings(&Source::sample("mesh-node/src/capture.rs", text)).is_empty());
    assert!(findings(&Source::sample("a.rs", "#![forbid(unsafe_code)]")).is_empty());
}
