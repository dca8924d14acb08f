//! What an agent asks, out of the body of its call: gRPC's length-prefixed messages.
//!
//! An agent that names all that it holds asks in a megabyte, and so do all of them after a restart. So large requests are read a few at
//! a time, what is not read yet stays where it comes from (HTTP/2 holds it back there), and the room that one took is
//! given back. (tonic's own reader keeps that room for as long as the stream lives.)

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use mesh_core::wire::discovery::DeltaDiscoveryRequest;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

/// Largest request: a resumption names every resource that the agent holds, about 100 bytes each. Read only from callers
/// that have shown a token.
const MAX_REQUEST: usize = 64 << 20;
/// A request beyond this waits for its turn.
const LARGE: usize = 64 << 10;
/// Large requests that are read at once.
const TURNS: usize = 4;
/// Who does not bring its request in this time goes on without the turn, which another one gets.
const TURN: Duration = Duration::from_secs(5);
/// A message's flag and length.
const PREFIX_BYTES: usize = 5;

/// The turns of all streams.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }
}

pub(super) struct Requests {
    body: Body,
    buffer: BytesMut,
    turns: Turns,
    /// Until when the request that arrives, or was read last, has its turn.
    turn: Option<(OwnedSemaphorePermit, Instant)>,
    stage: Stage,
}

/// How the request that arrives stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It needs no turn so far.
    Begun,
    /// It has its turn, or had it and took too long.
    Called,
    /// It was read, and is being answered: its turn ends when the next one is asked for.
    Read,
}

impl Requests {
    pub(super) fn new(body: Body, turns: Turns) -> Self {
        Self { body, buffer: BytesMut::new(), turns, turn: None, stage: Stage::Begun }
    }

