//! SPIFFE identities in the form that Kubernetes meshes use: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// Longest SPIFFE ID, in bytes (SPIFFE-ID specification, section 2.3).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// A workload's identity. Cheap to clone; compared as text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Ends of the trust domain and of the namespace within `uri`.
    trust_domain_end: u16,
    namespace_end: u16,
}

/// Why a text is no workload identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidSpiffeId {
    #[error("SPIFFE ID {0:?} does not begin with spiffe://")]
    Scheme(String),
    #[error("SPIFFE ID of {0} bytes is longer than {MAX_SPIFFE_ID_BYTES}")]
    Length(usize),
    #[error("trust domain {0:?} is empty or has characters outside a-z, 0-9, '.', '-', '_'")]
    TrustDomain(String),
    #[error("path {0:?} is not /ns/<namespace>/sa/<service-account>")]
    Path(String),
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// A part is empty, too long, or has a character that SPIFFE does not allow there.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, InvalidSpiffeId> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// As [`SpiffeId::uri`], to be kept.
    pub fn shared_uri(&self) -> &Arc<str> {
        &self.uri
    }

    /// The identity without its scheme: what `principals` of an AuthorizationPolicy are matched against.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end as usize]
    }

    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end as usize + "/ns/".len()..self.namespace_end as usize]
    }

    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end as usize + "/sa/".len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(uri: &str) -> Result<Self, InvalidSpiffeId> {
        if uri.len() > MAX_SPIFFE_ID_BYTES {
            return Err(InvalidSpiffeId::Length(uri.len()));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| InvalidSpiffeId::Scheme(uri.to_owned()))?;
        let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let domain_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        if trust_domain.is_empty() || trust_domain.len() > 255 || !trust_domain.chars().all(domain_char) {
            return Err(InvalidSpiffeId::TrustDomain(trust_domain.to_owned()));
        }
        let no_path = || InvalidSpiffeId::Path(path.to_owned());
        let segment = |s: &str| {
            !s.is_empty() && s != "." && s != ".." && s.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        };
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None)
                if segment(namespace) && segment(account) =>
            {
                let trust_domain_end = SCHEME.len() + trust_domain.len();
                let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
                Ok(Self {
                    uri: uri.into(),
                    trust_domain_end: trust_domain_end as u16,
                    namespace_end: namespace_end as u16,
                })
            }
            _ => Err(no_path()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expect: Expect) {
        let seen = match text.parse::<SpiffeId>() {
            Ok(id) => format!("{} | {} | {}", id.trust_domain(), id.namespace(), id.service_account()),
            Err(e) => e.to_string(),
        };
        expect.assert_eq(&seen);
    }

    #[test]
    fn workload_identities_parse_and_everything_else_says_why() {
        check("spiffe://cluster.local/ns/shop/sa/web", expect!["cluster.local | shop | web"]);
        check("spiffe://td/ns/a.b/sa/c_d-1", expect!["td | a.b | c_d-1"]);
        check("https://td/ns/a/sa/b", expect![[r#"SPIFFE ID "https://td/ns/a/sa/b" does not begin with spiffe://"#]]);
        check("spiffe://td", expect![[r#"path "" is not /ns/<namespace>/sa/<service-account>"#]]);
        check(
            "spiffe:///ns/a/sa/b",
            expect![[r#"trust domain "" is empty or has characters outside a-z, 0-9, '.', '-', '_'"#]],
        );
        check(
            "spiffe://TD/ns/a/sa/b",
            expect![[r#"trust domain "TD" is empty or has characters outside a-z, 0-9, '.', '-', '_'"#]],
        );
        check(
            "spiffe://td/ns/a/sa/b/c",
            expect![[r#"path "ns/a/sa/b/c" is not /ns/<namespace>/sa/<service-account>"#]],
        );
        check("spiffe://td/ns//sa/b", expect![[r#"path "ns//sa/b" is not /ns/<namespace>/sa/<service-account>"#]]);
        check("spiffe://td/ns/../sa/b", expect![[r#"path "ns/../sa/b" is not /ns/<namespace>/sa/<service-account>"#]]);
        check(
            "spiffe://td/ns/a/sa/b%2f",
            expect![[r#"path "ns/a/sa/b%2f" is not /ns/<namespace>/sa/<service-account>"#]],
        );
    }
}
