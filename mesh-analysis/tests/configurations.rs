//! Whole configurations as files, each with what is to be said of it. `base.yaml` is a part of each. The first lines of a file
//! are comments: `# expect: <code> <kind> <namespace>/<name> <path>` for each finding, or `# expect: nothing`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_analysis::{Mesh, analyze};
use serde_json::Value;

#[test]
fn configurations_are_told_what_shows_only_when_objects_are_seen_together() {
    let base = fs::read_to_string(folder().join("base.yaml")).expect("base.yaml can be read");
    let mut wrong = Vec::new();
    let files = files();
    assert!(files.len() >= 8, "{} files", files.len());
    for file in files {
        let text = fs::read_to_string(&file).expect("a fixture can be read");
        let objects: Vec<Value> = [&base, &text].into_iter().flat_map(|text| documents(text)).collect();
        let findings = analyze(&objects, &Mesh::default());
        let found: BTreeSet<String> = findings.iter().map(|f| format!("{} {} {}", f.code, f.object, f.path)).collect();
        let expected = expected(&text);
        if found != expected {
            let said: Vec<String> = findings.iter().map(|finding| format!("    {finding}\n")).collect();
            wrong.push(format!("{}\n  expected {expected:#?}\n  found\n{}", file.display(), said.concat()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("a fixture is YAML")
}

fn expected(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
    assert!(!lines.is_empty(), "no expectation in\n{text}");
    lines.into_iter().filter(|line| *line != "nothing").map(str::to_owned).collect()
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| !file.ends_with("base.yaml"));
    files.sort();
    files
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations")
}
