//! Objects as files, each with what is to be said of it. `bad/` are refused, `good/` are not. The first lines of a file are
//! comments: `# expect: <code> <path>` for each finding, or `# expect: nothing`.
//!
//! The same files are applied to a real API server with the CRDs and the webhook.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_analysis::{is_refused, validate};
use serde_json::Value;

#[test]
fn broken_objects_are_refused_with_the_expected_findings() {
    check("bad", 40, true);
}

#[test]
fn good_objects_are_admitted_with_the_expected_warnings() {
    check("good", 40, false);
}

fn check(folder: &str, at_least: usize, refused: bool) {
    let mut wrong = Vec::new();
    let files = files(folder);
    assert!(files.len() >= at_least, "{} files in {folder}", files.len());
    for file in files {
        let text = fs::read_to_string(&file).expect("a fixture can be read");
        let object: Value = serde_saphyr::from_str(&text).expect("a fixture is YAML");
        let findings = validate(&object);
        let found: BTreeSet<String> = findings.iter().map(|f| format!("{} {}", f.code, f.path)).collect();
        let expected = expected(&text);
        if found != expected || is_refused(&findings) != refused {
            let said: Vec<String> = findings.iter().map(|finding| format!("    {finding}\n")).collect();
            wrong.push(format!("{}\n  expected {expected:?}\n  found\n{}", file.display(), said.concat()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn expected(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
    assert!(!lines.is_empty(), "no expectation in\n{text}");
    lines.into_iter().filter(|line| *line != "nothing").map(str::to_owned).collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects").join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("the folder is there").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}
