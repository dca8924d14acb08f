//! What there is: services, workloads, gateways, rules; by the names that objects use for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::Mesh;
use crate::node::Node;
use crate::syntax::host::covers;
use crate::validate::group_and_version;

#[derive(Debug)]
pub(super) struct Catalog<'a> {
    pub(super) mesh: &'a Mesh,
    /// Namespaces that objects are in or that there is an object of.
    pub(super) namespaces: BTreeSet<&'a str>,
    /// By full name.
    services: HashMap<String, Service<'a>>,
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) workloads: Vec<Workload<'a>>,
    /// Namespace and name.
    pub(super) accounts: BTreeSet<(&'a str, &'a str)>,
    pub(super) istio_gateways: BTreeSet<(&'a str, &'a str)>,
    pub(super) gateways: HashMap<(&'a str, &'a str), Gateway<'a>>,
    pub(super) rules: Vec<Rule<'a>>,
    pub(super) routes: Vec<Route<'a>>,
    pub(super) policies: Vec<Policy<'a>>,
    pub(super) grants: Vec<(&'a str, Node<'a>)>,
    namespace_labels: HashMap<&'a str, Labels<'a>>,
}

pub(super) type Labels<'a> = BTreeMap<&'a str, &'a str>;

#[derive(Debug)]
pub(super) struct Service<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: Labels<'a>,
    pub(super) selector: Labels<'a>,
    pub(super) ports: Vec<i64>,
}

/// A ServiceEntry.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) hosts: Vec<&'a str>,
    ports: Vec<i64>,
}

#[derive(Debug)]
pub(super) struct Workload<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: Labels<'a>,
}

#[derive(Debug)]
pub(super) struct Gateway<'a> {
    pub(super) class: &'a str,
    pub(super) listeners: Vec<&'a str>,
}

/// A DestinationRule.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// In full.
    pub(super) host: String,
    pub(super) subsets: Vec<&'a str>,
    pub(super) has_policy: bool,
    pub(super) has_selector: bool,
}

/// A VirtualService.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// In full.
    pub(super) hosts: Vec<String>,
    pub(super) for_mesh: bool,
    /// For its own namespace only.
    pub(super) is_private: bool,
}

/// A PeerAuthentication.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) selector: Labels<'a>,
    pub(super) mode: &'a str,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Host<'c, 'a> {
    Service(&'c Service<'a>),
    Entry(&'c Entry<'a>),
}

impl Host<'_, '_> {
    pub(super) fn ports(&self) -> &[i64] {
        match self {
            Self::Service(service) => &service.ports,
            Self::Entry(entry) => &entry.ports,
        }
    }
}

/// A namespaced object's own; what none is written for is in `default`.
pub(super) fn namespace_of<'a>(root: &Node<'a>) -> &'a str {
    match root.get("metadata").map(|metadata| metadata.text("namespace")) {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}

pub(super) fn labels_of<'a>(node: &Node<'a>, field: &str) -> Labels<'a> {
    node.map(field).into_iter().filter_map(|(name, value)| Some((name, value.str()?))).collect()
}

/// Whether something with `labels` is selected; an empty selector selects all.
pub(super) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether an object is exported to its own namespace only.
pub(super) fn is_private(namespace: &str, spec: &Node) -> bool {
    let export = spec.texts("exportTo");
    !export.is_empty() && export.iter().all(|to| [".", namespace].contains(to))
}

impl<'a> Catalog<'a> {
    pub(super) fn new(objects: &'a [Value], mesh: &'a Mesh) -> Self {
        let mut catalog = Self {
            mesh,
            namespaces: BTreeSet::new(),
            services: HashMap::new(),
            entries: Vec::new(),
            workloads: Vec::new(),
            accounts: BTreeSet::new(),
            istio_gateways: BTreeSet::new(),
            gateways: HashMap::new(),
            rules: Vec::new(),
            routes: Vec::new(),
            policies: Vec::new(),
            grants: Vec::new(),
            namespace_labels: HashMap::new(),
        };
        objects.iter().for_each(|object| catalog.add(&Node::root(object)));
        catalog
    }

