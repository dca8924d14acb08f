//! A waypoint on the control stream and at the authority.

use mesh_core::identity::SpiffeId;
use mesh_net::ca::{CaClient, CaError, Config as CaConfig};
use mesh_net::svid::KeyPair;

use super::*;

fn gateway(name: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{gatewayClassName: weft-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}}}"
    )
}

fn through(service: &str, waypoint: &str) -> String {
    service.replace("namespace: shop}", &format!("namespace: shop, labels: {{istio.io/use-waypoint: {waypoint}}}}}"))
}

/// Models, each with how many rules it has.
fn models(snapshot: &Snapshot) -> Vec<String> {
    let rules = |model: &mesh_core::l7::Layer7| {
        model.ports.values().flat_map(|port| &port.http).map(|http| http.rules.len()).sum::<usize>()
    };
    let mut all: Vec<_> = snapshot.layer7s().map(|model| format!("{} {}", model.name(), rules(model))).collect();
    all.sort();
    all
}

const RULES: &str = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, \
                     spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}}";

#[tokio::test]
async fn a_waypoint_is_told_its_models_each_change_and_removal_and_nothing_of_another() {
    let place = Place::new();
    place.put("gateways", &[gateway("wp"), gateway("other")].join("\n---\n"));
    place.put("web", &through(&service("web", "10.96.0.1"), "wp"));
    place.put("api", &through(&service("api", "10.96.0.2"), "other"));
    let ctrl = place.start().await;
    let mut waypoint = place.waypoint(ctrl.control, "token-a", "wp");
    let (mut agent, mut nobody) =
        (place.agent(ctrl.control, "token-b"), place.waypoint(ctrl.control, "token-b", "gone"));
    for one in [&waypoint, &agent, &nobody] {
        one.synced().await;
    }
    assert_eq!(models(&waypoint.snapshots.borrow()), ["shop/wp/shop/web.shop.svc.cluster.local 0"]);

    place.put("rules", RULES);
    waypoint.sees(|s| models(s) == ["shop/wp/shop/web.shop.svc.cluster.local 1"]).await;
    // One comes, one goes to another waypoint, the last is no service any more.
    place.put("new", &through(&service("new", "10.96.0.3"), "wp"));
    waypoint.sees(|s| models(s).len() == 2).await;
    place.put("new", &through(&service("new", "10.96.0.3"), "other"));
    waypoint.sees(|s| models(s) == ["shop/wp/shop/web.shop.svc.cluster.local 1"]).await;
    place.remove("web");
    waypoint.sees(|s| models(s).is_empty() && !has(s, "web.shop.svc.cluster.local")).await;
    for one in [&mut agent, &mut nobody] {
        one.sees(|s| has(s, "new.shop.svc.cluster.local") && !has(s, "web.shop.svc.cluster.local")).await;
        assert!(models(&one.snapshots.borrow()).is_empty());
    }
    ctrl.stop().await;
}

#[tokio::test]
async fn a_waypoints_pod_gets_its_certificate_by_its_nodes_token() {
    let place = Place::new();
    place.put("gateway", &gateway("wp"));
    let labelled =
        pod("wp", "a", "10.0.0.1").replace("labels: {app: wp}", "labels: {gateway.networking.k8s.io/gateway-name: wp}");
    place.put("wp", &labelled);
    let ctrl = place.start().await;
    ctrl.shows("/debug/resources", |v| v.to_string().contains("shop/wp")).await;
    let own = SpiffeId::new("cluster.local", "shop", "wp").unwrap();
    let csr = || KeyPair::generate().unwrap().csr_pem(&own).unwrap();
    let client = |token: &str| CaClient::new(CaConfig::new(place.target(ctrl.control, token), "Kubernetes")).unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(client("token-a").sign(csr(), &own, hour).await.unwrap().len(), 2);
    assert!(matches!(client("token-b").sign(csr(), &own, hour).await, Err(CaError::Denied { .. })));
    ctrl.stop().await;
}
