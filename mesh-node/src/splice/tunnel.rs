//! The tunnel ends of a splice.

use std::io;
use std::sync::OnceLock;

use mesh_net::tunnel::stream::{RecvHalf, SendHalf};
use tokio::net::TcpStream;

use super::scratch::{self, CHUNK};
use super::{Broken, Cause, Side, tcp};

/// Sends what `from` says, then half-closes the stream. A reset by the peer is heard even while `from` says nothing. See
/// [`tcp::is_whole`] for `cut`.
pub(super) async fn send(
    from: &TcpStream,
    from_side: Side,
    tx: &mut SendHalf,
    to_side: Side,
    cut: &OnceLock<bool>,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let reading = |e: io::Error| Broken::Reading(from_side, Cause::Io(e));
    loop {
        tokio::select! {
            ready = from.readable() => ready.map_err(reading)?,
            error = tx.closed_by_peer() => return Err(Broken::Writing(to_side, Cause::Tunnel(error))),
        }
        let credit = tx.ready(CHUNK).await.map_err(|e| Broken::Writing(to_side, Cause::Tunnel(e)))?;
        match scratch::fill(credit, |space| from.try_read_buf(space)) {
            Ok(bytes) if bytes.is_empty() => {
                tcp::is_whole(cut, from_side)?;
                tx.finish();
                return Ok(());
            }
            Ok(bytes) => {
                let read = bytes.len();
                tx.send(bytes).map_err(|e| Broken::Writing(to_side, Cause::Tunnel(e)))?;
                count(read);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(reading(e)),
        }
    }
}

/// Writes what the peer sends, giving credit back as it leaves, then half-closes `to`.
pub(super) async fn receive(
    rx: &mut RecvHalf,
    from_side: Side,
    to: &TcpStream,
    to_side: Side,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    while let Some(bytes) = rx.recv().await.map_err(|e| Broken::Reading(from_side, Cause::Tunnel(e)))? {
        tcp::write_all(to, &bytes, to_side).await?;
        count(bytes.len());
        rx.release(bytes.len());
    }
    tcp::finish(to);
    Ok(())
}
