//! Our records against rustls's own: what one end writes, the other reads, in both roles; and what neither may accept.

use proptest::prelude::*;
use rustls::{ClientConnection, Connection, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::encrypted::Encrypted;
use super::super::record::{self, CONTENT, LONGEST, OVERHEAD};
use super::*;
use crate::tls::Credentials;

fn pair() -> (Credentials, Credentials) {
    let ca = TestCa::new("root");
    let credentials = |name| ca.credentials(&SpiffeId::new("td", "shop", name).unwrap());
    (credentials("web"), credentials("db"))
}

fn our_client(web: &Credentials) -> UnbufferedClientConnection {
    UnbufferedClientConnection::new(web.client(&[ALPN_H2]).unwrap(), ServerName::try_from("db").unwrap()).unwrap()
}

fn our_server(db: &Credentials) -> UnbufferedServerConnection {
    UnbufferedServerConnection::new(db.server(&[ALPN_H2]).unwrap()).unwrap()
}

/// A pipe that moves at most so many bytes at a time.
struct Trickle {
    io: DuplexStream,
    most: usize,
}

impl AsyncRead for Trickle {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut some = vec![0; this.most.min(out.remaining())];
        let mut into = ReadBuf::new(&mut some);
        let read = Pin::new(&mut this.io).poll_read(cx, &mut into);
        out.put_slice(into.filled());
        read
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        Pin::new(&mut this.io).poll_write(cx, &bytes[..bytes.len().min(this.most)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Our end of `io`, once the handshake is through.
async fn ours<E: End>(mut io: Trickle, mut end: E) -> Encrypted<Trickle> {
    let early = handshake::run(&mut io, &mut end).await.unwrap();
    let (secrets, origin) = end.into_secrets().unwrap();
    Encrypted::new(io, Session::new(secrets, origin).unwrap(), &early)
}

/// rustls as the other end, its bytes in our hands.
struct Theirs {
    io: DuplexStream,
    tls: Connection,
}

impl Theirs {
    async fn handshake(io: DuplexStream, tls: Connection) -> Self {
        let mut this = Self { io, tls };
        while this.tls.is_handshaking() {
            this.send().await;
            if this.tls.is_handshaking() {
                this.receive().await;
            }
        }
        this.send().await;
        this
    }

    async fn send(&mut self) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = self.io.read(&mut bytes).await.unwrap();
        let mut rest = &bytes[..read];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            self.tls.process_new_packets().unwrap();
        }
        read > 0
    }

    async fn say(&mut self, words: &[u8]) {
        for some in words.chunks(32 << 10) {
            io::Write::write_all(&mut self.tls.writer(), some).unwrap();
            self.send().await;
        }
    }

    /// The next `length` bytes.
    async fn hear(&mut self, length: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < length {
            let mut some = vec![0; length - heard.len()];
            match io::Read::read(&mut self.tls.reader(), &mut some) {
                Ok(0) => break,
                Ok(read) => heard.extend_from_slice(&some[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Answers, such as new keys, before more.
                    self.send().await;
                    if !self.receive().await {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        heard
    }
}

/// Ours in either role against rustls, over a pipe that moves `most` bytes at a time to us and from us.
async fn against_rustls(client: bool, most: usize) -> (Encrypted<Trickle>, Theirs) {
    let (web, db) = pair();
    // Enough for what either says unasked, tickets and new keys: both may speak at once and neither listen.
    let (io, there) = duplex(16 << 10);
    let here = Trickle { io, most };
    if client {
        let config = db.server(&[ALPN_H2]).unwrap();
        let theirs = Theirs::handshake(there, ServerConnection::new(config).unwrap().into());
        tokio::join!(ours(here, our_client(&web)), theirs)
    } else {
        let config = web.client(&[ALPN_H2]).unwrap();
        let name = ServerName::try_from("db").unwrap();
        let theirs = Theirs::handshake(there, ClientConnection::new(config, name).unwrap().into());
        tokio::join!(ours(here, our_server(&db)), theirs)
    }
}

fn words(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31).wrapping_add(seed * 7) >> 3) as u8).collect()
}

fn blocking(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Sizes around a record's own, pieces of every kind, keys that change under way: the bytes are the same.
    #[test]
    fn what_is_written_arrives_at_rustls_and_back(
        client: bool,
        most in prop_oneof![Just(1_usize), Just(700), Just(1 << 20)],
        sizes in prop::collection::vec(prop_oneof![0_usize..40, 16_360..16_400_usize, 60_000..70_000_usize], 1..6),
        cut in 1_usize..20_000,
        keys in prop_oneof![Just(1_u64), Just(3), Just(1 << 24)],
    ) {
        // A byte at a time is for small things.
        let sizes: Vec<usize> = sizes.into_iter().map(|size| if most == 1 { size % 600 } else { size }).collect();
        blocking(async {
            let (mut ours, mut theirs) = against_rustls(client, most).await;
            ours.session().limit_keys(keys);
            for (seed, &size) in sizes.iter().enumerate() {
                let (said, said_all) = (words(size, seed), std::cell::Cell::new(false));
                let says = async {
                    let mut rest = &said[..];
                    while !rest.is_empty() {
                        let (a, b) = rest.split_at(rest.len().min(cut));
                        let slices = [io::IoSlice::new(&a[..a.len() / 2]), io::IoSlice::new(&a[a.len() / 2..]), io::IoSlice::new(b)];
                        let written = ours.write_vectored(&slices).await.unwrap();
                        rest = &rest[written..];
                    }
                    ours.flush().await.unwrap();
                    said_all.set(true);
                };
                let hears = async {
                    let heard = theirs.hear(size).await;
                    // New keys may follow the data, and a narrow pipe has to be emptied for them.
                    while !said_all.get() {
                        let _ = tokio::time::timeout(Duration::from_millis(1), theirs.receive()).await;
                    }
                    heard
                };
                let ((), heard) = tokio::join!(says, hears);
                assert!(heard == said, "{size} bytes from us");
                if seed % 2 == 0 && size > 0 {
                    theirs.tls.refresh_traffic_keys().unwrap();
                }
                let mut heard = vec![0; size];
                let (read, ()) = tokio::join!(ours.read_exact(&mut heard), theirs.say(&said));
                read.unwrap();
                assert!(heard == said, "{size} bytes from rustls");
            }
        });
    }

    /// Whatever a peer sends in place of a record ends the connection, and nothing of it is taken for data.
    #[test]
    fn arbitrary_bytes_are_never_data(bytes in prop::collection::vec(any::<u8>(), 1..400), client: bool) {
        blocking(async {
            let (mut ours, mut theirs) = against_rustls(client, 1 << 20).await;
            theirs.io.write_all(&bytes).await.unwrap();
            theirs.io.shutdown().await.unwrap();
            let mut heard = Vec::new();
            assert!(ours.read_to_end(&mut heard).await.is_err());
            assert!(heard.is_empty());
        });
    }
}

/// A record that rustls has sealed, to be sent as it is or changed.
fn sealed(theirs: &mut Theirs, words: &[u8]) -> Vec<u8> {
    io::Write::write_all(&mut theirs.tls.writer(), words).unwrap();
    let mut bytes = Vec::new();
    while theirs.tls.wants_write() {
        theirs.tls.write_tls(&mut bytes).unwrap();
    }
    bytes
}

async fn end_of(ours: &mut Encrypted<Trickle>) -> (Vec<u8>, Option<String>) {
    let mut heard = Vec::new();
    let ended = ours.read_to_end(&mut heard).await;
    (heard, ended.err().map(|error| error.to_string()))
}

#[tokio::test]
async fn an_end_is_one_that_the_peer_announces() {
    for client in [true, false] {
        let (mut ours, mut theirs) = against_rustls(client, 1 << 20).await;
        theirs.say(b"last words").await;
        theirs.tls.send_close_notify();
        theirs.send().await;
        theirs.io.write_all(b"what comes after it is nobody's").await.unwrap();
        assert_eq!(end_of(&mut ours).await, (b"last words".to_vec(), None));
        // The other direction is open still.
        ours.write_all(b"and ours").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.hear(100).await, b"and ours");

        let (mut ours, mut theirs) = against_rustls(client, 1 << 20).await;
        theirs.say(b"cut").await;
        theirs.io.shutdown().await.unwrap();
        let (heard, error) = end_of(&mut ours).await;
        assert_eq!((&heard[..], error.is_some()), (&b"cut"[..], true), "an end that is nobody's");
    }
}

#[tokio::test]
async fn a_changed_repeated_or_lost_record_ends_the_connection_and_the_peer_is_told() {
    for how in 0..4 {
        let (mut ours, mut theirs) = against_rustls(true, 1 << 20).await;
        let first = sealed(&mut theirs, b"first");
        let mut second = sealed(&mut theirs, b"second");
        let end = second.len() - 1;
        match how {
            0 => second[end] ^= 1,
            1 => second[record::HEADER] ^= 1,
            2 => second = first.clone(),
            _ => second = sealed(&mut theirs, b"third"),
        }
        theirs.io.write_all(&first).await.unwrap();
        theirs.io.write_all(&second).await.unwrap();
        let (heard, error) = end_of(&mut ours).await;
        assert_eq!(heard, b"first");
        assert!(error.is_some_and(|error| error.contains("changed on its way")));
        let mut alert = [0; 100];
        let read = theirs.io.read(&mut alert).await.unwrap();
        theirs.tls.read_tls(&mut &alert[..read]).unwrap();
        let told = theirs.tls.process_new_packets().unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        // And so it stays.
        assert!(ours.write_all(b"x").await.is_err());
        assert!(ours.read(&mut [0; 1]).await.is_err());
    }
}

#[tokio::test]
async fn a_record_longer_than_any_is_refused_before_it_has_come() {
    let (mut ours, mut theirs) = against_rustls(true, 1 << 20).await;
    let length = (LONGEST - record::HEADER + 1) as u16;
    theirs.io.write_all(&[23, 3, 3]).await.unwrap();
    theirs.io.write_all(&length.to_be_bytes()).await.unwrap();
    assert_eq!(end_of(&mut ours).await.1.as_deref(), Some("a record is longer than TLS allows"));
}

#[tokio::test]
async fn new_keys_one_after_the_other_without_data_are_a_flood() {
    let (mut ours, mut theirs) = against_rustls(true, 1 << 20).await;
    for _ in 0..40 {
        theirs.tls.refresh_traffic_keys().unwrap();
    }
    theirs.send().await;
    assert_eq!(end_of(&mut ours).await.1.as_deref(), Some("messages without data, one after the other"));
}

#[tokio::test]
async fn an_alert_is_named() {
    let (mut ours, mut theirs) = against_rustls(true, 1 << 20).await;
    // rustls gives up on a record that it cannot open.
    let forged = [23, 3, 3, 0, 40].iter().chain(&[7; 40]).copied().collect::<Vec<u8>>();
    theirs.tls.read_tls(&mut &forged[..]).unwrap();
    theirs.tls.process_new_packets().unwrap_err();
    theirs.send().await;
    assert_eq!(end_of(&mut ours).await.1.as_deref(), Some("received fatal alert: BadRecordMac"));
}

/// What a connection keeps while nothing is under way: its keys, and no memory for records.
#[tokio::test]
async fn an_idle_connection_holds_no_memory_of_the_threads() {
    let (mut ours, mut theirs) = against_rustls(false, 1 << 20).await;
    let (said, mut heard) = (words(100_000, 1), vec![0; 100_000]);
    let ((), read) = tokio::join!(theirs.say(&said), ours.read_exact(&mut heard));
    read.unwrap();
    ours.write_all(&words(3_000, 1)).await.unwrap();
    ours.flush().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), ours.read(&mut [0; 1])).await.is_err());
    assert!(ours.holds_nothing());
    // The beginning of a record is kept, in as much memory as it needs.
    let record = sealed(&mut theirs, b"slow");
    theirs.io.write_all(&record[..9]).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), ours.read(&mut [0; 1])).await.is_err());
    assert!(!ours.holds_nothing());
    theirs.io.write_all(&record[9..]).await.unwrap();
    ours.read_exact(&mut [0; 4]).await.unwrap();
    assert!(ours.holds_nothing());
}

const _A_FULL_BUFFER_SEALS_SIXTEEN_RECORDS: () = assert!(super::super::lent::SIZE >= 16 * (CONTENT + OVERHEAD));
