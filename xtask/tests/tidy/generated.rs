//! A generated file is committed together with its source, so that a clone builds what was reviewed.

use std::collections::BTreeSet;

use crate::source::Source;

/// Files that say in their first lines that a program wrote them, and that git does not track.
pub(crate) fn findings(files: &[Source], tracked: &BTreeSet<String>) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.text.lines().take(5).any(|line| line.contains(MARK)) && !tracked.contains(&file.path))
        .map(|file| format!("{}: generated and not committed", file.path))
        .collect()
}

/// Tracked files with the number of bytes that each has: text of people is never that long, and what programs make is made again.
pub(crate) fn large(files: &[(String, u64)]) -> Vec<String> {
    let large = files.iter().filter(|(_, bytes)| *bytes > LARGE);
    large.map(|(path, bytes)| format!("{path}: {bytes} bytes do not belong into the repository")).collect()
}

/// The definitions of Istio's kinds have 760 KB.
const LARGE: u64 = 1 << 20;

#[test]
fn a_large_file_is_found() {
    let files = [("a.whl".to_owned(), 40 << 20), ("b.rs".to_owned(), 9000)];
    assert_eq!(large(&files), ["a.whl: 41943040 bytes do not belong into the repository"]);
}

/// Spelt in two parts, or this file would be one.
const MARK: &str = concat!("@", "generated");

#[test]
fn an_uncommitted_generated_file_is_found() {
    let files = [
        Source::sample("a.rs", &format!("// {MARK} by x\n")),
        Source::sample("b.rs", &format!("// {MARK} by x\n")),
        Source::sample("c.rs", "fn main() {}\n"),
    ];
    assert_eq!(findings(&files, &BTreeSet::from(["a.rs".to_owned()])), ["b.rs: generated and not committed"]);
}
