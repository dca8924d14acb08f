//! The table of contents in `lib.rs` or `main.rs` is the order of dependencies: a module uses only modules listed below it.

use std::path::Path;

use crate::source::{CrateRoot, Source, code, line_of, without_tests, words};

pub(crate) fn findings(root: &CrateRoot) -> Vec<String> {
    let contents = modules(&without_tests(&code(&root.file.text)));
    let dir = Path::new(&root.file.path).parent().expect("a file has a directory");
    let mut findings = Vec::new();
    for file in &root.files {
        let Ok(inside) = Path::new(&file.path).strip_prefix(dir) else { continue };
        let top = inside.components().next().map(|first| Path::new(first.as_os_str()).with_extension(""));
        let Some(user) = top.and_then(|top| contents.iter().position(|module| top.as_os_str() == module.as_str()))
        else {
            continue;
        };
        // `super` in foo.rs is the crate's root, in foo/bar.rs it is foo.
        let prefixes: &[&str] = if inside.components().count() == 1 { &["crate", "super"] } else { &["crate"] };
        if is_tests(inside) {
            continue;
        }
        let text = without_tests(&code(&file.text));
        for (at, used) in uses(&text, prefixes) {
            if let Some(used) = contents.iter().position(|module| *module == used)
                && used < user
            {
                findings.push(format!(
                    "{}:{}: {} is listed below {} in {} and must not use it",
                    file.path,
                    line_of(&text, at),
                    contents[user],
                    contents[used],
                    root.file.path
                ));
            }
        }
    }
    findings
}

fn is_tests(inside: &Path) -> bool {
    inside.file_stem().is_some_and(|stem| stem == "tests")
}

/// Names of the modules that a crate root lists, in order; inline modules too.
fn modules(code: &str) -> Vec<String> {
    words(code, "mod").map(|at| identifier(code[at + 3..].trim_start())).filter(|name| !name.is_empty()).collect()
}

/// First path segment behind `crate::` (or another prefix), also of each branch of `crate::{a::B, c}`.
fn uses(code: &str, prefixes: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in prefixes {
        for at in words(code, prefix) {
            let Some(path) = code[at + prefix.len()..].trim_start().strip_prefix("::") else { continue };
            let path = path.trim_start();
            match path.strip_prefix('{') {
                Some(group) => found.extend(branches(group).into_iter().map(|name| (at, name))),
                None => found.push((at, identifier(path))),
            }
        }
    }
    found
}

/// First segments of a group, up to its closing brace.
fn branches(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![identifier(group.trim_start())];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn a_use_upwards_is_found_and_downwards_is_not() {
    let root = CrateRoot {
        file: Source::sample("x/src/lib.rs", "//! crate::low\npub mod high;\nmod middle;\npub(crate) mod low;\n"),
        files: vec![
            Source::sample("x/src/high.rs", "use crate::{low::A, middle::{self, B}};\nuse super::low;"),
            Source::sample("x/src/middle.rs", "/// [`crate::high`]\nuse crate::low;\nfn f() { crate::middle::g() }"),
            Source::sample("x/src/middle/deep.rs", "fn f() -> crate::high::T { super::high() }"),
            Source::sample(
                "x/src/low.rs",
                "use crate::{\n  low::C,\n  middle::{D},\n};\nuse super::high;\n#[cfg(test)]\nmod tests { use crate::high; }",
            ),
            Source::sample("x/src/low/tests.rs", "use crate::high;"),
        ],
    };
    assert_eq!(
        findings(&root),
        [
            "x/src/middle/deep.rs:1: middle is listed below high in x/src/lib.rs and must not use it",
            "x/src/low.rs:1: low is listed below middle in x/src/lib.rs and must not use it",
            "x/src/low.rs:5: low is listed below high in x/src/lib.rs and must not use it",
        ]
    );
}
