//! Frames of Weft's own transport: four bytes of head and what they announce (docs/transport.md). Pure.
//!
//! ```text
//! | kind (1) | length (3) | payload (length) |
//! ```

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::tunnel::head::{self, Baggage, Head, InvalidHead};

/// Bytes before a payload.
pub(super) const HEAD: usize = 4;

/// What a frame is; the numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Bytes of the stream.
    Data = 0,
    /// Bytes of the stream, perhaps none, and nothing after them.
    Last = 1,
    /// Asks for a stream.
    Head = 2,
    /// Answers a [`Kind::Head`].
    Reply = 3,
    /// Gives the stream up, and the connection with it.
    Reset = 4,
    /// The connection takes no further stream.
    GoAway = 5,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Data, Self::Last, Self::Head, Self::Reply, Self::Reset, Self::GoAway]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Writes a frame's head. `length` is below 2^24.
pub(super) fn write(into: &mut [u8], kind: Kind, length: usize) {
    debug_assert!(length < 1 << 24);
    let length = (length as u32).to_be_bytes();
    into.copy_from_slice(&[kind as u8, length[1], length[2], length[3]]);
}

/// A whole frame around a message.
pub(super) fn message(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEAD];
    write(&mut frame, kind, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Some bytes; never none.
    Data(Bytes),
    Last,
    Head(Bytes),
    Reply(Bytes),
    Reset,
    GoAway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("a frame of kind {0}, which this version does not know")]
    Kind(u8),
    #[error("a message of {0} bytes")]
    Length(usize),
    #[error("a message that cannot be read")]
    Malformed,
    #[error("a frame that does not belong here")]
    Unexpected,
}

/// Cuts what arrives into frames, wherever it was cut before.
#[derive(Debug, Default)]
pub(super) struct Parser {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Of the next frame's head so many bytes have come.
    Head {
        begun: [u8; HEAD],
        count: usize,
    },
    Data {
        left: usize,
        last: bool,
    },
    Message {
        kind: Option<Kind>,
        left: usize,
        begun: Vec<u8>,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Head { begun: [0; HEAD], count: 0 }
    }
}

impl Parser {
    /// Whether it is between two frames.
    fn is_between(&self) -> bool {
        matches!(self.state, State::Head { count: 0, .. })
    }

    /// Takes what arrived, and hands on what it completes. Data is handed on as it comes, uncopied.
    ///
    /// # Errors
    /// The peer is none that can be talked to; nothing more may be pushed.
    pub(super) fn push(&mut self, mut bytes: Bytes, mut each: impl FnMut(Event)) -> Result<(), Violation> {
        loop {
            match &mut self.state {
                State::Head { begun, count } => {
                    let some = bytes.split_to(bytes.len().min(HEAD - *count));
                    begun[*count..*count + some.len()].copy_from_slice(&some);
                    *count += some.len();
                    if *count < HEAD {
                        return Ok(());
                    }
                    self.state = announced(*begun)?;
                }
                State::Data { left, last } => {
                    if *left > 0 {
                        let some = bytes.split_to(bytes.len().min(*left));
                        if some.is_empty() {
                            return Ok(());
                        }
                        *left -= some.len();
                        each(Event::Data(some));
                    }
                    if *left == 0 {
                        if *last {
                            each(Event::Last);
                        }
                        self.state = State::default();
                    }
                }
                State::Message { kind, left, begun } => {
                    let some = bytes.split_to(bytes.len().min(*left));
                    *left -= some.len();
                    if *left > 0 {
                        begun.extend_from_slice(&some);
                        return Ok(());
                    }
                    let whole = if begun.is_empty() {
                        some
                    } else {
                        begun.extend_from_slice(&some);
                        Bytes::from(std::mem::take(begun))
                    };
                    match kind {
                        Some(Kind::Head) => each(Event::Head(whole)),
                        Some(Kind::Reply) => each(Event::Reply(whole)),
                        Some(Kind::Reset) => each(Event::Reset),
                        Some(Kind::GoAway) => each(Event::GoAway),
                        Some(Kind::Data | Kind::Last) | None => {}
                    }
                    self.state = State::default();
                }
            }
            if bytes.is_empty() && self.is_between() {
                return Ok(());
            }
        }
    }
}

fn announced(head: [u8; HEAD]) -> Result<State, Violation> {
    let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    match Kind::from_wire(head[0]) {
        Some(Kind::Data) => Ok(State::Data { left: length, last: false }),
        Some(Kind::Last) => Ok(State::Data { left: length, last: true }),
        // Kinds from 128 on may be added by peers of this version, to be passed over by those who do not know them.
        None if head[0] < OPTIONAL => Err(Violation::Kind(head[0])),
        _ if length > LONGEST => Err(Violation::Length(length)),
        kind => Ok(State::Message { kind, left: length, begun: Vec::new() }),
    }
}

/// First kind that a peer may pass over.
const OPTIONAL: u8 = 128;
/// Longest message, in bytes: that of the largest head with room to spare.
const LONGEST: usize = 16 << 10;

/// What [`Kind::Head`] carries.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HeadMessage {
    #[prost(string, tag = "1")]
    authority: String,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<Field>,
}

/// What [`Kind::Reply`] carries.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ReplyMessage {
    /// As HTTP has it; 200 is yes.
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<Field>,
}

/// A field as HBONE has it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

