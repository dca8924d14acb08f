//! The control stream.

use mesh_core::wire::ADDRESS_TYPE;
use mesh_core::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as Detail};
use mesh_net::grpc::client::AggregatedDiscoveryServiceClient;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use super::*;

#[tokio::test]
async fn an_agent_sees_the_folder_then_each_change_and_removal() {
    let place = Place::new();
    place.put("web", &pod("web", "a", "10.0.0.1"));
    place.put("svc", &service("web", "10.96.0.1"));
    place.put("deny", &deny("no-dev"));
    let ctrl = place.start().await;
    let mut agent = place.agent(ctrl.control, "token-a");
    agent.synced().await;
    assert_eq!(agent.names(), ["policy shop/no-dev", "web", "web.shop.svc.cluster.local"]);

    place.put("db", &pod("db", "b", "10.0.0.2"));
    agent.sees(|s| has(s, "db")).await;
    place.remove("deny");
    agent.sees(|s| !has(s, "policy shop/no-dev")).await;
    place.remove("web");
    agent.sees(|s| !has(s, "web")).await;
    assert_eq!(agent.status.view().types.values().map(|t| t.nacks).sum::<u64>(), 0);

    let view = ctrl.shows("/debug/agents", |v| v[0]["types"][ADDRESS_TYPE]["lag"] == 0).await;
    assert_eq!(view[0]["node"], "a");
    assert_eq!(view[0]["id"], "ztunnel~10.0.0.1~agent.weft-system~weft-system.svc.cluster.local");
    let (status, metrics) = ctrl.page("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("\nweft_ads_nacks_total 0\n"), "{metrics}");
    ctrl.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_sends_only_what_differs_and_takes_nothing_away_by_mistake() {
    let place = Place::new();
    for n in 1..=20 {
        place.put(&format!("p{n}"), &pod(&format!("p{n}"), "a", &format!("10.0.0.{n}")));
    }
    let ctrl = place.start().await;
    let address = ctrl.control.to_string();
    let mut agent = place.agent(ctrl.control, "token-a");
    agent.synced().await;
    let before = agent.status.view().types[ADDRESS_TYPE].clone();
    ctrl.stop().await;

    // Meanwhile nothing changes for the agent.
    assert_eq!(agent.names().len(), 20);
    place.remove("p3");
    place.put("late", &pod("late", "a", "10.0.0.99"));
    let mut every = agent.snapshots.clone();
    every.mark_unchanged();
    let ctrl = place.start_at(&address).await;
    agent.sees(|s| has(s, "late") && !has(s, "p3")).await;
    every.changed().await.unwrap();
    assert_eq!(names(&every.borrow_and_update()).len(), 20, "one snapshot, with the removal and the addition");
    let view = agent.status.view();
    assert_eq!(view.connects, 2);
    let after = &view.types[ADDRESS_TYPE];
    assert_eq!(after.responses, before.responses + 1);
    assert!(after.bytes - before.bytes < 1024, "{} bytes for one new pod", after.bytes - before.bytes);
    ctrl.stop().await;
}

#[tokio::test]
async fn a_controller_that_has_not_read_its_source_answers_nobody() {
    let place = Place::new();
    place.put("web", &pod("web", "a", "10.0.0.1"));
    let ctrl = place.start().await;
    let address = ctrl.control.to_string();
    let mut agent = place.agent(ctrl.control, "token-a");
    agent.synced().await;
    ctrl.stop().await;

    let (events, queue) = mpsc::channel(1);
    let ctrl = Running::of(App::start_with(place.settings(&address), queue, level()).await.unwrap());
    assert_eq!(ctrl.page("/healthz/ready").await, (503, "not ready: the source has not been read yet\n".to_owned()));
    ctrl.shows("/debug/agents", |v| v.as_array().is_some_and(|a| !a.is_empty())).await;
    // Long enough for a wrong answer to arrive; that none comes is the claim.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(agent.names(), ["web"]);
    events.send(vec![Event::InitialSynced]).await.unwrap();
    agent.sees(|s| !has(s, "web")).await;
    assert_eq!(ctrl.page("/healthz/ready").await.0, 200);
    ctrl.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_until_it_is_right() {
    let place = Place::new();
    std::fs::write(place.path("token-x"), "a-token-that-nobody-knows").unwrap();
    let ctrl = place.start().await;
    let agent = place.agent(ctrl.control, "token-x");
    let refused = async {
        while !agent.status.view().last_error.is_some_and(|e| e.contains("the token is no node's")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap_or_else(|_| panic!("{:?}", agent.status.view()));
    assert!(!agent.status.is_synced());
    std::fs::write(place.path("token-x"), TOKEN_B).unwrap();
    agent.synced().await;
    let (_, metrics) = ctrl.page("/metrics").await;
    assert!(metrics.contains("weft_access_refused_total{reason=\"unknown_token\"}"), "{metrics}");
    ctrl.stop().await;
}

#[tokio::test]
async fn a_controller_of_another_root_is_not_trusted() {
    let (place, other) = (Place::new(), Place::new());
    let ctrl = place.start().await;
    other.start().await.stop().await;
    let mut target = place.target(ctrl.control, "token-a");
    target.roots = other.path("state/root-cert.pem");
    let client = mesh_net::ca::CaClient::new(mesh_net::ca::Config::new(target, "c")).unwrap();
    let identity = mesh_core::identity::SpiffeId::new("cluster.local", "shop", "web").unwrap();
    let error = client.sign(String::new(), &identity, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.reason(), "authority_root");
    ctrl.stop().await;
}

/// A client that does only what a test tells it to.
struct Raw {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Raw {
    async fn open(place: &Place, ctrl: &Running) -> Self {
        let roots = std::fs::read(place.path("state/root-cert.pem")).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", ctrl.control)).unwrap().tls_config(tls).unwrap();
        // Small windows, so that little is under way to a client that does not read.
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
        let (requests, outgoing) = mpsc::channel(8);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN_B}").parse().unwrap());
        let responses = client.delta_aggregated_resources(request).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        let typed = DeltaDiscoveryRequest { type_url: ADDRESS_TYPE.to_owned(), ..request };
        self.requests.send(typed).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        timeout(PATIENCE, self.responses.message()).await.expect("an answer in time").unwrap().unwrap()
    }

    async fn answer(&self, nonce: &str, error: Option<&str>) {
        self.send(DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            error_detail: error.map(|message| Detail { code: 3, message: message.to_owned() }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

fn told(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let mut names: Vec<_> = response.resources.iter().map(|r| r.name.clone()).collect();
    names.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
    names.sort();
    names
}

#[tokio::test]
async fn a_refusal_is_shown_and_gone_after_the_next_good_answer() {
    let place = Place::new();
    place.put("web", &pod("web", "a", "10.0.0.1"));
    let ctrl = place.start().await;
    let mut raw = Raw::open(&place, &ctrl).await;
    raw.send(DeltaDiscoveryRequest::default()).await;
    let first = raw.next().await;
    assert_eq!(told(&first), ["Kubernetes//Pod/shop/web"]);
    raw.answer(&first.nonce, Some("web: I do not like it")).await;
    let view = ctrl.shows("/debug/agents", |v| v[0]["types"][ADDRESS_TYPE]["nacks"] == 1).await;
    assert_eq!(view[0]["types"][ADDRESS_TYPE]["last_nack"], "web: I do not like it");
    assert_eq!(view[0]["types"][ADDRESS_TYPE]["lag"], 1);

    place.put("web", &pod("web", "a", "10.0.0.2"));
    let second = raw.next().await;
    raw.answer(&second.nonce, None).await;
    let view = ctrl.shows("/debug/agents", |v| v[0]["types"][ADDRESS_TYPE]["lag"] == 0).await;
    assert_eq!(view[0]["types"][ADDRESS_TYPE]["last_nack"], serde_json::Value::Null);
    ctrl.stop().await;
}

#[tokio::test]
async fn names_asked_on_demand_are_answered_found_or_not() {
    let place = Place::new();
    place.put("web", &pod("web", "a", "10.0.0.1"));
    place.put("svc", &service("web", "10.96.0.1"));
    place.put("db", &pod("db", "a", "10.0.0.2"));
    let ctrl = place.start().await;
    let mut raw = Raw::open(&place, &ctrl).await;
    raw.send(DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    })
    .await;
    assert!(told(&raw.next().await).is_empty());
    let ask = |name: &str| DeltaDiscoveryRequest {
        resource_names_subscribe: vec![name.to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    raw.send(ask("/10.0.0.2")).await;
    assert_eq!(told(&raw.next().await), ["Kubernetes//Pod/shop/db"]);
    raw.send(ask("/10.0.0.77")).await;
    assert_eq!(told(&raw.next().await), ["-/10.0.0.77"]);
    raw.send(ask("shop/web.shop.svc.cluster.local")).await;
    assert_eq!(told(&raw.next().await), ["Kubernetes//Pod/shop/web", "shop/web.shop.svc.cluster.local"]);

    let (ask, asked) = mpsc::channel::<Arc<str>>(4);
    let mut agent = place.agent_with(ctrl.control, "token-a", Some(asked));
    agent.synced().await;
    assert!(agent.names().is_empty());
    ask.send("/10.96.0.1".into()).await.unwrap();
    agent.sees(|s| has(s, "web") && has(s, "web.shop.svc.cluster.local")).await;
    assert!(!agent.names().contains(&"db".to_owned()));
    ctrl.stop().await;
}

#[tokio::test]
async fn an_agent_that_does_not_read_delays_nobody_and_catches_up_with_the_latest() {
    let place = Place::new();
    let many = |vip: usize| {
        let one = |n: usize| service(&format!("s{n}"), &format!("10.{}.{}.{}", vip, n / 250, n % 250 + 1));
        (0..2000).map(one).collect::<Vec<_>>().join("---\n")
    };
    place.put("many", &many(1));
    let ctrl = place.start().await;
    let mut stuck = Raw::open(&place, &ctrl).await;
    stuck.send(DeltaDiscoveryRequest::default()).await;
    let mut quick = place.agent(ctrl.control, "token-a");
    quick.synced().await;
    for vip in 2..8 {
        place.put("many", &many(vip));
        let net = format!("10.{vip}.");
        quick.sees(|s| s.services().all(|x| x.addresses[0].ip.to_string().starts_with(&net))).await;
    }
    let view = ctrl.json("/debug/agents").await;
    let lags: Vec<_> = view.as_array().unwrap().iter().map(|a| a["types"][ADDRESS_TYPE]["lag"].as_u64()).collect();
    assert!(lags.iter().any(|lag| lag.is_some_and(|lag| lag > 2000)), "{lags:?}");

    place.put("last", &service("last", "10.96.0.1"));
    quick.sees(|s| has(s, "last.shop.svc.cluster.local")).await;
    let mut received = 0;
    loop {
        let response = stuck.next().await;
        received += response.resources.len();
        if response.resources.iter().any(|r| r.name == "shop/last.shop.svc.cluster.local") {
            break;
        }
    }
    assert!(received < 7 * 2000, "{received} resources: every version was sent");
    ctrl.stop().await;
}

#[tokio::test]
async fn a_token_that_was_taken_out_ends_its_stream() {
    let place = Place::new();
    let ctrl = place.start().await;
    let mut raw = Raw::open(&place, &ctrl).await;
    raw.send(DeltaDiscoveryRequest::default()).await;
    raw.next().await;
    std::fs::write(place.path("tokens"), format!("a: {TOKEN_A}\n")).unwrap();
    place.put("web", &pod("web", "a", "10.0.0.1"));
    let ended = timeout(PATIENCE, async {
        loop {
            match raw.responses.message().await {
                Ok(Some(response)) => assert!(response.resources.is_empty()),
                Ok(None) => return "closed".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    });
    assert!(["closed", "the node's token was withdrawn"].contains(&&*ended.await.unwrap()));
    ctrl.stop().await;
}
