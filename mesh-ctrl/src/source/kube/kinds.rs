//! The kinds that are watched: what the index makes something of, and nothing more.

use ::kube::core::{ApiResource, GroupVersionKind};

use crate::object::{Kind, mesh_config};

/// A row of the table.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) kind: Kind,
    pub(super) group: &'static str,
    /// Versions that [`crate::object::read`] knows, the one asked for first at the front.
    pub(super) versions: &'static [&'static str],
    pub(super) plural: &'static str,
    /// Served only where somebody has installed its CustomResourceDefinition.
    pub(super) custom: bool,
    /// The one name that is watched; `None`: all.
    pub(super) only: Option<&'static str>,
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// ReplicaSets and Jobs are left out: all that they would add is the name of what owns them, which theirs tell.
pub(super) const WATCHED: &[Watched] = &[
    built_in(Kind::Namespace, "", "namespaces"),
    built_in(Kind::Node, "", "nodes"),
    built_in(Kind::Pod, "", "pods"),
    built_in(Kind::Service, "", "services"),
    built_in(Kind::EndpointSlice, "discovery.k8s.io", "endpointslices"),
    Watched { only: Some(mesh_config::NAME), ..built_in(Kind::ConfigMap, "", "configmaps") },
    custom(Kind::PeerAuthentication, "security.istio.io", &["v1", "v1beta1"], "peerauthentications"),
    custom(Kind::AuthorizationPolicy, "security.istio.io", &["v1", "v1beta1"], "authorizationpolicies"),
    custom(Kind::ServiceEntry, "networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "serviceentries"),
    custom(Kind::WorkloadEntry, "networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "workloadentries"),
    custom(Kind::DestinationRule, "networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "destinationrules"),
    custom(Kind::VirtualService, "networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "virtualservices"),
    custom(Kind::RequestAuthentication, "security.istio.io", &["v1", "v1beta1"], "requestauthentications"),
    custom(Kind::Telemetry, "telemetry.istio.io", &["v1", "v1alpha1"], "telemetries"),
    custom(Kind::Gateway, GATEWAY_API, &["v1", "v1beta1"], "gateways"),
    custom(Kind::HttpRoute, GATEWAY_API, &["v1", "v1beta1"], "httproutes"),
    custom(Kind::GrpcRoute, GATEWAY_API, &["v1"], "grpcroutes"),
    custom(Kind::TcpRoute, GATEWAY_API, &["v1", "v1alpha2"], "tcproutes"),
    custom(Kind::TlsRoute, GATEWAY_API, &["v1", "v1alpha3", "v1alpha2"], "tlsroutes"),
    custom(Kind::BackendTrafficPolicy, "gateway.envoyproxy.io", &["v1alpha1"], "backendtrafficpolicies"),
    custom(Kind::ReferenceGrant, GATEWAY_API, &["v1beta1", "v1"], "referencegrants"),
];

const fn built_in(kind: Kind, group: &'static str, plural: &'static str) -> Watched {
    Watched { kind, group, versions: &["v1"], plural, custom: false, only: None }
}

const fn custom(kind: Kind, group: &'static str, versions: &'static [&'static str], plural: &'static str) -> Watched {
    Watched { kind, group, versions, plural, custom: true, only: None }
}

impl Watched {
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let gvk = GroupVersionKind::gvk(self.group, version, self.kind.as_str());
        ApiResource::from_gvk_with_plural(&gvk, self.plural)
    }

    /// Name of its CustomResourceDefinition.
    pub(super) fn definition(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// Which row a request is about, by its path: `/api/v1/pods`, `/apis/<group>/<version>/<plural>`.
    pub(super) fn of_path(path: &str) -> Option<&'static Watched> {
        let mut segments = path.trim_start_matches('/').split('/');
        let group = match segments.next()? {
            "api" => "",
            "apis" => segments.next()?,
            _ => return None,
        };
        let plural = segments.nth(1)?;
        WATCHED.iter().find(|watched| watched.group == group && watched.plural == plural)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::{Read, read};

    #[test]
    fn every_version_asked_for_is_one_that_is_read() {
        for watched in WATCHED {
            for version in watched.versions {
                let api_version = watched.resource(version).api_version;
                let object = json!({
                    "apiVersion": api_version, "kind": watched.kind.as_str(),
                    "metadata": {"name": watched.only.unwrap_or("a")}, "addressType": "IPv4", "endpoints": [],
                });
                match read(object) {
                    Read::Object(object) => assert_eq!(object.kind(), watched.kind),
                    Read::Refused(refused) => assert_ne!(refused.field, "apiVersion", "{api_version}: {refused:?}"),
                    Read::Skipped { .. } => panic!("{api_version} {} is not read", watched.kind.as_str()),
                }
            }
        }
    }

    #[test]
    fn a_request_tells_its_kind_by_its_path() {
        let kind = |path: &str| Watched::of_path(path).map(|watched| watched.kind);
        for watched in WATCHED {
            let resource = watched.resource(watched.versions[0]);
            let path = <::kube::core::DynamicObject as ::kube::Resource>::url_path(&resource, None);
            assert_eq!(kind(&path), Some(watched.kind), "{path}");
        }
        assert_eq!(kind("/apis/apps/v1/pods"), None);
        assert_eq!(kind("/api/v1"), None);
        assert_eq!(kind("/readyz"), None);
    }
}
