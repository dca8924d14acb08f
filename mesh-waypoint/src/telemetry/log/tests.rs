use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mesh_core::identity::SpiffeId;

use super::super::record::Word;
use super::*;
use crate::client::Client;

fn record(path: &str) -> Record {
    let client = Client {
        identity: SpiffeId::new("td", "shop", "web").unwrap(),
        address: SocketAddr::from(([10, 0, 0, 9], 4000)),
        workload: None,
    };
    let mut record = Record::new(Arc::new(client), SocketAddr::from(([10, 96, 0, 7], 80)), "HTTP/1.1");
    record.texts.set(Word::Path, path);
    record
}

/// What was written, in pieces; nothing is while the flag is set.
#[derive(Clone, Default)]
struct Reader(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>);

impl Reader {
    fn log(&self) -> AccessLog {
        let Reader(read, stuck) = self.clone();
        let write = move |bytes: &[u8]| {
            while stuck.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            lock(&read).push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(())
        };
        AccessLog::start_to(Form::Json, write).unwrap()
    }

    fn lines(&self) -> usize {
        lock(&self.0).iter().map(|piece| piece.lines().count()).sum()
    }

    async fn until(&self, lines: usize) -> Duration {
        let began = Instant::now();
        while self.lines() < lines {
            assert!(began.elapsed() < Duration::from_secs(20), "{} of {lines} lines", self.lines());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }
}

#[tokio::test]
async fn one_line_goes_out_at_once_and_many_in_blocks() {
    let reader = Reader::default();
    let lines = reader.log().worker();
    lines.write(&record("/first"));
    reader.until(1).await;
    let long = "x".repeat(500);
    for _ in 0..1000 {
        lines.write(&record(&long));
    }
    reader.until(1001).await;
    let pieces = lock(&reader.0).clone();
    assert!(pieces.len() < 20, "{} pieces", pieces.len());
    assert!(pieces.iter().all(|piece| piece.len() <= PAGE && piece.ends_with('\n')));
    assert!(pieces[1..pieces.len() - 1].iter().all(|piece| piece.len() > PAGE / 2));
}

#[tokio::test]
async fn the_lines_of_all_workers_are_out_at_the_end() {
    let reader = Reader::default();
    let log = reader.log();
    let workers: Vec<_> = (0..3).map(|_| log.worker()).collect();
    // None of their tasks has run yet.
    for lines in &workers {
        (0..10).for_each(|_| lines.write(&record("/")));
    }
    log.finish();
    assert_eq!(reader.lines(), 30);
}

#[tokio::test]
async fn a_reader_that_is_stuck_costs_lines_and_nothing_else() {
    let reader = Reader::default();
    reader.1.store(true, Ordering::SeqCst);
    let log = reader.log();
    let lines = log.worker();
    let long = "x".repeat(PAGE / 4);
    let began = Instant::now();
    let all = 10 * WAITING;
    for _ in 0..all {
        lines.write(&record(&long));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    let dropped = usize::try_from(log.0.dropped.get()).unwrap();
    // What waits, what is being written, and what is on the page.
    assert!(dropped > 0 && all - dropped <= (WAITING + 2) * 4, "{dropped} of {all}");
    let began = Instant::now();
    log.finish();
    assert!(began.elapsed() < Duration::from_secs(5));
    reader.1.store(false, Ordering::SeqCst);
    // The last page may have been given up.
    reader.until(all - dropped - 4).await;
}
