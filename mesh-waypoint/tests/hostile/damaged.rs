//! Bytes of any kind: whatever comes, the waypoint neither panics nor hangs, and is done when its client is.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_net::http2::frame::{flag, kind};
use mesh_waypoint::keys::Keys;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::bench::Bench;
use super::support::{GET, LONG, POST, first_only, frame, head, hello};

/// Panics of any task.
static PANICS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WORLD: (Runtime, Bench) = {
        static COUNTED: Once = Once::new();
        COUNTED.call_once(|| {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let here = panic.location().is_some_and(|at| at.file().contains("src/"));
                PANICS.fetch_add(usize::from(here), Ordering::Relaxed);
                told(panic);
            }));
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bench = runtime.block_on(Bench::new(&[], Keys::default(), first_only));
        (runtime, bench)
    };
}

/// Says `pieces`, and no more; whether the waypoint comes to an end without a panic.
fn survives(pieces: &[&[u8]]) -> Result<(), TestCaseError> {
    let before = PANICS.load(Ordering::Relaxed);
    let ended = WORLD.with(|(runtime, bench)| {
        runtime.block_on(async {
            let (stream, served) = bench.stream();
            let (mut read, mut write) = tokio::io::split(stream);
            let saying = async {
                for piece in pieces {
                    // It may have been refused by then.
                    let _ = write.write_all(piece).await;
                    tokio::task::yield_now().await;
                }
                let _ = write.shutdown().await;
            };
            let mut nowhere = tokio::io::sink();
            let hearing = tokio::io::copy(&mut read, &mut nowhere);
            timeout(LONG, async { tokio::join!(saying, hearing, served).2.is_ok() }).await
        })
    });
    prop_assert!(ended == Ok(true), "it hangs, or panicked");
    prop_assert_eq!(PANICS.load(Ordering::Relaxed), before);
    Ok(())
}

/// `bytes` with some of them exchanged, in two pieces.
fn damaged(bytes: &[u8], changes: &[(prop::sample::Index, u8)], cut: prop::sample::Index) -> Result<(), TestCaseError> {
    let mut bytes = bytes.to_vec();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    let (first, rest) = bytes.split_at(cut.index(bytes.len()));
    survives(&[first, rest])
}

const FIRST: &str = "POST /a?b=c HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhelloPOST / HTTP/1.1\r\nHost: web\r\n\
    Transfer-Encoding: chunked\r\nTE: trailers\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
    GET / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\n\r\n";

fn second() -> Vec<u8> {
    [
        hello(&[0, 4, 0, 0, 255, 255]),
        head(1, true, &GET),
        head(3, false, &[&POST[..], &[("content-length", b"5")]].concat()),
        frame(kind::DATA, 0, 3, b"hel"),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::DATA, flag::END_STREAM | flag::PADDED, 3, b"\x02lo\0\0"),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        head(5, false, &POST),
        frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 5, b"\0\x01x\x017"),
        frame(kind::PRIORITY, 0, 5, &[0, 0, 0, 3, 1]),
        head(7, true, &GET),
        frame(kind::RST_STREAM, 0, 7, &[0, 0, 0, 8]),
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
    ]
    .concat()
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_nor_hang(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&[&bytes])?;
        survives(&[b"GET / HTTP/1.1\r\n", &bytes])?;
        survives(&[&hello(&[]), &bytes])?;
    }

    #[test]
    fn damaged_requests_never_panic_nor_hang(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut: prop::sample::Index,
    ) {
        damaged(FIRST.as_bytes(), &changes, cut)?;
    }

    #[test]
    fn damaged_frames_never_panic_nor_hang(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut: prop::sample::Index,
    ) {
        damaged(&second(), &changes, cut)?;
    }

    #[test]
    fn arbitrary_frames_never_panic_nor_hang(
        sent in prop::collection::vec((0..11_u8, any::<u8>(), 0..6_u32, prop::collection::vec(any::<u8>(), 0..20)), 0..20),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|(kind, flags, stream, said)| frame(*kind, *flags, *stream, said)).collect();
        survives(&[&hello(&[]), &bytes])?;
    }
}
