//! A relay that does nothing but read and write: what two more hops cost on this machine before anybody encrypts, captures,
//! decides or counts. What Weft adds is seen beside it.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

/// Carries each connection at `port` to the same of `to`'s ports that its own is.
///
/// # Errors
/// When the ports are taken.
pub(super) fn serve(routes: &[(u16, SocketAddr)]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut accepting = tokio::task::JoinSet::new();
        for (port, to) in routes.iter().copied() {
            let listener =
                TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("listen on port {port}"))?;
            accepting.spawn(async move {
                // A client that went away ends its connection only.
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(relay(client, to));
                }
            });
        }
        accepting.join_all().await;
        Ok(())
    })
}

async fn relay(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::try_join!(copy(&client, &server), copy(&server, &client))?;
    Ok(())
}

async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        let read = match from.try_read(&mut scratch) {
            Ok(0) => return SockRef::from(to).shutdown(Shutdown::Write),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            read => read?,
        };
        let mut rest = &scratch[..read];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                written => rest = &rest[written?..],
            }
        }
        SCRATCH.set(Some(scratch));
    }
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// As much as an agent moves in one go.
const CHUNK: usize = 128 << 10;
