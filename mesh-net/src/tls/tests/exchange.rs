//! Our records against rustls's own: what one end writes, the other reads, in both roles; and what neither may accept.

use proptest::prelude::*;
use rustls::{ClientConnection, Connection, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};

use super::super::raw::Raw;
use super::super::record::{self, LONGEST};
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

/// A socket whose other end moves what comes and goes, at most `most` bytes at a time.
async fn trickle(io: DuplexStream, most: usize) -> TcpStream {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    far.set_nodelay(true).unwrap();
    async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, most: usize) {
        let mut some = vec![0; most];
        while let Ok(read @ 1..) = from.read(&mut some).await {
            if to.write_all(&some[..read]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = to.shutdown().await;
    }
    let ((from_io, to_io), (from_far, to_far)) = (tokio::io::split(io), far.into_split());
    tokio::spawn(pump(from_io, to_far, most));
    tokio::spawn(pump(from_far, to_io, most));
    near
}

/// Our end of `io`, once the handshake is through.
async fn ours<E: End>(mut io: TcpStream, mut end: E) -> Raw {
    let early = handshake::run(&mut io, &mut end).await.unwrap();
    let (secrets, origin) = end.into_secrets().unwrap();
    Raw::new(Link::new(io, Session::new(secrets, origin).unwrap(), &early))
}

/// rustls as the other end, its bytes in our hands.
struct Theirs {
    io: DuplexStream,
    tls: Connection,
    /// Opened and not yet asked for: rustls takes no more while it holds a record.
    opened: Vec<u8>,
    closed: bool,
}

impl Theirs {
    async fn handshake(io: DuplexStream, tls: Connection) -> Self {
        let mut this = Self { io, tls, opened: Vec::new(), closed: false };
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
            self.closed |= self.tls.process_new_packets().unwrap().peer_has_closed();
            let _ = io::Read::read_to_end(&mut self.tls.reader(), &mut self.opened);
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
        // Answers, such as new keys, before more.
        while self.opened.len() < length && !self.closed {
            self.send().await;
            if !self.receive().await {
                break;
            }
        }
        self.opened.drain(..self.opened.len().min(length)).collect()
    }
}

/// Ours in either role against rustls, over a pipe that moves `most` bytes at a time to us and from us.
async fn against_rustls(client: bool, most: usize) -> (Raw, Theirs) {
    let (web, db) = pair();
    // Enough for what either says unasked, tickets and new keys: both may speak at once and neither listen.
    let (io, there) = duplex(16 << 10);
    let here = trickle(io, most).await;
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
            ours.link.session().limit_keys(keys);
            for (seed, &size) in sizes.iter().enumerate() {
                let (said, said_all) = (words(size, seed), std::cell::Cell::new(false));
                let says = async {
                    let mut rest = &said[..];
                    while !rest.is_empty() {
                        let (some, after) = rest.split_at(rest.len().min(cut));
                        ours.write_all(some).await.unwrap();
                        rest = after;
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

async fn end_of(ours: &mut Raw) -> (Vec<u8>, Option<String>) {
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
    assert!(ours.link.holds_nothing());
    // The beginning of a record is kept, in as much memory as it needs.
    let record = sealed(&mut theirs, b"slow");
    theirs.io.write_all(&record[..9]).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), ours.read(&mut [0; 1])).await.is_err());
    assert!(!ours.link.holds_nothing());
    theirs.io.write_all(&record[9..]).await.unwrap();
    ours.read_exact(&mut [0; 4]).await.unwrap();
    assert!(ours.link.holds_nothing());
}
