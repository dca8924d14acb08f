//! Lines on their way out. They gather on a page that a thread of its own writes: a single line at once, a crowd of them in
//! blocks, because to wake a thread and to call the kernel for each costs more than what most lines are about.
//!
//! Whoever reads the log may stall; what then finds no room is lost and counted, and nobody waits.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Least time between two pages, unless one is full.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes at which a page is full.
const FULL: usize = 64 << 10;
/// Bytes that may wait for the log's reader: the lines of a busy node in the seconds that a log collector restarts.
const MOST: usize = 32 << 20;
/// How long the last page may take to be read.
const LAST: Duration = Duration::from_secs(1);

/// Where lines are handed in. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pages(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    desk: Mutex<Desk>,
    /// There is something to do for the writer, or the writer has ended.
    news: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    page: Vec<u8>,
    lines: u64,
    /// The writer waits for time to pass, not for a line.
    resting: bool,
    /// Nothing follows.
    over: bool,
    ended: bool,
    dropped: u64,
}

impl Pages {
    /// # Errors
    /// The process may have no more threads.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Last)> {
        let pages = Self(Arc::default());
        let shared = pages.0.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.run(out))?;
        Ok((pages.clone(), Last(pages)))
    }

    /// Lines that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut desk = self.lock();
        let before = desk.page.len();
        if before + line.len() > MOST || desk.over {
            desk.dropped += 1;
            return;
        }
        desk.page.extend_from_slice(line);
        desk.lines += 1;
        if (before == 0 && !desk.resting) || (before < FULL && desk.page.len() >= FULL) {
            self.news.notify_all();
        }
    }

    fn run(&self, mut out: impl Write) {
        let mut spare = Vec::new();
        loop {
            let mut desk = self.lock();
            while desk.page.is_empty() && !desk.over {
                desk = self.news.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
            let page = std::mem::replace(&mut desk.page, std::mem::take(&mut spare));
            let lines = std::mem::take(&mut desk.lines);
            let over = desk.over;
            desk.resting = true;
            drop(desk);
            let lost = out.write_all(&page).and_then(|()| out.flush()).is_err();
            spare = page;
            spare.clear();
            spare.shrink_to(2 * FULL);
            let mut desk = self.lock();
            if lost {
                desk.dropped += lines;
            }
            if over {
                desk.ended = true;
                self.news.notify_all();
                return;
            }
            let rests = |desk: &mut Desk| desk.page.len() < FULL && !desk.over;
            (desk, _) = self.news.wait_timeout_while(desk, PAUSE, rests).unwrap_or_else(PoisonError::into_inner);
            desk.resting = false;
        }
    }
}

/// One call is one line.
impl Write for Pages {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Dropped after the last line: waits until that is written, or its reader is given up.
#[derive(Debug)]
pub(super) struct Last(Pages);

impl Drop for Last {
    fn drop(&mut self) {
        let Self(Pages(shared)) = self;
        let mut desk = shared.lock();
        desk.over = true;
        shared.news.notify_all();
        let _ = shared.news.wait_timeout_while(desk, LAST, |desk| !desk.ended);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// Tells of each page; waits for leave to go on, if there is somebody to give it.
    struct Out {
        pages: Sender<Vec<u8>>,
        leave: Option<Receiver<()>>,
    }

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.pages.send(bytes.to_vec()).map_err(io::Error::other)?;
            if let Some(leave) = &self.leave {
                leave.recv().map_err(io::Error::other)?;
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_single_line_goes_at_once_and_a_crowd_in_blocks() {
        let (pages, written) = mpsc::channel();
        let (mut lines, last) = Pages::start(Out { pages, leave: None }).unwrap();
        lines.write_all(b"one\n").unwrap();
        assert_eq!(written.recv().unwrap(), b"one\n");
        for _ in 0..10_000 {
            lines.write_all(b"one of a crowd of lines\n").unwrap();
        }
        drop(last);
        let blocks: Vec<Vec<u8>> = written.iter().collect();
        assert_eq!(blocks.concat().len(), 10_000 * 24, "nothing is lost");
        assert!(blocks.len() < 1_000, "{} blocks", blocks.len());
        assert!(blocks.iter().all(|block| block.is_empty() || block.ends_with(b"\n")), "lines are whole");
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_nobodys_time() {
        let (pages, written) = mpsc::channel();
        let (leave, waits) = mpsc::channel();
        let (mut lines, last) = Pages::start(Out { pages, leave: Some(waits) }).unwrap();
        lines.write_all(b"first\n").unwrap();
        written.recv().unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            lines.write_all(&line).unwrap();
        }
        assert_eq!(lines.dropped(), 8, "32 MiB wait");
        for _ in 0..40 {
            leave.send(()).unwrap();
        }
        drop(last);
        assert_eq!(written.iter().map(|page| page.len()).sum::<usize>(), 32 << 20);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (pages, written) = mpsc::channel();
        drop(written);
        let (mut lines, last) = Pages::start(Out { pages, leave: None }).unwrap();
        lines.write_all(b"to nobody\n").unwrap();
        drop(last);
        assert_eq!(lines.dropped(), 1);
    }
}
