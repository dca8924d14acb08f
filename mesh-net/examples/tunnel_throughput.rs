//! Bytes per second of tunnel streams between two threads over loopback:
//! `tunnel_throughput [streams] [MiB each] [bytes per send]`.
//!
//! The HTTP/2 crate and buffered TLS allocate per frame and per record, and glibc gives the pages back and faults them in
//! again: compare page faults with `MALLOC_TRIM_THRESHOLD_=134217728 MALLOC_MMAP_THRESHOLD_=33554432`.
//! One single-threaded runtime per end, as the agent has; release builds only mean something.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_core::identity::SpiffeId;
use mesh_net::testing::TestCa;
use mesh_net::tls::{self, ALPN_H2, Credentials, TrustDomains};
use mesh_net::tunnel::head::Head;
use mesh_net::tunnel::{Config, client, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let streams: usize = arguments.next().map_or(Ok(1), |a| a.parse())?;
    let mebibytes: usize = arguments.next().map_or(Ok(4096), |a| a.parse())?;
    let block: usize = arguments.next().map_or(Ok(256 << 10), |a| a.parse())?;
    let ca = TestCa::new("root");
    let id = |account: &str| SpiffeId::new("cluster.local", "bench", account).expect("a valid identity");
    let (near, far) = (ca.credentials(&id("near")), ca.credentials(&id("far")));
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let sink = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(accept(listener, far));
    });
    let started = Instant::now();
    let total = runtime.block_on(dial(address, near, id("far"), streams, mebibytes << 20, block));
    let seconds = started.elapsed().as_secs_f64();
    sink.join().expect("the sink does not panic");
    println!("{streams} streams, {} MiB: {:.0} MB/s", total >> 20, total as f64 / 1e6 / seconds);
    Ok(())
}

async fn accept(listener: std::net::TcpListener, credentials: Credentials) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let (tcp, _) = listener.accept().await.expect("a peer");
    tcp.set_nodelay(true).expect("an option");
    let domains = TrustDomains::only("cluster.local");
    let tls = tls::accept(tcp, &credentials, &domains, &[ALPN_H2], PATIENCE).await.expect("a handshake");
    let mut connection = server::Connection::handshake(tls, &Config::default()).await.expect("a tunnel");
    while let Some(request) = connection.accept().await {
        let Ok(Ok(stream)) = request.map(|r| r.accept(None)) else { return };
        let (mut send, mut recv) = stream.split();
        tokio::spawn(async move {
            while let Ok(Some(data)) = recv.recv().await {
                recv.release(data.len());
            }
            send.finish();
        });
    }
}

async fn dial(at: SocketAddr, own: Credentials, peer: SpiffeId, streams: usize, each: usize, block: usize) -> usize {
    let tcp = TcpStream::connect(at).await.expect("a peer");
    tcp.set_nodelay(true).expect("an option");
    let tls = tls::connect(tcp, &own, &[peer], &[ALPN_H2], PATIENCE).await.expect("a handshake");
    let (connection, driver) = client::Connection::handshake(tls, &Config::default()).await.expect("a tunnel");
    let driver = tokio::spawn(driver);
    let data = Bytes::from(vec![7u8; block]);
    let mut sending = Vec::new();
    for _ in 0..streams {
        let (_, stream) = connection.open(&Head::to("10.0.0.1:80"), PATIENCE).await.expect("a stream");
        let (mut send, mut recv) = stream.split();
        let data = data.clone();
        sending.push(tokio::spawn(async move {
            let mut left = each;
            while left > 0 {
                let n = send.ready(left.min(data.len())).await.expect("credit");
                // A copy, because a relay's bytes come out of a scratch buffer.
                send.send(Bytes::copy_from_slice(&data[..n])).expect("sent");
                left -= n;
            }
            send.finish();
            while let Ok(Some(_)) = recv.recv().await {}
        }));
    }
    for task in sending {
        task.await.expect("a stream ends well");
    }
    drop(connection);
    let _ = driver.await;
    streams * each
}
