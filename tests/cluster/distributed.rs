//! How many agents have an object, as its status says.

use std::fs;

use anyhow::{Context, Result};
use mesh_core::wire::discovery::{DeltaDiscoveryRequest, Status as Rejection};
use mesh_net::control::Kind;
use mesh_net::grpc::client::AggregatedDiscoveryServiceClient;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::agent::Agent;
use weft_tests::cluster::api::Api;
use weft_tests::cluster::controller::{Controller, NAMESPACE};
use weft_tests::wait::{PATIENCE, until};

use crate::identity;

/// How an agent takes what it is told.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Acknowledges,
    IsSilent,
    Refuses,
}

/// An agent that is not as agents are.
struct Odd {
    manner: watch::Sender<Manner>,
    /// Ends the stream when it is dropped.
    _runtime: Runtime,
}

impl Odd {
    fn connect(controller: &Controller, token: &str) -> Result<Odd> {
        let (manner, is) = watch::channel(Manner::Acknowledges);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let roots = Certificate::from_pem(fs::read(controller.state().join("root-cert.pem"))?);
        let tls = ClientTlsConfig::new().ca_certificate(roots).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", controller.control()))?.tls_config(tls)?;
        let bearer = format!("Bearer {token}").parse()?;
        runtime.spawn(async move {
            if let Err(error) = Odd::serve(endpoint, bearer, is).await {
                println!("the odd agent's stream ended: {error:#}");
            }
        });
        Ok(Odd { manner, _runtime: runtime })
    }

    async fn serve(
        endpoint: Endpoint,
        bearer: tonic::metadata::MetadataValue<tonic::metadata::Ascii>,
        mut manner: watch::Receiver<Manner>,
    ) -> Result<()> {
        let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await?);
        let (say, requests) = mpsc::channel(16);
        for kind in [Kind::Authorization, Kind::Address] {
            let subscribes = DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() };
            say.send(subscribes).await?;
        }
        let mut request = Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", bearer);
        let mut told = client.delta_aggregated_resources(request).await?.into_inner();
        while let Some(response) = told.message().await? {
            let now = *manner.wait_for(|manner| *manner != Manner::IsSilent).await?;
            let refuses = Rejection { code: 3, message: "no such field".to_owned() };
            let answer = DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                error_detail: (now == Manner::Refuses).then_some(refuses),
                ..Default::default()
            };
            say.send(answer).await?;
        }
        Ok(())
    }
}

fn policy(version: u64) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "counted", "namespace": "shop"},
        "spec": {"rules": [{"from": [{"source": {"namespaces": [format!("v{version}")]}}]}]},
    })
}

/// Waits until the condition is as it should be.
fn says(api: &Api, status: &str, reason: &str, generation: u64, words: &str) -> Result<()> {
    let mut last = Value::Null;
    let said = until(&format!("{status} {words}"), 3 * PATIENCE, || {
        let object = api.get(&policy(0)).ok()??;
        let conditions = object["status"]["conditions"].as_array()?;
        last = conditions.iter().find(|condition| condition["type"] == "weft.io/Distributed")?.clone();
        let message = last["message"].as_str()?;
        let holds = last["status"] == status
            && last["reason"] == reason
            && last["observedGeneration"] == generation
            && message.contains(words);
        holds.then_some(())
    });
    said.with_context(|| format!("its status says {last}"))
}

#[test]
fn an_objects_status_says_how_many_agents_of_all_replicas_have_it() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    identity::populate(api)?;
    api.apply(&crate::source::definition("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"))?;
    until("the definition to be served", PATIENCE, || api.apply(&policy(1)).is_ok().then_some(()))?;
    // One of them leads, and hears of the other's agents.
    let one = Controller::start(&cluster, "one", &[])?;
    let two = Controller::start(&cluster, "two", &[])?;
    one.wait_ready()?;
    two.wait_ready()?;
    let token = identity::token(api, NAMESPACE, "weft-node", Some(("Pod", "weft-node-a")), "istio-ca")?;
    let agents = [Agent::connect(&one, &token)?, Agent::connect(&two, &token)?];
    for agent in &agents {
        agent.wait_synced()?;
    }
    let told = |step: &str| format!("{step}; logs:\n{}\n{}", one.log(), two.log());
    let odd = Odd::connect(&two, &token)?;
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weft-agents", "namespace": NAMESPACE}});
    until("all agents to be counted", PATIENCE, || {
        let data = api.get(&map).ok()??["data"].as_object()?.clone();
        let said = data.values().filter_map(|text| serde_json::from_str::<Value>(text.as_str()?).ok());
        let connected = said.filter_map(|said| said["says"]["connected"].as_u64()).sum::<u64>();
        (connected == 3).then_some(())
    })
    .with_context(|| told("nobody counts"))?;
    api.apply(&policy(2))?;
    says(api, "True", "Distributed", 2, "3 of 3 agents and waypoints have generation 2")
        .with_context(|| told("at first"))?;

    odd.manner.send_replace(Manner::IsSilent);
    api.apply(&policy(3))?;
    says(api, "False", "Pending", 3, "2 of 3 agents and waypoints have generation 3")
        .with_context(|| told("silent"))?;
    odd.manner.send_replace(Manner::Acknowledges);
    says(api, "True", "Distributed", 3, "3 of 3").with_context(|| told("acknowledged"))?;

    odd.manner.send_replace(Manner::Refuses);
    api.apply(&policy(4))?;
    says(api, "False", "Refused", 4, "2 of 3 agents and waypoints have generation 4; 1 of them refuse")
        .with_context(|| told("refused"))?;
    says(api, "False", "Refused", 4, "no such field")?;
    // Who is gone is not counted.
    drop(odd);
    says(api, "True", "Distributed", 4, "2 of 2 agents and waypoints have generation 4")
        .with_context(|| told("gone"))?;
    Ok(())
}
