//! Both ends of a tunnel, in hands that keep to no rule of the mesh.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use mesh_net::testing::AnyServer;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::AsyncReadExt;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};
use weft_tests::place::Place;

use super::minted::Minted;

/// An agent gives a silent peer ten seconds for TLS and ten for HTTP/2.
const LIMIT: Duration = Duration::from_secs(40);

pub(super) fn block<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.context("it goes on and on")? })
}

pub(super) fn tokio_stream(stream: TcpStream) -> Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    Ok(tokio::net::TcpStream::from_std(stream)?)
}

type Tls = client::TlsStream<tokio::net::TcpStream>;

/// A TLS client that takes any server, as `who` if that is anybody.
pub(super) async fn tls(from: &Place, to: SocketAddr, who: Option<&Minted>) -> Result<Tls> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match who {
        Some(who) => config.with_client_auth_cert(who.chain.clone(), who.key())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio_stream(from.dial(to)?)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(to.ip().into()), stream).await?)
}

/// Asks for `authority`; yields the status, and whether bytes came back when that is 200.
pub(super) async fn request(tls: Tls, method: Method, authority: &str) -> Result<String> {
    request_with(tls, method, authority, &[]).await
}

pub(super) async fn request_with(
    tls: Tls,
    method: Method,
    authority: &str,
    fields: &[(&'static str, String)],
) -> Result<String> {
    let (client, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(async move { connection.await.ok() });
    let uri = http::Uri::builder();
    let uri = match method {
        Method::CONNECT => uri.authority(authority).build()?,
        _ => uri.scheme("https").authority(authority).path_and_query("/").build()?,
    };
    let request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, value)).body(())?;
    let (response, mut send) = client.ready().await?.send_request(request, false)?;
    let response = response.await?;
    let status = response.status().as_u16();
    if status != 200 {
        return Ok(status.to_string());
    }
    send.send_data(Bytes::from_static(b"hello"), false)?;
    let mut body = response.into_body();
    let mut heard = Vec::new();
    while heard.len() < 5 {
        let Some(data) = body.data().await else { bail!("the stream ended after {} bytes", heard.len()) };
        heard.extend_from_slice(&data?);
    }
    ensure!(heard == b"hello", "another answer: {heard:?}");
    Ok("200, echoed".to_owned())
}

/// Reads until the other side closes, in whatever way.
pub(super) async fn drained(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    Ok(())
}

/// A server of tunnels that asks nobody who he is, echoes, and shows whatever certificate is in `shown` at the time.
pub(super) fn impostor(listener: TcpListener, shown: Arc<Mutex<Minted>>) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let config = {
                    let shown = shown.lock().expect("nobody panics while holding it");
                    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                        .with_safe_default_protocol_versions()?
                        .with_no_client_auth()
                        .with_single_cert(shown.chain.clone(), shown.key())?;
                    config.alpn_protocols = vec![b"h2".to_vec()];
                    config
                };
                tokio::spawn(async move {
                    let tls = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
                    let mut connection = h2::server::handshake(tls).await?;
                    while let Some(request) = connection.accept().await {
                        let (request, mut respond) = request?;
                        let mut send = respond.send_response(Response::new(()), false)?;
                        let mut body = request.into_body();
                        tokio::spawn(async move {
                            while let Some(Ok(data)) = body.data().await {
                                let _ = body.flow_control().release_capacity(data.len());
                                if send.send_data(data, false).is_err() {
                                    return;
                                }
                            }
                            let _ = send.send_data(Bytes::new(), true);
                        });
                    }
                    anyhow::Ok(())
                });
            }
        })
    })
}
