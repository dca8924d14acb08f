//! Errors as the CNI specification has them: an object on standard output.

use std::fmt;

use serde_json::json;

/// Version of results and errors where the network configuration does not say one.
pub const CNI_VERSION: &str = "1.1.0";

/// Numbers that the specification gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidNetwork = 7,
    /// The runtime may call again.
    TryAgainLater = 11,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The object for standard output.
    #[must_use]
    pub fn to_json(&self, cni_version: &str) -> String {
        json!({"cniVersion": cni_version, "code": self.code as u32, "msg": self.message}).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
