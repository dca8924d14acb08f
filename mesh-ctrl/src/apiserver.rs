//! The way to the Kubernetes API server: whose credentials, and TLS by rustls alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::kube::Config;
use ::kube::config::{InClusterError, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

/// Longest time for a connection to be made: beyond it, an address behind which nobody is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig { path: PathBuf, source: KubeconfigError },
    #[error("the pod's own service account: {0}")]
    InCluster(#[from] InClusterError),
    #[error("no kubeconfig is given, and none is found: {0}")]
    Infer(#[from] InferConfigError),
    #[error("make a client of the API server: {0}")]
    Client(#[from] ::kube::Error),
}

/// Credentials: those of `kubeconfig`, else of the pod that this runs in, else of `$KUBECONFIG` or `~/.kube/config`.
///
/// # Errors
/// They cannot be read. Whether the API server takes them is not asked.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
        None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => Config::incluster()?,
        None => Config::infer().await?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Whoever calls knows for how long it is worth it, and a leader whether it still is one. The client's own way would be up to
    // fifteen attempts, the last of them minutes later.
    config.default_retry = false;
    Ok(config)
}