    /// The next one; none once the agent has ended the stream. Can be dropped while it waits.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: no such message; `UNIMPLEMENTED`: it is compressed, which was not offered; `RESOURCE_EXHAUSTED`: it has more
    /// than 64 MiB; what the connection says when it breaks.
    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        if self.stage == Stage::Read {
            self.turn = None;
            self.stage = Stage::Begun;
        }
        loop {
            let length = self.length()?;
            if let Some(length) = length.filter(|length| self.buffer.len() >= PREFIX_BYTES + length) {
                return self.take(length).map(Some);
            }
            if length.is_some_and(|length| length > LARGE) && self.stage == Stage::Begun {
                let permit = self.turns.0.clone().acquire_owned().await;
                self.turn = permit.ok().map(|permit| (permit, Instant::now() + TURN));
                self.stage = Stage::Called;
            }
            let frame = match &self.turn {
                Some((_, until)) => match timeout_at(*until, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => {
                        self.turn = None;
                        continue;
                    }
                },
                None => self.body.frame().await,
            };
            match frame {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("the stream ends within a request")),
            }
        }
    }

    /// Of the message that the buffer begins with, if its prefix is there.
    fn length(&self) -> Result<Option<usize>, Status> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err(Status::unimplemented("compressed requests are not read here: send them as they are"));
        }
        match u32::from_be_bytes(length) as usize {
            length if length > MAX_REQUEST => {
                Err(Status::resource_exhausted(format!("a request of {length} bytes: at most {MAX_REQUEST} are read")))
            }
            length => Ok(Some(length)),
        }
    }

    fn take(&mut self, length: usize) -> Result<DeltaDiscoveryRequest, Status> {
        self.buffer.advance(PREFIX_BYTES);
        let message = DeltaDiscoveryRequest::decode(&self.buffer[..length]);
        self.buffer.advance(length);
        if length > LARGE {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        self.stage = Stage::Read;
        message.map_err(|error| Status::invalid_argument(format!("not a discovery request: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use bytes::Bytes;
    use futures_util::poll;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Sender = mpsc::Sender<Result<Frame<Bytes>, Status>>;

    fn stream(turns: &Turns) -> (Sender, Requests) {
        let (sender, frames) = mpsc::channel(100);
        (sender, Requests::new(Body::new(StreamBody::new(ReceiverStream::new(frames))), turns.clone()))
    }

    fn request(names: usize) -> DeltaDiscoveryRequest {
        let resource_names_subscribe = (0..names).map(|n| format!("some/name/of/a/resource/{n}")).collect();
        DeltaDiscoveryRequest { resource_names_subscribe, ..Default::default() }
    }

    fn framed(request: &DeltaDiscoveryRequest) -> Vec<u8> {
        let body = request.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    async fn send(sender: &Sender, bytes: &[u8]) {
        sender.send(Ok(Frame::data(Bytes::copy_from_slice(bytes)))).await.unwrap();
    }

    #[tokio::test]
    async fn requests_are_read_wherever_they_are_cut() {
        let (small, large) = (request(3), request(5000));
        let wire = [framed(&small), framed(&large), framed(&request(0)), framed(&small)].concat();
        for cut in [1, 4, 7, 4096, wire.len()] {
            let (sender, mut requests) = stream(&Turns::default());
            let pieces: Vec<Vec<u8>> = wire.chunks(cut).map(<[u8]>::to_vec).collect();
            tokio::spawn(async move {
                for piece in pieces {
                    send(&sender, &piece).await;
                }
            });
            for expected in [&small, &large, &request(0), &small] {
                assert_eq!(requests.message().await.unwrap().as_ref(), Some(expected));
            }
            assert!(requests.message().await.unwrap().is_none());
            assert!(requests.buffer.capacity() <= LARGE, "the room of the large one is kept");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_named() {
        let over = u32::try_from(MAX_REQUEST + 1).unwrap().to_be_bytes();
        let cases: [(Vec<u8>, &str); 4] = [
            (vec![1, 0, 0, 0, 0], "compressed"),
            ([&[0], &over[..]].concat(), "at most 67108864"),
            (vec![0, 0, 0, 0, 2, 0xff, 0xff], "not a discovery request"),
            (vec![0, 0, 0, 0, 9, 1], "ends within"),
        ];
        for (bytes, expected) in cases {
            let (sender, mut requests) = stream(&Turns::default());
            send(&sender, &bytes).await;
            drop(sender);
            let error = requests.message().await.unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_take_turns_and_one_that_never_ends_holds_up_nobody_for_long() {
        let (turns, large) = (Turns::default(), framed(&request(5000)));
        let mut stuck = Vec::new();
        for _ in 0..TURNS {
            let (sender, mut requests) = stream(&turns);
            send(&sender, &large[..100]).await;
            stuck.push((sender, tokio::spawn(async move { requests.message().await })));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (sender, mut requests) = stream(&turns);
        send(&sender, &large).await;
        // Whole in one frame: it needs no turn to wait in.
        assert!(requests.message().await.unwrap().is_some());
        for piece in large.chunks(4096) {
            send(&sender, piece).await;
        }
        {
            let mut message = std::pin::pin!(requests.message());
            assert!(matches!(poll!(&mut message), Poll::Pending), "a fifth turn");
            assert!(sender.capacity() < 100, "it is read without a turn");
        }
        let begun = Instant::now();
        assert!(requests.message().await.unwrap().is_some());
        assert!(begun.elapsed() <= TURN);
        // Those who were slow are heard all the same.
        let (sender, reading) = stuck.pop().unwrap();
        send(&sender, &large[100..]).await;
        assert!(reading.await.unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_turn_ends_when_the_next_request_is_asked_for() {
        let (turns, large) = (Turns(Arc::new(Semaphore::new(1))), framed(&request(5000)));
        let (sender, mut requests) = stream(&turns);
        for piece in [&large[..100], &large[100..]] {
            send(&sender, piece).await;
        }
        assert!(requests.message().await.unwrap().is_some());
        assert_eq!(turns.0.available_permits(), 0, "it is still being answered");
        assert!(matches!(poll!(std::pin::pin!(requests.message())), Poll::Pending));
        assert_eq!(turns.0.available_permits(), 1);
    }
}
