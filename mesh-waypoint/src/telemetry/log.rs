//! The access log on its way out: each worker fills a page of its own, and one thread writes full pages to standard output.
//!
//! A page goes out when it is full, and otherwise as soon as a line is on it and none has gone out for [`PAUSE`]: a single line
//! at once, a crowd of them in blocks. Whoever reads the log may stall: what then finds no room is lost and counted, and requests
//! go on.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mesh_net::logging::line::{Clock, Form};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

use super::line;
use super::record::Record;

/// Bytes at which a page is full. One line may go beyond it: a head has 60 KiB at most.
const PAGE: usize = 64 << 10;
/// Pages that may wait for the log's reader, of all workers: 4 MiB, and as many lines as a busy instance writes in a second.
const WAITING: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
/// How long the last pages may take to be read.
const LAST: Duration = Duration::from_secs(1);

/// The access log of this instance. Clones share it.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    form: Form,
    queue: SyncSender<Order>,
    /// Pages that have been written, to be filled again.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    dropped: Counter,
    workers: Mutex<Vec<Arc<Worker>>>,
}

enum Order {
    Write(Page),
    /// Everything before it is out.
    Tell(SyncSender<()>),
}

/// Whole lines.
#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    lines: u64,
}

#[derive(Debug, Default)]
struct Worker {
    /// Only the worker takes it, until the end.
    desk: Mutex<Desk>,
    written: Notify,
}

#[derive(Debug, Default)]
struct Desk {
    page: Page,
    clock: Clock,
}

impl AccessLog {
    /// # Errors
    /// The process may have no more threads.
    pub fn start(form: Form) -> io::Result<Self> {
        Self::start_to(form, |bytes: &[u8]| io::stdout().lock().write_all(bytes))
    }

    fn start_to(form: Form, write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (queue, orders) = mpsc::sync_channel(WAITING);
        let (dropped, spare) = (Counter::default(), Arc::default());
        let writer = (dropped.clone(), Arc::clone(&spare));
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || run(&orders, &writer.0, &writer.1, write))?;
        Ok(Self(Arc::new(Inner { form, queue, spare, dropped, workers: Mutex::default() })))
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_access_log_lines_dropped",
            "Lines of the access log lost because their reader did not keep up",
            self.0.dropped.clone(),
        );
    }

    /// Lines of one worker, to be called within its runtime.
    pub fn worker(&self) -> Lines {
        let worker = Arc::<Worker>::default();
        lock(&self.0.workers).push(worker.clone());
        let lines = Lines { log: self.clone(), worker };
        let paced = lines.clone();
        tokio::spawn(async move {
            loop {
                paced.worker.written.notified().await;
                paced.hand_over(&mut lock(&paced.worker.desk).page);
                tokio::time::sleep(PAUSE).await;
            }
        });
        lines
    }

    /// Writes what all workers have told so far; to be called when none has anything more to tell. What nobody reads within
    /// [`LAST`] is lost.
    pub fn finish(&self) {
        let workers = lock(&self.0.workers).clone();
        let until = std::time::Instant::now() + LAST;
        for worker in workers {
            let page = std::mem::take(&mut lock(&worker.desk).page);
            self.give(Order::Write(page), until);
        }
        let (told, tells) = mpsc::sync_channel(1);
        self.give(Order::Tell(told), until);
        // Nobody tells: the log's reader is stuck, or gone.
        let _ = tells.recv_timeout(until.saturating_duration_since(std::time::Instant::now()));
    }

    fn give(&self, mut order: Order, until: std::time::Instant) {
        while let Err(TrySendError::Full(back)) = self.0.queue.try_send(order) {
            if std::time::Instant::now() >= until {
                return;
            }
            order = back;
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The access log as a worker has it.
#[derive(Clone, Debug)]
pub struct Lines {
    log: AccessLog,
    worker: Arc<Worker>,
}

impl Lines {
    pub(super) fn write(&self, record: &Record) {
        let mut desk = lock(&self.worker.desk);
        let Desk { page, clock } = &mut *desk;
        let is_first = page.bytes.is_empty();
        line::append(record, self.log.0.form, clock, &mut page.bytes);
        page.lines += 1;
        if page.bytes.len() >= PAGE - PAGE / 16 {
            self.hand_over(page);
        } else if is_first {
            self.worker.written.notify_one();
        }
    }

    fn hand_over(&self, page: &mut Page) {
        if page.bytes.is_empty() {
            return;
        }
        let empty = lock(&self.log.0.spare).pop().unwrap_or_else(|| Vec::with_capacity(PAGE));
        let full = std::mem::replace(page, Page { bytes: empty, lines: 0 });
        if let Err(TrySendError::Full(Order::Write(lost)) | TrySendError::Disconnected(Order::Write(lost))) =
            self.log.0.queue.try_send(Order::Write(full))
        {
            self.log.0.dropped.inc_by(lost.lines);
            put_back(&self.log.0.spare, lost.bytes);
        }
    }
}

fn run(
    orders: &Receiver<Order>,
    dropped: &Counter,
    spare: &Mutex<Vec<Vec<u8>>>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(page) => {
                if write(&page.bytes).is_err() {
                    dropped.inc_by(page.lines);
                }
                put_back(spare, page.bytes);
            }
            // Whoever asked may have gone on.
            Order::Tell(done) => drop(done.try_send(())),
        }
    }
}

/// Memory of a page that grew is given back.
fn put_back(spare: &Mutex<Vec<Vec<u8>>>, mut bytes: Vec<u8>) {
    let mut spare = lock(spare);
    if bytes.capacity() <= 2 * PAGE && spare.len() < 8 {
        bytes.clear();
        spare.push(bytes);
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
