//! Waiting for a condition, with a deadline.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for a loaded machine of two cores; a condition that holds is seen within 20 ms.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Asks `condition` until it yields a value.
///
/// # Errors
/// When it has not after `within`; `what` says what was waited for.
pub fn until<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if begun.elapsed() >= within {
            bail!("waited {within:?} in vain: {what}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Accepts a connection, with a deadline: through a mesh, a client may be connected and its server never be. Reading and
/// writing have [`PATIENCE`] too.
///
/// # Errors
/// What `accept` says, or that none came.
pub fn accepted(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let accepted = until("a connection", PATIENCE, || match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        accepted => Some(accepted),
    })?;
    let (stream, peer) = accepted?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok((stream, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut left = 3;
        let seen = until("three questions", PATIENCE, || {
            left -= 1;
            (left == 0).then_some("yes")
        });
        assert_eq!(seen.unwrap(), "yes");
    }

    #[test]
    fn a_condition_that_never_holds_is_named() {
        let error = until("the moon to fall", Duration::from_millis(5), || None::<()>).unwrap_err();
        assert!(error.to_string().contains("the moon to fall"), "{error}");
    }
}
