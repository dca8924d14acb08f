//! The TCP ends of a splice.

use std::io;
use std::net::Shutdown;
use std::sync::OnceLock;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::scratch::Scratch;
use super::turns::Turns;
use super::{Broken, Cause, Side};

/// Copies until `from` finishes, then finishes `to`. See [`is_whole`] for `cut`.
pub(super) async fn copy(
    from: &TcpStream,
    from_side: Side,
    to: &TcpStream,
    to_side: Side,
    cut: &OnceLock<bool>,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let mut turns = Turns::default();
    loop {
        from.readable().await.map_err(|e| Broken::Reading(from_side, Cause::Io(e)))?;
        let mut scratch = Scratch::take();
        match from.try_read(scratch.bytes()) {
            Ok(0) => {
                is_whole(cut, from_side)?;
                finish(to);
                return Ok(());
            }
            Ok(read) => {
                write_all(to, &scratch.bytes()[..read], to_side).await?;
                count(read);
                drop(scratch);
                turns.took(read).await;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(Broken::Reading(from_side, Cause::Io(e))),
        }
    }
}

pub(super) async fn write_all(to: &TcpStream, mut bytes: &[u8], side: Side) -> Result<(), Broken> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                to.writable().await.map_err(|e| Broken::Writing(side, Cause::Io(e)))?;
            }
            Err(e) => return Err(Broken::Writing(side, Cause::Io(e))),
        }
    }
    Ok(())
}

/// Whether the end that was just read is a FIN. Once somebody has been told of a socket's error, reading from it yields an
/// end where it would have yielded the error: `cut` is set then.
pub(super) fn is_whole(cut: &OnceLock<bool>, side: Side) -> Result<(), Broken> {
    match cut.get() {
        Some(true) => Err(Broken::Reading(side, Cause::Io(io::ErrorKind::ConnectionReset.into()))),
        Some(false) | None => Ok(()),
    }
}

/// Half-closes: the other end reads end-of-file and may go on writing.
pub(super) fn finish(to: &TcpStream) {
    // Fails only when the connection is gone already, which the reader of `to` learns by itself.
    let _ = SockRef::from(to).shutdown(Shutdown::Write);
}

/// Resolves when the connection was reset or timed out, even while nobody reads from it; at once with what is `known`.
pub(super) async fn broken(tcp: &TcpStream, known: Option<io::Error>) -> io::Error {
    if let Some(error) = known {
        return error;
    }
    loop {
        match tcp.ready(Interest::ERROR).await {
            Err(e) => return e,
            Ok(ready) if ready.is_error() => {
                return match tcp.take_error() {
                    Ok(Some(e)) | Err(e) => e,
                    // Read or write was told first.
                    Ok(None) => io::ErrorKind::ConnectionReset.into(),
                };
            }
            Ok(_) => {}
        }
    }
}
