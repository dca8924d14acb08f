//! Two peers with one certificate authority, and sockets between them.

use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_net::testing::TestCa;
use mesh_net::tls::{self, ALPN_H2, ClientTls, Credentials, HandshakeError, ServerTls, TrustDomains};
use mesh_net::tunnel::head::Head;
use mesh_net::tunnel::stream::{RecvHalf, SendHalf, Stream};
use mesh_net::tunnel::{Config, ConnectionError, client, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longer than any step takes on a busy machine; a test that waits for it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}

pub(crate) struct Mesh {
    pub(crate) ca: TestCa,
    pub(crate) web: Credentials,
    pub(crate) db: Credentials,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let ca = TestCa::new("mesh root");
        let (web, db) = (ca.credentials(&id("web")), ca.credentials(&id("db")));
        Self { ca, web, db }
    }
}

pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap().0);
    dialled.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (dialled, accepted)
}

/// Both ends' handshakes, `client` expecting `expected`.
pub(crate) async fn handshake(
    client: &Credentials,
    server: &Credentials,
    expected: &[SpiffeId],
) -> (Result<ClientTls, HandshakeError>, Result<ServerTls, HandshakeError>) {
    handshake_over(client, server, expected, [&[ALPN_H2], &[ALPN_H2]]).await
}

/// As [`handshake`], where the client and the server speak these protocols.
pub(crate) async fn handshake_over(
    client: &Credentials,
    server: &Credentials,
    expected: &[SpiffeId],
    alpn: [&[&[u8]]; 2],
) -> (Result<ClientTls, HandshakeError>, Result<ServerTls, HandshakeError>) {
    let (dialled, accepted) = sockets().await;
    let domains = TrustDomains::only("cluster.local");
    tokio::join!(
        tls::connect(dialled, client, expected, alpn[0], LONG),
        tls::accept(accepted, server, &domains, alpn[1], LONG)
    )
}

pub(crate) async fn encrypted(mesh: &Mesh) -> (ClientTls, ServerTls) {
    let (client, server) = handshake(&mesh.web, &mesh.db, &[id("db")]).await;
    (client.unwrap(), server.unwrap())
}

pub(crate) type Driver = JoinHandle<Result<(), ConnectionError>>;

/// A tunnel from web to db; the client's driver runs, the server must be accepted from.
pub(crate) async fn tunnel(config: &Config) -> (client::Connection, Driver, server::Connection) {
    let (client, server) = encrypted(&Mesh::new()).await;
    let (connection, driver) = client::Connection::new(client, config);
    let driver = tokio::spawn(driver);
    (connection, driver, server::Connection::handshake(server, config).await.unwrap())
}

/// Accepts every stream and hands it to `serve`, until the connection ends.
pub(crate) fn serve<F>(
    mut server: server::Connection,
    serve: impl Fn(SendHalf, RecvHalf) -> F + Send + 'static,
) -> Driver
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(request) = server.accept().await {
            // A peer may have given up by then.
            if let Ok(stream) = request?.accept(None) {
                let (send, recv) = stream.split();
                tokio::spawn(serve(send, recv));
            }
        }
        Ok(())
    })
}

pub(crate) async fn echo(mut send: SendHalf, mut recv: RecvHalf) {
    while let Ok(Some(data)) = recv.recv().await {
        if send.send(&data).await.is_err() {
            return;
        }
    }
    send.finish();
}

pub(crate) async fn open(connection: &client::Connection) -> (SendHalf, RecvHalf) {
    let (_, stream) = connection.open(&Head::to("10.0.0.1:80"), LONG, None).await.unwrap();
    Stream::split(stream)
}

/// Everything until the peer's half-close.
pub(crate) async fn read_to_end(recv: &mut RecvHalf) -> Result<Vec<u8>, mesh_net::tunnel::stream::StreamError> {
    let mut all = Vec::new();
    while let Some(data) = recv.recv().await? {
        all.extend_from_slice(&data);
    }
    Ok(all)
}

pub(crate) type Halves = (SendHalf, RecvHalf);

/// One stream, both ends in hand.
pub(crate) async fn stream(config: &Config) -> (client::Connection, Halves, Halves, [Driver; 2]) {
    let (connection, driver, mut server) = tunnel(config).await;
    let (near, (far, server)) = tokio::join!(open(&connection), async {
        let far = server.accept().await.unwrap().unwrap().accept(None).unwrap();
        (far.split(), serve(server, echo))
    });
    (connection, near, far, [driver, server])
}
