//! A bearer token for each node, from a file that is read again when it changes.
//!
//! ```text
//! # node: token, or the SHA-256 of one
//! node-a: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! node-b: 4f8cbb2c0e5a4d1f9d1f
//! ```
//! or one JSON object with the same.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use thiserror::Error;
use tracing::{info, warn};

/// Shortest token accepted: 64 bits even if it is hexadecimal.
const MIN_TOKEN_BYTES: usize = 16;

#[derive(Debug, Error)]
pub enum InvalidTokens {
    #[error("read the tokens in {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: not `node: token`")]
    Line { path: PathBuf, line: usize },
    #[error("{path}: not a JSON object of node to token: {error}")]
    Json { path: PathBuf, error: serde_json::Error },
    #[error("{path}: node {node} stands there twice, or shares its token with another")]
    Twice { path: PathBuf, node: String },
    #[error(
        "{path}: token of node {node} is shorter than {MIN_TOKEN_BYTES} bytes, or its sha256 is not 64 hexadecimal digits"
    )]
    Token { path: PathBuf, node: String },
}

#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    read: Mutex<Known>,
}

/// Each node with the SHA-256 of its token.
type Hashes = Vec<(Arc<str>, [u8; 32])>;

#[derive(Debug, Default)]
struct Known {
    nodes: Hashes,
    stamp: Stamp,
}

/// Tells a changed file from an unchanged one without reading it.
type Stamp = Option<(SystemTime, u64)>;

impl Tokens {
    /// # Errors
    /// The file cannot be read or says something else than tokens.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, InvalidTokens> {
        let path = path.into();
        let stamp = stamp(&path);
        let known = Known { nodes: read(&path)?, stamp };
        Ok(Self { path, read: Mutex::new(known) })
    }

    /// Whether `node` still has a token: one that was taken out of the file loses its open streams too.
    pub(super) fn knows(&self, node: &str) -> bool {
        self.current().nodes.iter().any(|(known, _)| **known == *node)
    }

    /// The node whose token it is.
    pub(super) fn find(&self, token: &str) -> Option<Arc<str>> {
        let presented = sha256(token);
        let mut found = None;
        // All of them, each in constant time: how long it takes says nothing about which token was nearly right.
        for (node, known) in &self.current().nodes {
            if verify_slices_are_equal(known, &presented).is_ok() {
                found = Some(node.clone());
            }
        }
        found
    }

    /// The tokens, read again if the file has changed. A file that is wrong leaves the last good tokens in force.
    fn current(&self) -> MutexGuard<'_, Known> {
        let mut tokens = self.read.lock().unwrap_or_else(|e| e.into_inner());
        let stamp = stamp(&self.path);
        if stamp != tokens.stamp {
            tokens.stamp = stamp;
            match read(&self.path) {
                Ok(nodes) => {
                    info!(nodes = nodes.len(), path = %self.path.display(), "tokens read again");
                    tokens.nodes = nodes;
                }
                Err(error) => warn!(%error, "tokens are left as they were"),
            }
        }
        tokens
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<Hashes, InvalidTokens> {
    let text = std::fs::read_to_string(path).map_err(|source| InvalidTokens::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Hashes, InvalidTokens> {
    let pairs: Vec<(String, String)> = if text.trim_start().starts_with('{') {
        let map: std::collections::BTreeMap<String, String> =
            serde_json::from_str(text).map_err(|error| InvalidTokens::Json { path: path.to_owned(), error })?;
        map.into_iter().collect()
    } else {
        let mut pairs = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') || line == "---" {
                continue;
            }
            let invalid = || InvalidTokens::Line { path: path.to_owned(), line: number + 1 };
            let (node, token) = line.split_once(':').ok_or_else(invalid)?;
            let (node, token) = (unquote(node), unquote(token));
            if node.is_empty() || token.contains(char::is_whitespace) {
                return Err(invalid());
            }
            pairs.push((node.to_owned(), token.to_owned()));
        }
        pairs
    };
    let mut nodes: Hashes = Hashes::with_capacity(pairs.len());
    for (node, token) in pairs {
        let Some(hash) = hash(&token) else {
            return Err(InvalidTokens::Token { path: path.to_owned(), node });
        };
        if nodes.iter().any(|(known, other)| **known == *node || *other == hash) {
            return Err(InvalidTokens::Twice { path: path.to_owned(), node });
        }
        nodes.push((node.into(), hash));
    }
    Ok(nodes)
}

fn unquote(text: &str) -> &str {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

fn hash(token: &str) -> Option<[u8; 32]> {
    let Some(hex) = token.strip_prefix("sha256:") else {
        return (token.len() >= MIN_TOKEN_BYTES).then(|| sha256(token));
    };
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expect: Expect) {
        let seen = match parse(Path::new("tokens"), text) {
            Ok(nodes) => nodes.iter().map(|(node, hash)| format!("{node}={:02x}{:02x}\n", hash[0], hash[1])).collect(),
            Err(error) => error.to_string(),
        };
        expect.assert_eq(&seen);
    }

    #[test]
    fn token_files_are_read_as_lines_or_as_json() {
        check("# none\n\n", expect![""]);
        check(
            "a: 0123456789abcdef\n'b': \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"",
            expect![[r#"
            a=9f9f
            b=9f86
        "#]],
        );
        check(
            "{\"a\": \"0123456789abcdef\"}",
            expect![[r#"
            a=9f9f
        "#]],
        );
        check("a 0123456789abcdef", expect!["tokens:1: not `node: token`"]);
        check(
            "a: short",
            expect!["tokens: token of node a is shorter than 16 bytes, or its sha256 is not 64 hexadecimal digits"],
        );
        check(
            "a: sha256:12",
            expect!["tokens: token of node a is shorter than 16 bytes, or its sha256 is not 64 hexadecimal digits"],
        );
        check(
            "a: 0123456789abcdef\nb: 0123456789abcdef",
            expect!["tokens: node b stands there twice, or shares its token with another"],
        );
        check(
            "{",
            expect!["tokens: not a JSON object of node to token: EOF while parsing an object at line 1 column 1"],
        );
    }

    #[test]
    fn a_changed_file_is_in_force_at_the_next_call_and_a_broken_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "a: 0123456789abcdef\n").unwrap();
        let tokens = Tokens::open(&path).unwrap();
        assert_eq!(tokens.find("0123456789abcdef").as_deref(), Some("a"));
        assert_eq!(tokens.find("0123456789abcdeX"), None);

        std::fs::write(&path, "a: another-token-of-a\nb: 0123456789abcdef\n").unwrap();
        assert_eq!(tokens.find("0123456789abcdef").as_deref(), Some("b"));
        assert!(tokens.knows("a"));

        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(tokens.find("another-token-of-a").as_deref(), Some("a"));
    }
}
