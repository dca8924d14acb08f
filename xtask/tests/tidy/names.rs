//! A file is one idea, named after it; and what is not listed does not run.

use std::path::Path;

use crate::source::{Source, code, without_tests, words};

pub(crate) fn findings(file: &Source) -> Vec<String> {
    let path = Path::new(&file.path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let mut findings = Vec::new();
    if BAGS.contains(&stem) {
        findings.push(format!("{}: names no idea", file.path));
    }
    // Build targets in directories of their own have a main.rs; modules are foo.rs beside foo/.
    if stem == "mod" {
        findings.push(format!("{}: write foo.rs beside foo/", file.path));
    }
    findings
}

/// Files whose code without tests is longer than usual, longest first.
pub(crate) fn long(files: &[Source]) -> Vec<String> {
    let mut long: Vec<(usize, &str)> = files
        .iter()
        .filter(|file| Path::new(&file.path).file_stem().is_none_or(|stem| stem != "tests"))
        .map(|file| {
            let blanked = without_tests(&code(&file.text));
            // A comment is a line too; a line of tests is not.
            let tests = code(&file.text).lines().zip(blanked.lines()).filter(|(with, without)| with != without).count();
            (file.text.lines().count() - tests, file.path.as_str())
        })
        .filter(|(lines, _)| *lines > LONG)
        .collect();
    long.sort_by(|a, b| b.cmp(a));
    long.into_iter().map(|(lines, path)| format!("{path}: {lines} lines without tests")).collect()
}

/// A file in `scenarios/` that its main.rs does not list is never compiled, and passes for ever.
pub(crate) fn unlisted_scenarios(files: &[Source]) -> Vec<String> {
    let listed = files
        .iter()
        .find(|file| file.path.ends_with("scenarios/main.rs"))
        .map(|file| code(&file.text))
        .unwrap_or_default();
    files
        .iter()
        .filter_map(|file| {
            let path = Path::new(&file.path);
            let stem = path.file_stem()?.to_str()?;
            let top_level = path.parent()?.ends_with("scenarios") && stem != "main";
            let is_listed = words(&listed, stem).any(|at| listed[..at].trim_end().ends_with("mod"));
            (top_level && !is_listed).then(|| format!("{}: not listed in main.rs, so it never runs", file.path))
        })
        .collect()
}

/// Names under which unrelated things gather.
const BAGS: &[&str] = &["util", "utils", "common", "helper", "helpers", "types", "misc", "prelude"];

/// Around 400 lines a file usually holds two ideas; at this length it does.
const LONG: usize = 600;

#[test]
fn bags_and_mod_files_are_found() {
    for path in ["mesh-net/src/util.rs", "mesh-net/src/tunnel/types.rs", "mesh-net/src/tunnel/mod.rs"] {
        assert_eq!(findings(&Source::sample(path, "")).len(), 1, "{path}");
    }
    assert!(findings(&Source::sample("mesh-net/src/tunnel.rs", "")).is_empty());
}

#[test]
fn a_forgotten_scenario_is_found() {
    let files = [
        Source::sample("tests/scenarios/main.rs", "mod redis;\n// mod forgotten;\n"),
        Source::sample("tests/scenarios/redis.rs", ""),
        Source::sample("tests/scenarios/forgotten.rs", ""),
    ];
    assert_eq!(unlisted_scenarios(&files), ["tests/scenarios/forgotten.rs: not listed in main.rs, so it never runs"]);
}

#[test]
fn length_is_counted_without_tests() {
    let line = "fn f() {}\n";
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(700));
    let files = [
        Source::sample("short.rs", &format!("{}{tests}", line.repeat(500))),
        Source::sample("long.rs", &format!("{}{tests}", line.repeat(601))),
        Source::sample("x/tests.rs", &line.repeat(900)),
    ];
    assert_eq!(long(&files), ["long.rs: 601 lines without tests"]);
}