impl Field {
    fn new((name, value): (&'static [u8], String)) -> Self {
        Self { name: String::from_utf8_lossy(name).into_owned(), value }
    }
}

/// A whole frame that asks for a stream.
///
/// # Errors
/// [`InvalidHead::Authority`]
pub(super) fn head(head: &Head) -> Result<Vec<u8>, InvalidHead> {
    head::check_authority(&head.authority)?;
    let fields = head.fields().map(Field::new).collect();
    let message = HeadMessage { authority: head.authority.clone(), fields };
    Ok(self::message(Kind::Head, &message.encode_to_vec()))
}

/// Reads a head, and says how many optional fields were left out as malformed.
///
/// # Errors
/// [`Violation::Malformed`] for what is no such message; the inner error is the authority's.
pub(super) fn read_head(bytes: Bytes) -> Result<Result<(Head, u32), InvalidHead>, Violation> {
    let message = HeadMessage::decode(bytes).map_err(|_| Violation::Malformed)?;
    let fields = message.fields.iter().map(|field| (field.name.as_bytes(), field.value.as_bytes()));
    Ok(Head::from_fields(&message.authority, fields))
}

/// A whole frame that answers.
pub(super) fn reply(status: u16, baggage: Option<&Baggage>) -> Vec<u8> {
    let fields = baggage.map(|baggage| Field::new((head::BAGGAGE, baggage.encode()))).into_iter().collect();
    let message = ReplyMessage { status: status.into(), fields };
    self::message(Kind::Reply, &message.encode_to_vec())
}

/// The status of a reply, and its baggage unless that is malformed.
///
/// # Errors
/// [`Violation::Malformed`]
pub(super) fn read_reply(bytes: Bytes) -> Result<(u16, Option<Baggage>), Violation> {
    let message = ReplyMessage::decode(bytes).map_err(|_| Violation::Malformed)?;
    let status = u16::try_from(message.status).map_err(|_| Violation::Malformed)?;
    let fields = message.fields.iter().map(|field| (field.name.as_bytes(), field.value.as_bytes()));
    Ok((status, head::reply_baggage(fields)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pushed(parts: &[&[u8]]) -> (Vec<Event>, Result<(), Violation>) {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for part in parts {
            let result = parser.push(Bytes::copy_from_slice(part), |event| match (events.last_mut(), event) {
                (Some(Event::Data(before)), Event::Data(more)) => *before = [&before[..], &more].concat().into(),
                (_, event) => events.push(event),
            });
            if result.is_err() {
                return (events, result);
            }
        }
        assert!(parser.is_between());
        (events, Ok(()))
    }

    #[test]
    fn what_is_unknown_ends_the_connection_unless_it_may_be_passed_over() {
        assert_eq!(pushed(&[&[6, 0, 0, 0]]).1, Err(Violation::Kind(6)));
        assert_eq!(pushed(&[&[2, 0, 0x40, 1]]).1, Err(Violation::Length(0x4001)));
        assert_eq!(pushed(&[&[200, 0, 0, 2, 9, 9, 5, 0, 0, 0]]), (vec![Event::GoAway], Ok(())));
        assert_eq!(read_head(Bytes::from_static(&[0xff; 9])), Err(Violation::Malformed));
        assert_eq!(read_reply(Bytes::from_static(&[8, 0xff, 0xff, 0xff, 0x0f])), Err(Violation::Malformed));
    }

    #[test]
    fn empty_data_is_nothing_and_an_empty_last_is_an_end() {
        assert_eq!(pushed(&[&[0, 0, 0, 0, 1, 0, 0, 0]]), (vec![Event::Last], Ok(())));
    }

    #[test]
    fn heads_and_replies_say_what_hbone_says() {
        let sent = Head {
            authority: "[2001:db8::1]:5432".to_owned(),
            baggage: Some(Baggage { cluster: Some("c,1".to_owned()), ..Baggage::default() }),
            forwarded: Some(head::Forwarded { for_: "10.1.2.3:4711".parse().unwrap(), host: None }),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        };
        let frame = head(&sent).unwrap();
        let (events, _) = pushed(&[&frame]);
        let [Event::Head(bytes)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(read_head(bytes.clone()), Ok(Ok((sent.clone(), 0))));
        assert_eq!(head(&Head::to("nowhere")), Err(InvalidHead::Authority));

        let (events, _) = pushed(&[&reply(503, sent.baggage.as_ref())]);
        let [Event::Reply(bytes)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(read_reply(bytes.clone()), Ok((503, sent.baggage)));
    }

    proptest! {
        /// Wherever the peer's records are cut, the same comes out.
        #[test]
        fn cuts_do_not_matter(cuts in proptest::collection::vec(1_usize..40, 1..40), sizes in proptest::collection::vec(0_usize..60, 0..8)) {
            let mut wire = reply(200, None);
            let mut expected = pushed(&[&wire]).0;
            let mut data = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                data.extend(vec![number as u8; *size]);
                wire.extend(message(Kind::Data, &vec![number as u8; *size]));
            }
            wire.extend(message(Kind::Last, b"end"));
            data.extend(b"end");
            expected.extend([Event::Data(data.into()), Event::Last]);
            let (mut parts, mut rest) = (Vec::new(), &wire[..]);
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at(rest.len().min(*cut));
                parts.push(part);
                rest = after;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(pushed(&parts), (expected, Ok(())));
        }

        #[test]
        fn nothing_that_a_peer_sends_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Parser::default().push(bytes.clone().into(), |event| match event {
                Event::Head(bytes) => drop(read_head(bytes)),
                Event::Reply(bytes) => drop(read_reply(bytes)),
                _ => {}
            });
            let _ = (read_head(bytes.clone().into()), read_reply(bytes.into()));
        }
    }
}
