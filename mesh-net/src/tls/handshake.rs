//! The handshake: rustls says what to send and when it has come to an end.

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, Error, ExtractedSecrets};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::record;
use super::session::Origin;

#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] Error),
}

/// Either end, as rustls has it.
pub(super) trait End {
    type Data;
    fn process<'a>(&'a mut self, incoming: &'a mut [u8]) -> UnbufferedStatus<'a, 'a, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_secrets(self) -> Result<(ExtractedSecrets, Origin), Error>;
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'a>(&'a mut self, incoming: &'a mut [u8]) -> UnbufferedStatus<'a, 'a, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, Origin), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, origin)| (secrets, Origin::Client(origin)))
    }
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'a>(&'a mut self, incoming: &'a mut [u8]) -> UnbufferedStatus<'a, 'a, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, Origin), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, origin)| (secrets, Origin::Server(origin)))
    }
}

/// Handshakes over `io`; yields what was read behind the handshake's last record, still sealed.
///
/// # Errors
/// The peer was told why, if the reason is TLS.
pub(super) async fn run<E: End, T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    end: &mut E,
) -> Result<Vec<u8>, Failure> {
    let mut incoming: Vec<u8> = Vec::with_capacity(READ);
    let mut outgoing: Vec<u8> = Vec::new();
    // rustls is shown one record at a time: what comes behind the last one is not its to open.
    let mut shown = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = end.process(&mut incoming[..shown]);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut outgoing)?;
                Next::Go
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Next::Write
            }
            Ok(ConnectionState::BlockedHandshake) => Next::Read,
            Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, EARLY_END).into());
            }
            Ok(_) => return Err(Error::General("data before the end of the handshake".into()).into()),
            Err(error) => Next::Fail(error),
        };
        incoming.drain(..discard);
        shown -= discard;
        match next {
            Next::Go => {}
            Next::Write => {
                io.write_all(&outgoing).await?;
                outgoing.clear();
            }
            Next::Read => match record_end(&incoming, shown) {
                Some(end) => shown = end,
                None => {
                    if incoming.len() >= LONGEST_FLIGHT {
                        return Err(Error::General("a handshake message is too long".into()).into());
                    }
                    incoming.reserve(READ);
                    if io.read_buf(&mut incoming).await? == 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, EARLY_END).into());
                    }
                }
            },
            Next::Done => return Ok(incoming.split_off(shown)),
            Next::Fail(error) => {
                // The alert that says why, if there is one. The error counts, whether or not the peer hears of it.
                if let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(alert)), .. } = end.process(&mut [])
                {
                    encode(alert, &mut outgoing)?;
                    let _ = io.write_all(&outgoing).await;
                }
                return Err(error.into());
            }
        }
    }
}

enum Next {
    Go,
    Write,
    Read,
    Done,
    Fail(Error),
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let used = outgoing.len();
    let needed = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Ok(_) => return Ok(()),
        Err(error) => return Err(Error::General(error.to_string())),
    };
    outgoing.resize(used + needed, 0);
    let written = data.encode(&mut outgoing[used..]).map_err(|error| Error::General(error.to_string()))?;
    outgoing.truncate(used + written);
    Ok(())
}

/// The end of the record that begins at `start`, if it is all there. What cannot be a record ends at once, for rustls to
/// say so.
fn record_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = &bytes[start..];
    // ChangeCipherSpec, alert, handshake, application data; RFC 8446, section 5.1.
    if rest.first().is_some_and(|kind| !(20..=23).contains(kind)) || rest.get(1).is_some_and(|major| *major != 3) {
        return Some(bytes.len());
    }
    match record::length(rest) {
        Ok(length) => length.map(|length| start + length).filter(|end| *end <= bytes.len()),
        Err(_) => Some(bytes.len()),
    }
}

const EARLY_END: &str = "tls handshake eof";
/// Most bytes of a read: a peer's whole flight, as a rule.
const READ: usize = 16 << 10;
/// More than rustls takes of any one message (64 KiB), in as many records.
const LONGEST_FLIGHT: usize = 128 << 10;
