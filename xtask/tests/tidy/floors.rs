//! Which crate may see which.

/// Crates of Weft that a crate may depend on, in any table of its manifest.
fn below(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "mesh-core" | "mesh-ebpf" | "mesh-cni" | "xtask" => &[],
        "mesh-analysis" | "mesh-net" => &["mesh-core"],
        "mesh-node" => &["mesh-core", "mesh-net", "mesh-ebpf", "mesh-cni"],
        "mesh-waypoint" => &["mesh-core", "mesh-net"],
        "mesh-ctrl" | "mesh-cli" => &["mesh-core", "mesh-analysis", "mesh-net"],
        "weft-tests" => &[
            "mesh-core",
            "mesh-analysis",
            "mesh-net",
            "mesh-ebpf",
            "mesh-cni",
            "mesh-node",
            "mesh-waypoint",
            "mesh-ctrl",
            "mesh-cli",
            "xtask",
        ],
        _ => return None,
    })
}

pub(crate) fn findings(manifests: &[(String, toml::Table)]) -> Vec<String> {
    let ours: Vec<&str> = manifests.iter().map(|(name, _)| name.as_str()).collect();
    let mut findings = Vec::new();
    for (name, manifest) in manifests {
        let Some(below) = below(name) else {
            findings.push(format!("{name} has no floor: give it one here and in ARCHITECTURE.md"));
            continue;
        };
        for dependency in dependencies(manifest) {
            // A crate may ask for itself with other features, for its own tests.
            if dependency != *name && ours.contains(&dependency.as_str()) && !below.contains(&dependency.as_str()) {
                findings.push(format!("{name} must not see {dependency}"));
            }
        }
    }
    findings
}

fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => {
                for (name, how) in table {
                    // `package` is what is really meant when a dependency is renamed.
                    let renamed = how.get("package").and_then(|package| package.as_str());
                    found.push(renamed.unwrap_or(name).to_owned());
                }
            }
            "target" => found.extend(table.values().filter_map(toml::Value::as_table).flat_map(dependencies)),
            _ => {}
        }
    }
    found
}

#[test]
fn a_dependency_upwards_or_sideways_is_found() {
    let manifest = |name: &str, rest: &str| (name.to_owned(), rest.parse::<toml::Table>().unwrap());
    let bad = [
        manifest("mesh-core", "[dev-dependencies]\nmesh-net.workspace = true"),
        manifest("mesh-net", "[dependencies]\nmesh-core.workspace = true\n[dev-dependencies]\nmesh-net.path = \".\""),
        manifest("mesh-analysis", "[dependencies]\nmesh-net.workspace = true"),
        manifest("mesh-node", "[dependencies]\nmesh-analysis.workspace = true"),
        manifest("mesh-node", "[dependencies]\ncontroller = { package = \"mesh-ctrl\", path = \"../mesh-ctrl\" }"),
        manifest("mesh-ctrl", "[target.'cfg(unix)'.build-dependencies]\nmesh-node.workspace = true"),
        manifest("mesh-new", ""),
    ];
    assert_eq!(
        findings(&bad),
        [
            "mesh-core must not see mesh-net",
            "mesh-analysis must not see mesh-net",
            "mesh-node must not see mesh-analysis",
            "mesh-node must not see mesh-ctrl",
            "mesh-ctrl must not see mesh-node",
            "mesh-new has no floor: give it one here and in ARCHITECTURE.md",
        ]
    );
}
