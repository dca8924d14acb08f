//! Which node a caller is: a bearer token for each node, from a file that is read again when it changes.
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
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tonic::Status;
use tonic::metadata::MetadataMap;
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

/// Why a caller is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("no authorization header")]
    NoToken,
    #[error("authorization is not a bearer token")]
    NotBearer,
    #[error("the token is no node's")]
    UnknownToken,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::NotBearer => "not_bearer",
            Self::UnknownToken => "unknown_token",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::unauthenticated(refusal.to_string())
    }
}

#[derive(Debug)]
pub struct Access {
    path: PathBuf,
    tokens: Mutex<Tokens>,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

/// Each node with the SHA-256 of its token.
type Hashes = Vec<(Arc<str>, [u8; 32])>;

#[derive(Debug, Default)]
struct Tokens {
    nodes: Hashes,
    stamp: Stamp,
}

/// Tells a changed file from an unchanged one without reading it.
type Stamp = Option<(SystemTime, u64)>;

impl Access {
    /// # Errors
    /// The file cannot be read or says something else than tokens.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, InvalidTokens> {
        let path = path.into();
        let stamp = stamp(&path);
        let tokens = Tokens { nodes: read(&path)?, stamp };
        Ok(Self { path, tokens: Mutex::new(tokens), refused: Family::default() })
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_access_refused", "Calls without a node's token, by reason", self.refused.clone());
    }

    /// The node that calls.
    ///
    /// # Errors
    /// The call carries no token, or one that is no node's.
    pub fn node(&self, metadata: &MetadataMap) -> Result<Arc<str>, Refusal> {
        self.find(metadata).inspect_err(|refusal| {
            self.refused.get_or_create(&[("reason", refusal.reason())]).inc();
            info!(reason = refusal.reason(), "caller refused");
        })
    }

    /// Whether `node` still has a token: one that was taken out of the file loses its open streams too.
    pub fn knows(&self, node: &str) -> bool {
        self.current().nodes.iter().any(|(known, _)| **known == *node)
    }

    pub fn nodes(&self) -> Vec<Arc<str>> {
        self.current().nodes.iter().map(|(node, _)| node.clone()).collect()
    }

    fn find(&self, metadata: &MetadataMap) -> Result<Arc<str>, Refusal> {
        let header = metadata.get("authorization").ok_or(Refusal::NoToken)?;
        let text = header.to_str().map_err(|_| Refusal::NotBearer)?;
        let (scheme, token) = text.split_once(' ').ok_or(Refusal::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::NotBearer);
        }
        let presented = sha256(token.trim());
        let mut found = None;
        // All of them, each in constant time: how long it takes says nothing about which token was nearly right.
        for (node, known) in &self.current().nodes {
            if verify_slices_are_equal(known, &presented).is_ok() {
                found = Some(node.clone());
            }
        }
        found.ok_or(Refusal::UnknownToken)
    }

    /// The tokens, read again if the file has changed. A file that is wrong leaves the last good tokens in force.
    fn current(&self) -> MutexGuard<'_, Tokens> {
        let mut tokens = self.tokens.lock().unwrap_or_else(|e| e.into_inner());
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
        let access = Access::open(&path).unwrap();
        let call = |token: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
            access.node(&metadata)
        };
        assert_eq!(call("0123456789abcdef").as_deref(), Ok("a"));
        assert_eq!(call("0123456789abcdeX"), Err(Refusal::UnknownToken));
        assert_eq!(access.node(&MetadataMap::new()), Err(Refusal::NoToken));

        std::fs::write(&path, "a: another-token-of-a\nb: 0123456789abcdef\n").unwrap();
        assert_eq!(call("0123456789abcdef").as_deref(), Ok("b"));
        assert!(access.knows("a"));

        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(call("another-token-of-a").as_deref(), Ok("a"));
    }
}