    fn add(&mut self, root: &Node<'a>) {
        let Some(metadata) = root.get("metadata") else { return };
        let (namespace, name) = (namespace_of(root), metadata.text("name"));
        let (group, _) = group_and_version(root.text("apiVersion"));
        let spec = root.get("spec").unwrap_or_else(|| Node::root(&Value::Null));
        let kind = root.text("kind");
        match (group, kind) {
            ("", "Namespace") => {
                self.namespaces.insert(name);
                self.namespace_labels.insert(name, labels_of(&metadata, "labels"));
                return;
            }
            ("", "Service") => {
                let service = Service {
                    namespace,
                    labels: labels_of(&metadata, "labels"),
                    selector: labels_of(&spec, "selector"),
                    ports: spec.list("ports").iter().filter_map(|port| port.int("port")).collect(),
                };
                self.services.insert(self.full_name(name, namespace), service);
            }
            ("", "Pod") => self.add_workload(namespace, &metadata, &spec),
            ("", "ServiceAccount") => {
                self.accounts.insert((namespace, name));
            }
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") => {
                if let (Some(metadata), Some(spec)) =
                    (spec.at(&["template", "metadata"]), spec.at(&["template", "spec"]))
                {
                    self.add_workload(namespace, &metadata, &spec);
                }
            }
            ("networking.istio.io", "WorkloadEntry") => {
                self.workloads.push(Workload { namespace, labels: labels_of(&spec, "labels") });
                if !spec.text("serviceAccount").is_empty() {
                    self.accounts.insert((namespace, spec.text("serviceAccount")));
                }
            }
            _ => self.add_configuration(group, kind, namespace, name, &spec),
        }
        self.namespaces.insert(namespace);
    }

    fn add_workload(&mut self, namespace: &'a str, metadata: &Node<'a>, spec: &Node<'a>) {
        self.workloads.push(Workload { namespace, labels: labels_of(metadata, "labels") });
        let account = spec.text("serviceAccountName");
        self.accounts.insert((namespace, if account.is_empty() { "default" } else { account }));
    }

    fn add_configuration(&mut self, group: &str, kind: &str, namespace: &'a str, name: &'a str, spec: &Node<'a>) {
        match (group, kind) {
            ("networking.istio.io", "ServiceEntry") => self.entries.push(Entry {
                namespace,
                name,
                hosts: spec.texts("hosts"),
                ports: spec.list("ports").iter().filter_map(|port| port.int("number")).collect(),
            }),
            ("networking.istio.io", "Gateway") => {
                self.istio_gateways.insert((namespace, name));
            }
            ("gateway.networking.k8s.io", "Gateway") => {
                let listeners = spec.list("listeners").iter().map(|listener| listener.text("name")).collect();
                self.gateways.insert((namespace, name), Gateway { class: spec.text("gatewayClassName"), listeners });
            }
            ("gateway.networking.k8s.io", "ReferenceGrant") => self.grants.push((namespace, spec.clone())),
            ("networking.istio.io", "DestinationRule") => self.rules.push(Rule {
                namespace,
                name,
                host: self.full_name(spec.text("host"), namespace),
                subsets: spec.list("subsets").iter().map(|subset| subset.text("name")).collect(),
                has_policy: spec.has("trafficPolicy"),
                has_selector: spec.has("workloadSelector"),
            }),
            ("networking.istio.io", "VirtualService") => {
                let gateways = spec.texts("gateways");
                self.routes.push(Route {
                    namespace,
                    name,
                    hosts: spec.texts("hosts").into_iter().map(|host| self.full_name(host, namespace)).collect(),
                    for_mesh: gateways.is_empty() || gateways.contains(&"mesh"),
                    is_private: is_private(namespace, spec),
                });
            }
            ("security.istio.io", "PeerAuthentication") => self.policies.push(Policy {
                namespace,
                name,
                selector: spec.get("selector").map(|selector| labels_of(&selector, "matchLabels")).unwrap_or_default(),
                mode: spec.get("mtls").map(|mtls| mtls.text("mode")).unwrap_or_default(),
            }),
            _ => {}
        }
    }

    /// A name without a dot is a Service of the namespace.
    pub(super) fn full_name(&self, host: &str, namespace: &str) -> String {
        match host.contains(['.', '*']) {
            true => host.to_ascii_lowercase(),
            false => format!("{host}.{namespace}.svc.{}", self.mesh.cluster_domain),
        }
    }

    /// Whether enough is known to say of a host that there is none.
    pub(super) fn knows_hosts(&self) -> bool {
        !self.services.is_empty()
    }

    /// `host` in full.
    pub(super) fn host(&self, host: &str) -> Option<Host<'_, 'a>> {
        if let Some(service) = self.services.get(host) {
            return Some(Host::Service(service));
        }
        self.entries.iter().find(|entry| entry.hosts.iter().any(|known| covers(known, host))).map(Host::Entry)
    }

    /// Whether a host with a wildcard stands for anything.
    pub(super) fn any_host(&self, pattern: &str) -> bool {
        self.services.keys().any(|known| covers(pattern, known))
            || self.entries.iter().any(|entry| entry.hosts.iter().any(|known| covers(pattern, known)))
    }

    /// Of a namespace, or of all with `None`.
    pub(super) fn workloads_in(&self, namespace: Option<&str>) -> impl Iterator<Item = &Workload<'a>> {
        self.workloads.iter().filter(move |workload| namespace.is_none_or(|namespace| workload.namespace == namespace))
    }

    pub(super) fn namespace_label(&self, namespace: &str, label: &str) -> Option<&'a str> {
        self.namespace_labels.get(namespace)?.get(label).copied()
    }

    pub(super) fn is_root(&self, namespace: &str) -> bool {
        namespace == self.mesh.root_namespace
    }
}
