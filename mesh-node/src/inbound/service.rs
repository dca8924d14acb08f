//! By which service a connection came to a workload: for telemetry; for a verdict only where the peer is that service's waypoint.

use std::sync::Arc;

use mesh_core::service::Service;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{ServiceKey, Workload};

/// Of the services of which `workload` is an endpoint at `port`: the one with the hostname that the peer `named`, else the only
/// one. A peer's word chooses among these and adds none.
pub fn asked(snapshot: &Snapshot, workload: &Workload, port: u16, named: Option<&str>) -> Option<Arc<Service>> {
    let serving = || {
        let at_port = workload.services.iter().filter(|(_, ports)| ports.iter().any(|p| p.target_port == port));
        at_port.map(|(key, _)| key)
    };
    let named = named.map(hostname);
    let key = only(serving().filter(|key| named == Some(&*key.hostname))).or_else(|| only(serving()))?;
    snapshot.service(key).cloned()
}

/// The service with the hostname that the peer names, if `workload` is an endpoint of it.
pub fn named(workload: &Workload, named: &str) -> Option<ServiceKey> {
    only(workload.services.keys().filter(|key| *key.hostname == *hostname(named))).cloned()
}

/// `name:port` as well, as the field allows.
fn hostname(named: &str) -> &str {
    named.split_once(':').map_or(named, |(name, _)| name)
}

fn only<'a>(mut keys: impl Iterator<Item = &'a ServiceKey>) -> Option<&'a ServiceKey> {
    let first = keys.next()?;
    keys.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::route::tests::{port, service, workload};

    /// `web` and `web-canary` have port 8080 of the pod, `metrics` has 9090, and `db` is another pod's.
    fn check(port_asked: u16, named: Option<&str>, expected: Option<&str>) {
        let mut s = Snapshot::default();
        let mut pod = workload("web-1", "10.0.1.1");
        for (name, ports) in [
            ("web.shop.svc", [(80, 8080)].as_slice()),
            ("web-canary.shop.svc", &[(80, 8080), (81, 0)]),
            ("metrics.shop.svc", &[(9090, 9090)]),
        ] {
            let made = service("shop", name, &[], ports);
            pod.services.insert(made.key.clone(), ports.iter().map(|(s, t)| port(*s, *t)).collect());
            s.upsert_service(made);
        }
        s.upsert_service(service("shop", "db.shop.svc", &[], &[(80, 8080)]));
        let found = asked(&s, &pod, port_asked, named);
        assert_eq!(found.as_ref().map(|s| &*s.key.hostname), expected, "{port_asked} {named:?}");
    }

    #[test]
    fn the_named_one_or_else_the_only_one() {
        check(8080, Some("web.shop.svc"), Some("web.shop.svc"));
        check(8080, Some("web-canary.shop.svc"), Some("web-canary.shop.svc"));
        check(8080, Some("web.shop.svc:80"), Some("web.shop.svc"));
        check(8080, None, None);
        check(9090, None, Some("metrics.shop.svc"));
        check(9090, Some("metrics.shop.svc"), Some("metrics.shop.svc"));
        check(7000, None, None);
    }

    #[test]
    fn a_peer_names_no_service_that_the_pod_is_not_an_endpoint_of() {
        for named in ["db.shop.svc", "metrics.shop.svc", "bank.example.com", ""] {
            check(8080, Some(named), None);
        }
        check(9090, Some("web.shop.svc"), Some("metrics.shop.svc"));
        check(7000, Some("web.shop.svc"), None);
    }

    #[test]
    fn one_hostname_in_two_namespaces_is_told_by_neither() {
        let mut s = Snapshot::default();
        let mut pod = workload("web-1", "10.0.1.1");
        for namespace in ["shop", "other"] {
            let made = service(namespace, "web.example.org", &[], &[(80, 8080)]);
            pod.services.insert(made.key.clone(), vec![port(80, 8080)]);
            s.upsert_service(made);
        }
        assert_eq!(asked(&s, &pod, 8080, Some("web.example.org")), None);
    }
}
