//! Secrets that DestinationRules name, for waypoints: those of the waypoint's own namespace, as a proxy's are its own.

use std::sync::Arc;

use crate::index::Built;
use crate::index::cluster::{Cluster, Name, Topic};

/// Beside a Secret: the roots that go with it, where they stand apart.
const ROOTS: &str = "-cacert";

impl Cluster {
    /// The roots in a Secret, or in the one beside it. Outer `None`: there is no such Secret.
    #[allow(clippy::option_option)]
    pub(super) fn roots(&self, namespace: &Arc<str>, secret: &Arc<str>, built: &mut Built) -> Option<Option<Arc<str>>> {
        let mut find = |name: Arc<str>| {
            let name = Name { namespace: namespace.clone(), name };
            built.read(Topic::Secret(name.clone()));
            self.secrets.get(&name)
        };
        let (own, apart) = (find(secret.clone()), find(format!("{secret}{ROOTS}").into()));
        let first = apart.or(own)?;
        Some(first.roots.clone())
    }
}
