//! The certificate service.

use mesh_core::identity::SpiffeId;
use mesh_net::ca::{CaClient, CaError, Config as CaConfig};
use mesh_net::certificates::{self, Certificates as Leases, State};
use mesh_net::svid::{KeyPair, Svid};
use tokio::time::Instant;

use super::*;

fn identity(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}

fn client(place: &Place, ctrl: &Running, token: &str) -> CaClient {
    CaClient::new(CaConfig::new(place.target(ctrl.control, token), "Kubernetes")).unwrap()
}

fn csr(identity: &SpiffeId) -> String {
    KeyPair::generate().unwrap().csr_pem(identity).unwrap()
}

async fn ready(ctrl: &Running) {
    let ready = async {
        while ctrl.page("/healthz/ready").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ready).await.unwrap();
}

#[tokio::test]
async fn a_node_gets_certificates_only_for_pods_that_run_on_it() {
    let place = Place::new();
    place.put("web", &pod("web", "a", "10.0.0.1"));
    place.put("db", &pod("db", "b", "10.0.0.2"));
    let ctrl = place.start().await;
    ready(&ctrl).await;
    let (a, b) = (client(&place, &ctrl, "token-a"), client(&place, &ctrl, "token-b"));
    let (web, db) = (identity("web"), identity("db"));
    let hour = Duration::from_secs(3600);

    assert_eq!(a.sign(csr(&web), &web, hour).await.unwrap().len(), 2);
    assert_eq!(b.sign(csr(&db), &db, hour).await.unwrap().len(), 2);
    let refused = b.sign(csr(&web), &web, hour).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("the authority refuses {web}: no workload with identity {web} runs on node b")
    );
    let nobody = identity("nobody");
    assert!(matches!(a.sign(csr(&nobody), &nobody, hour).await, Err(CaError::Denied { .. })));
    let foreign = SpiffeId::new("elsewhere", "shop", "web").unwrap();
    assert!(matches!(a.sign(csr(&foreign), &foreign, hour).await, Err(CaError::Denied { .. })));
    assert!(matches!(a.sign("garbage".to_owned(), &web, hour).await, Err(CaError::Invalid { .. })));
    std::fs::write(place.path("token-x"), "a-token-that-nobody-knows").unwrap();
    let stranger = client(&place, &ctrl, "token-x").sign(csr(&web), &web, hour).await;
    assert!(matches!(stranger, Err(CaError::Unauthenticated { .. })));

    // The name in the request is not looked at.
    let key = KeyPair::generate().unwrap();
    let chain = a.sign(key.csr_pem(&db).unwrap(), &web, hour).await.unwrap();
    assert_eq!(Svid::from_pem(&chain[0], &key).unwrap().identity, web);

    let view = ctrl.json("/debug/certificates").await;
    assert_eq!((view["nodes"]["a"]["issued"].as_u64(), view["nodes"]["b"]["refused"].as_u64()), (Some(2), Some(1)));
    let (_, metrics) = ctrl.page("/metrics").await;
    assert!(metrics.contains("weft_ca_requests_total{outcome=\"elsewhere\"} 3"), "{metrics}");

    // The pod leaves the node, and the right with it.
    place.remove("web");
    ctrl.shows("/debug/resources", |v| !v.to_string().contains("shop/web")).await;
    assert!(matches!(a.sign(csr(&web), &web, hour).await, Err(CaError::Denied { .. })));
    ctrl.stop().await;
}

#[tokio::test]
async fn a_workload_entrys_identity_is_for_the_node_that_it_names() {
    let place = Place::new();
    let entry = |node: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: shop{node}}}, \
             spec: {{address: 192.0.2.1, serviceAccount: vm}}}}"
        )
    };
    let on = |node: &str| entry(&format!(", annotations: {{weft.io/node: {node}}}"));
    place.put("vm", &on("a"));
    let ctrl = place.start().await;
    ready(&ctrl).await;
    let (a, b) = (client(&place, &ctrl, "token-a"), client(&place, &ctrl, "token-b"));
    let vm = identity("vm");
    let may = async |client: &CaClient| match client.sign(csr(&vm), &vm, Duration::from_secs(3600)).await {
        Ok(_) => true,
        Err(CaError::Denied { .. }) => false,
        Err(other) => panic!("{other}"),
    };
    assert_eq!((may(&a).await, may(&b).await), (true, false));
    let other = identity("default");
    assert!(matches!(a.sign(csr(&other), &other, Duration::ZERO).await, Err(CaError::Denied { .. })));
    // It moves, then names nobody, then nothing that can be a node.
    for (yaml, at_b) in [(on("b"), true), (entry(""), false), (on("b"), true), (on("'b c'"), false)] {
        place.put("vm", &yaml);
        let told = async {
            while (may(&a).await, may(&b).await) != (false, at_b) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("not for b alone, or for nobody: {yaml}"));
    }
    ctrl.shows("/debug/findings", |v| v.to_string().contains("\"vm\"")).await;
    ctrl.stop().await;
}

#[tokio::test]
async fn a_lease_becomes_ready_once_its_pod_is_known_and_survives_the_controller() {
    let place = Place::new();
    let ctrl = place.start().await;
    ready(&ctrl).await;
    let leases = Leases::start(certificates::Config::default(), client(&place, &ctrl, "token-a"));
    let lease = leases.lease(&identity("web"));
    let early = lease.ready(Instant::now() + Duration::from_millis(500)).await.err().unwrap();
    assert!(early.to_string().contains("runs on node a"), "{early}");
    place.put("web", &pod("web", "a", "10.0.0.1"));
    let credentials = lease.ready(Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(credentials.svid().identity, identity("web"));
    assert_eq!(credentials.trust().roots().len(), 1);
    ctrl.stop().await;
    assert!(lease.current().is_some());
    assert_eq!(leases.status()[0].state, State::Available);
}

#[tokio::test]
async fn before_the_source_was_read_the_authority_asks_for_patience() {
    let place = Place::new();
    let (_events, queue) = mpsc::channel(1);
    let ctrl = Running::of(App::start_with(place.settings("127.0.0.1:0"), queue, level()).await.unwrap());
    let web = identity("web");
    let error = client(&place, &ctrl, "token-a").sign(csr(&web), &web, Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error.reason(), "unavailable");
    ctrl.stop().await;
}
