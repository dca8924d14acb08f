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
