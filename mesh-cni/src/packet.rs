//! The packets between plugin and agent: one of JSON each way on a Unix socket that keeps packets apart (SOCK_SEQPACKET).
//! With a request goes the pod's network namespace as a descriptor, because a path means something else to the agent.

use serde::{Deserialize, Serialize};

/// Longest packet, in bytes.
pub const MOST: usize = 8 << 10;

/// Of whom a request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The pod's network is made, and its containers wait for the answer.
    Add {
        pod: Pod,
        /// How long the answer may take.
        milliseconds: u64,
    },
    /// The pod's containers have ended, and its network is about to be taken down.
    Delete { pod: Pod },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is in the mesh.
    Enrolled,
    /// It does not belong to the mesh.
    Outside,
    /// Nothing of it is left to wait for.
    Deleted,
    Failed(String),
}
