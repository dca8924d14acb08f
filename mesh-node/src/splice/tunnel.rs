//! The tunnel ends of a splice. Nothing is copied here: a socket is read into the place where the bytes are sealed, and written
//! from where they were opened.

use std::io::{self, IoSliceMut};
use std::sync::OnceLock;

use mesh_net::tunnel::stream::{Filled, RecvHalf, SendHalf};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::turns::Turns;
use super::{Broken, Cause, Side, tcp};

/// Sends what `from` says, then half-closes the stream, with the last bytes if the end is there already. A reset by the peer is
/// heard even while `from` says nothing. See [`tcp::is_whole`] for `cut`.
pub(super) async fn send(
    from: &TcpStream,
    from_side: Side,
    tx: &mut SendHalf,
    to_side: Side,
    cut: &OnceLock<bool>,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let reading = |e: io::Error| Broken::Reading(from_side, Cause::Io(e));
    let writing = |e| Broken::Writing(to_side, Cause::Tunnel(e));
    let mut turns = Turns::default();
    loop {
        let ready = tokio::select! {
            ready = from.ready(Interest::READABLE) => ready.map_err(reading)?,
            error = tx.closed_by_peer() => return Err(writing(error)),
        };
        tx.ready().await.map_err(writing)?;
        let mut broken = None;
        let sent = tx.send_from(usize::MAX, |places| {
            let capacity: usize = places.iter().map(|place| place.len()).sum();
            let mut bytes = from.try_read_vectored(places)?;
            let mut end = bytes == 0;
            if bytes > 0 && bytes < capacity && ready.is_read_closed() {
                let mut rest = places;
                IoSliceMut::advance_slices(&mut rest, bytes);
                match from.try_read_vectored(rest) {
                    Ok(more) => {
                        (end, bytes) = (more == 0, bytes + more);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    // A socket tells its error once.
                    Err(e) => broken = Some(reading(e)),
                }
            }
            if end && let Err(error) = tcp::is_whole(cut, from_side) {
                // What was read before it goes first.
                (broken, end) = (Some(error), false);
            }
            Ok(Filled { bytes, end })
        });
        match sent.map_err(writing)? {
            Ok(filled) => {
                count(filled.bytes);
                match broken {
                    Some(broken) => return Err(broken),
                    None if filled.end => break,
                    None => turns.took(filled.bytes).await,
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(reading(e)),
        }
    }
    // Nobody else may come to hand the socket the rest.
    tx.flushed().await.map_err(writing)
}

/// Writes what the peer sends, then half-closes `to`.
pub(super) async fn receive(
    rx: &mut RecvHalf,
    from_side: Side,
    to: &TcpStream,
    to_side: Side,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let mut turns = Turns::default();
    while rx.ready().await.map_err(|e| Broken::Reading(from_side, Cause::Tunnel(e)))? {
        match rx.write_to(|pieces| to.try_write_vectored(pieces)) {
            Ok(written) => {
                count(written);
                turns.took(written).await;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let _untaken = rx.untaken();
                to.writable().await.map_err(|e| Broken::Writing(to_side, Cause::Io(e)))?;
            }
            Err(e) => return Err(Broken::Writing(to_side, Cause::Io(e))),
        }
    }
    tcp::finish(to);
    Ok(())
}
