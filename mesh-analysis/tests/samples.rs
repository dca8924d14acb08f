//! `deploy/samples/`: what people copy.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_analysis::{Mesh, analyze};
use serde_json::{Value, json};

/// Every object of every file, as they are at the end of the page that has them applied.
fn objects() -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |file: &PathBuf| -> Vec<Value> {
        let text = fs::read_to_string(file).unwrap();
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    let mut objects: Vec<Value> = files.iter().flat_map(read).collect();
    // What the pages have people say by hand, once the waypoint is there.
    for namespace in objects.iter_mut().filter(|object| object["kind"] == "Namespace") {
        namespace["metadata"]["labels"] = json!({"istio.io/use-waypoint": "gate"});
    }
    objects
}

#[test]
fn nothing_is_found_in_the_samples() {
    let objects = objects();
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    for kind in [
        "Deployment",
        "Service",
        "Gateway",
        "HTTPRoute",
        "AuthorizationPolicy",
        "PeerAuthentication",
        "VirtualService",
        "DestinationRule",
    ] {
        assert!(kinds.contains(kind), "no {kind} is among the samples");
    }
    let findings = analyze(&objects, &Mesh::default());
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn a_mistake_in_the_samples_would_be_found() {
    let mut objects = objects();
    let route = objects.iter_mut().find(|object| object["kind"] == "HTTPRoute").unwrap();
    route["spec"]["rules"][0]["backendRefs"][0]["name"] = "web-v3".into();
    assert!(!analyze(&objects, &Mesh::default()).is_empty());
}
