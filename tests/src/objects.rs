//! Kubernetes objects as files, the way a controller with `--source dir:` reads them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::pod::Pod;

/// A directory of YAML files; each is replaced as a whole, so that a watcher never reads half a file.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    aside: PathBuf,
}

impl Source {
    /// Makes the directory `source` in `state`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(state: &Path) -> Result<Source> {
        let source = Source { dir: state.join("source"), aside: state.join("source.new") };
        fs::create_dir_all(&source.dir)?;
        Ok(source)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `<name>.yaml`, or replaces it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        fs::write(&self.aside, yaml)?;
        let file = self.file(name);
        fs::rename(&self.aside, &file).with_context(|| format!("replace {}", file.display()))
    }

    /// Removes `<name>.yaml`.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    /// Where `<name>.yaml` is or would be.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.yaml"))
    }
}

/// A Namespace; `mode` is the value of `istio.io/dataplane-mode`, none leaves the label out.
#[must_use]
pub fn namespace(name: &str, mode: Option<&str>) -> String {
    let labels = mode.map(|mode| format!("\n  labels:\n    istio.io/dataplane-mode: {mode}")).unwrap_or_default();
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}{labels}\n")
}

/// A Node with its addresses.
#[must_use]
pub fn node(name: &str, v4: std::net::Ipv4Addr, v6: std::net::Ipv6Addr) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    kubernetes.io/hostname: {name}\n\
         status:\n  addresses:\n  - type: InternalIP\n    address: {v4}\n  - type: InternalIP\n    address: \"{v6}\"\n"
    )
}

/// The pod as its cluster would describe it, running and ready.
#[must_use]
pub fn pod(pod: &Pod) -> String {
    let Pod { name, namespace, service_account, node, labels, v4, v6, .. } = pod;
    let labels: String = labels.iter().map(|(key, value)| format!("\n    {key}: \"{value}\"")).collect();
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {service_account}\n  namespace: {namespace}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: {namespace}-{name}\n  \
         labels:{labels}\nspec:\n  nodeName: {node}\n  serviceAccountName: {service_account}\n  containers:\n  - name: app\n\
         status:\n  phase: Running\n  podIP: {v4}\n  podIPs:\n  - ip: {v4}\n  - ip: \"{v6}\"\n  conditions:\n  \
         - type: Ready\n    status: \"True\"\n"
    )
}

/// The pod as a WorkloadEntry would describe it: a process group on the host `node`.
#[must_use]
pub fn workload_entry(pod: &Pod, node: &str) -> String {
    let Pod { name, namespace, service_account, labels, v4, .. } = pod;
    let labels: String = labels.iter().map(|(key, value)| format!("\n    {key}: \"{value}\"")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         labels:{labels}\n  annotations:\n    weft.io/node: \"{node}\"\nspec:\n  address: {v4}\n  \
         serviceAccount: {service_account}\n"
    )
}

/// A ClusterIP Service over pods labelled `app: <app>`, with ports given as (port, target).
#[must_use]
pub fn service(
    namespace: &str,
    name: &str,
    cluster_ips: &[std::net::IpAddr],
    app: &str,
    ports: &[(u16, u16)],
) -> String {
    let ips: String = cluster_ips.iter().map(|ip| format!("\n  - \"{ip}\"")).collect();
    let first = cluster_ips.first().map_or("None".to_owned(), ToString::to_string);
    let ports: String = ports
        .iter()
        .map(|(port, target)| {
            format!("\n  - name: p{port}\n    port: {port}\n    targetPort: {target}\n    protocol: TCP")
        })
        .collect();
    let ips = if ips.is_empty() { "\n  - None".to_owned() } else { ips };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  type: ClusterIP\n  \
         clusterIP: \"{first}\"\n  clusterIPs:{ips}\n  selector:\n    app: {app}\n  ports:{ports}\n"
    )
}

/// A PeerAuthentication for a whole namespace.
#[must_use]
pub fn peer_authentication(namespace: &str, mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  \
         namespace: {namespace}\nspec:\n  mtls:\n    mode: {mode}\n"
    )
}

/// An AuthorizationPolicy that denies `principals` (without `spiffe://`) at the pods labelled `app: <app>`.
#[must_use]
pub fn deny(namespace: &str, name: &str, app: &str, principals: &[&str]) -> String {
    let principals: String = principals.iter().map(|principal| format!("\n        - \"{principal}\"")).collect();
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  \
         namespace: {namespace}\nspec:\n  selector:\n    matchLabels:\n      app: {app}\n  action: DENY\n  rules:\n  - from:\n    \
         - source:\n        principals:{principals}\n"
    )
}

/// An object of `security.istio.io` with `spec` in YAML's flow style, such as `{action: DENY, rules: [{}]}`.
#[must_use]
pub fn security(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec: {spec}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_removed() {
        let dir = std::env::temp_dir().join(format!("weft-source-{}", std::process::id()));
        let source = Source::new(&dir).unwrap();
        source.apply("shop", &namespace("shop", None)).unwrap();
        source.apply("shop", &namespace("shop", Some("weft"))).unwrap();
        let listed: Vec<_> = fs::read_dir(source.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(listed, ["shop.yaml"]);
        assert!(fs::read_to_string(source.dir().join("shop.yaml")).unwrap().contains("istio.io/dataplane-mode: weft"));
        source.delete("shop").unwrap();
        assert!(source.delete("shop").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
