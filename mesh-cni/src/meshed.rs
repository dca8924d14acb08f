//! The file by which the plugin knows, while no agent answers, whose pods have to wait: the namespaces that had a pod in
//! the mesh when the agent last knew. Without the file there is no mesh on this node.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its name in the agent's folder beside the network configurations.
pub const FILE: &str = "mesh.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meshed {
    pub namespaces: BTreeSet<String>,
}

impl Meshed {
    /// `None` where there is no such file.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is not such a file.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
