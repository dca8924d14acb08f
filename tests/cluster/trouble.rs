//! An API server that throttles, fails, answers with garbage, or with less than there is: what was read stays in force.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use weft_tests::binaries;
use weft_tests::cluster::Cluster;
use weft_tests::cluster::controller::Controller;

use crate::source::{namespace, pod, run};

/// How the API server is today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Fine,
    /// 429, with the time after which to ask again.
    Throttling,
    /// 500.
    Failing,
    /// 200, and no JSON.
    Garbage,
    /// No history: and a list of pods is empty.
    Empty,
}

#[test]
fn an_api_server_that_throttles_fails_or_lies_takes_nothing_out_of_force() -> Result<()> {
    let cluster = Cluster::of_test(&binaries!())?;
    let api = cluster.api();
    api.apply(&namespace("shop"))?;
    let name = |name: &str| format!("Kubernetes//Pod/shop/{name}");
    let mut there = Vec::new();
    for (number, pod_name) in ["web", "db", "mail", "log"].iter().enumerate() {
        run(api, &pod(pod_name, "shop"), &format!("10.1.0.{}", number + 5))?;
        there.push(name(pod_name));
    }
    let runtime = Runtime::new()?;
    let (mood, moods) = watch::channel(Mood::Fine);
    let address = runtime.block_on(start(cluster.kubeconfig(), moods))?;
    let kubeconfig = cluster.dir().join("proxied.kubeconfig");
    let context = json!({"name": "c", "context": {"cluster": "c", "user": "u"}});
    let file = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {}}],
    });
    fs::write(&kubeconfig, file.to_string())?;
    let controller = Controller::start(&cluster, "controller", &[&format!("--kubeconfig={}", kubeconfig.display())])?;
    controller.wait_ready()?;
    for name in &there {
        controller.wait_resource(name, true)?;
    }

    let moods = [Mood::Throttling, Mood::Failing, Mood::Garbage, Mood::Empty];
    for (number, bad) in moods.into_iter().enumerate() {
        let errors = |labels: &[&str]| controller.metric("weft_source_errors_total", labels);
        let reasons: &[&str] = if bad == Mood::Empty { &["pods", "doubted"] } else { &["pods"] };
        let before = errors(reasons)?;
        mood.send_replace(bad);
        let fresh = format!("fresh-{number}");
        run(api, &pod(&fresh, "shop"), &format!("10.1.0.{}", number + 20))?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            let told = controller.resources()?;
            let missing: Vec<_> = there.iter().filter(|name| !told.contains(*name)).collect();
            ensure!(missing.is_empty(), "{bad:?}: {missing:?}\n{}", controller.log());
        }
        ensure!(errors(reasons)? > before, "{bad:?} was not noticed: {}", controller.log());
        mood.send_replace(Mood::Fine);
        controller.wait_resource(&name(&fresh), true).with_context(|| format!("after {bad:?}"))?;
        println!("figure: {:.1} s until all was known after {bad:?}", begun.elapsed().as_secs_f64() - 4.0);
        there.push(name(&fresh));
    }
    Ok(())
}

/// A proxy in front of the API server that passes on what it is asked, with an administrator's credentials; a new mood ends all
/// connections.
async fn start(kubeconfig: &Path, moods: watch::Receiver<Mood>) -> Result<SocketAddr> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (client, mut moods) = (client.clone(), moods.clone());
            tokio::spawn(async move {
                let mood = *moods.borrow_and_update();
                let service = service_fn(|request| answer(client.clone(), mood, request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = connection => {}
                    _ = moods.changed() => {}
                }
            });
        }
    });
    Ok(address)
}

type Body = UnsyncBoxBody<Bytes, kube::Error>;

async fn answer(client: Client, mood: Mood, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let whole = |status: u16, text: String| {
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.header("retry-after", "1").body(body).expect("a good response")
    };
    let status = |code: u16| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code});
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    Ok(match mood {
        Mood::Throttling => whole(429, status(429).to_string()),
        Mood::Failing => whole(500, status(500).to_string()),
        Mood::Garbage => whole(200, "\u{1f}{\"items\": [".to_owned()),
        Mood::Empty if request.uri().path() == "/api/v1/pods" => match is_watch {
            true => whole(200, json!({"type": "ERROR", "object": status(410)}).to_string() + "\n"),
            // Twice in a row it would be believed.
            false if EMPTY.swap(false, Ordering::Relaxed) => {
                let metadata = json!({"resourceVersion": "1"});
                whole(
                    200,
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": []}).to_string(),
                )
            }
            false => passed_on(client, request).await.unwrap_or_else(|_| whole(502, String::new())),
        },
        Mood::Fine | Mood::Empty => passed_on(client, request).await.unwrap_or_else(|_| whole(502, String::new())),
    })
}

/// Whether a list of pods is still to be empty.
static EMPTY: AtomicBool = AtomicBool::new(true);

async fn passed_on(client: Client, request: Request<Incoming>) -> Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    head.headers.remove("host");
    // Without scheme and authority: the client's own are put before it.
    head.uri = head.uri.path_and_query().context("a path")?.as_str().parse()?;
    let body = body.collect().await?.to_bytes();
    let response = client.send(Request::from_parts(head, body.to_vec().into())).await?;
    Ok(response.map(|body| body.boxed_unsync()))
}
