//! Reads the tree: files, manifests, crate roots; and Rust text without its comments, strings and tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file, by its path relative to the workspace's root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    #[cfg(test)]
    pub(crate) fn sample(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a member of the workspace").to_owned()
}

/// Every Rust file below `dir`, without build output.
pub(crate) fn tree(dir: &str) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root().join(dir), &mut found);
    assert!(!found.is_empty(), "no Rust file below {dir}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display())) {
        let path = entry.expect("a directory can be read on").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, found);
            }
        } else if name.ends_with(".rs") {
            // Someone may be writing beside us: a file that vanishes while we look is no finding.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let path = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            found.push(Source { path: path.trim_start_matches("./").to_owned(), text });
        }
    }
}

/// Name and manifest of every member of the workspace.
pub(crate) fn manifests() -> Vec<(String, toml::Table)> {
    let workspace: toml::Table = read(&root().join("Cargo.toml")).parse().expect("Cargo.toml parses");
    workspace["workspace"]["members"]
        .as_array()
        .expect("members is a list")
        .iter()
        .map(|member| member.as_str().expect("a member is a path"))
        .map(|member| {
            let manifest: toml::Table =
                read(&root().join(member).join("Cargo.toml")).parse().expect("a member's Cargo.toml parses");
            (manifest["package"]["name"].as_str().expect("a package has a name").to_owned(), manifest)
        })
        .collect()
}

/// `lib.rs` and `main.rs` of every member, with all the files beside them.
pub(crate) struct CrateRoot {
    pub(crate) file: Source,
    pub(crate) files: Vec<Source>,
}

pub(crate) fn crate_roots() -> Vec<CrateRoot> {
    let mut roots = Vec::new();
    for file in tree(".") {
        let path = Path::new(&file.path);
        let dir = path.parent().expect("a file has a directory");
        let is_root =
            dir.ends_with("src") && matches!(path.file_name().and_then(|n| n.to_str()), Some("lib.rs" | "main.rs"));
        if is_root {
            let files = tree(&dir.display().to_string());
            roots.push(CrateRoot { file, files });
        }
    }
    roots
}

/// Paths that git tracks, none outside a checkout.
pub(crate) fn tracked() -> Option<BTreeSet<String>> {
    let output = Command::new("git").arg("ls-files").current_dir(root()).output().ok()?;
    let listed = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| listed.lines().map(str::to_owned).collect())
}

/// What the files have in bytes; one that is gone has none.
pub(crate) fn sizes(tracked: &BTreeSet<String>) -> Vec<(String, u64)> {
    let size = |path: &String| fs::metadata(root().join(path)).map_or(0, |found| found.len());
    tracked.iter().map(|path| (path.clone(), size(path))).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The text with comments and the insides of strings blanked; lines stay where they were.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) =
            raw_string(rest).filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_char_literal(rest) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..taken].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[taken..];
    }
    code
}

fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len() + hashes + 1;
    Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'a'` and `'\n'`, not the lifetime `'a`.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// `code` without what is compiled only for tests: from each `#[cfg(test)]` to the end of its item.
pub(crate) fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let body = item.find('{').unwrap_or(item.len());
        let statement = item.find(';').unwrap_or(item.len());
        let end = if statement < body { statement + 1 } else { closing_brace(item, body) };
        kept.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// Line number of a byte offset.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Byte offsets at which `word` stands on its own.
pub(crate) fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next()))
}

#[test]
fn comments_strings_and_tests_are_not_code() {
    let text = "a // unsafe\n\"unsafe \\\" x\" b /* unsafe */ 'u' r#\"unsafe \" \"# fn f<'a>(x: &'a u8) {}\n\
                #[cfg(test)]\nmod tests {\n fn t() { c }\n}\nd";
    let code = without_tests(&code(text));
    assert!(!code.contains("unsafe"), "{code}");
    assert!(!code.contains("fn t"), "{code}");
    assert!(code.contains("fn f<'a>(x: &'a u8) {}"), "{code}");
    assert_eq!(code.matches('\n').count(), text.matches('\n').count());
    assert!(code.trim_end().ends_with('d'), "{code}");
}
