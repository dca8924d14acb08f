//! The client and an authority that is not as it was said to be.

use std::net::SocketAddr;
use std::path::Path;

use mesh_core::wire::ca::IstioCertificateResponse;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Response;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::*;
use crate::grpc::server::{IstioCertificateService, IstioCertificateServiceServer};
use crate::svid::KeyPair;
use crate::testing::{Leaf, TestCa};

/// Tells whom each request names beside itself, and signs.
struct Authority(TestCa, mpsc::UnboundedSender<Option<Struct>>);

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let request = request.into_inner();
        let _ = self.1.send(request.metadata);
        let chain = self.0.sign(&request.csr, &web(), Duration::from_secs(60)).unwrap();
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![chain, self.0.root_pem().to_owned()] }))
    }
}

fn web() -> SpiffeId {
    SpiffeId::new("td", "shop", "web").unwrap()
}

/// An authority for `ca.example`, whose root is in `roots`.
async fn serve(roots: &Path) -> (SocketAddr, mpsc::UnboundedReceiver<Option<Struct>>) {
    let ca = TestCa::new("theirs");
    std::fs::write(roots, ca.root_pem()).unwrap();
    let (cert, key) = ca.issue_pem(&Leaf { uris: Vec::new(), dns: vec!["ca.example".to_owned()], ..Leaf::of(&web()) });
    let (told, hears) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
    let service = IstioCertificateServiceServer::new(Authority(ca, told));
    let server = Server::builder().tls_config(tls).unwrap().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, hears)
}

fn config(address: SocketAddr, roots: &Path, name: &str) -> Config {
    let target =
        Target { address: address.to_string(), server_name: Some(name.to_owned()), roots: roots.into(), token: None };
    Config::new(target, "Kubernetes")
}

async fn sign(config: Config) -> Result<Vec<String>, CaError> {
    let csr = KeyPair::generate().unwrap().csr_pem(&web()).unwrap();
    CaClient::new(config).unwrap().sign(csr, &web(), Duration::from_secs(60)).await
}

#[tokio::test]
async fn who_asks_for_itself_names_nobody_beside_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    let (address, mut hears) = serve(&roots).await;
    let config = config(address, &roots, "ca.example");
    sign(config.clone()).await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), Some(impersonated(&web())));
    sign(Config { impersonates: false, ..config }).await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), None);
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (roots, others) = (dir.path().join("roots.pem"), dir.path().join("others.pem"));
    let (address, _hears) = serve(&roots).await;
    std::fs::write(&others, TestCa::new("others").root_pem()).unwrap();

    let error = sign(config(address, &others, "ca.example")).await.unwrap_err();
    assert!(matches!(&error, CaError::Root { roots, .. } if *roots == others), "{error:?}");
    let error = sign(config(address, &roots, "another.example")).await.unwrap_err();
    assert!(matches!(&error, CaError::Name { name, .. } if name == "another.example"), "{error:?}");
    let error = sign(config(([127, 0, 0, 1], 1).into(), &roots, "ca.example")).await.unwrap_err();
    assert!(matches!(&error, CaError::Unavailable { .. }), "{error:?}");
}
