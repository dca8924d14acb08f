//! A client that connects, asks and closes, again and again, and remembers what went wrong.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::place::Place;
use crate::wait::{PATIENCE, until};

/// Asks echo servers until told to stop: one connection after the other, each with a text and a FIN of its own.
pub struct Knocking {
    from: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Failure>>,
}

/// A request that was not answered.
#[derive(Debug)]
pub struct Failure {
    pub at: Duration,
    pub to: SocketAddr,
    pub error: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:?}: {}: {}", self.at, self.to, self.error)
    }
}

impl Knocking {
    /// Begins to ask the servers at `to` in turn, as a program of `from` would.
    #[must_use]
    pub fn begin(from: &Place, to: &[SocketAddr]) -> Knocking {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (place, to) = (from.clone(), to.to_vec());
        let (told, count) = (stop.clone(), answered.clone());
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            let mut failures = Vec::new();
            for (number, to) in to.iter().copied().cycle().enumerate() {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                match ask(&place, to, &format!("knock {number}")) {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(Failure { at: begun.elapsed(), to, error }),
                }
            }
            failures
        });
        Knocking { from: from.name().to_owned(), stop, answered, thread }
    }

    /// Requests answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` requests have been answered that were not when this was called.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn until_answered(&self, more: u64) -> Result<()> {
        let goal = self.answered() + more;
        until(&format!("{more} answers to {}", self.from), PATIENCE, || (self.answered() >= goal).then_some(()))
    }

    /// Ends it, and yields how many requests were answered.
    ///
    /// # Errors
    /// When one was not, with all of these.
    pub fn none_failed(self) -> Result<u64> {
        let (from, answered) = (self.from.clone(), self.answered.clone());
        let failures = self.failures();
        let answered = answered.load(Ordering::Relaxed);
        if failures.is_empty() {
            return Ok(answered);
        }
        let listed: Vec<String> = failures.iter().take(20).map(ToString::to_string).collect();
        let (failed, listed) = (failures.len(), listed.join("\n"));
        Err(Error::msg(format!("{from}: {failed} requests failed, {answered} were answered\n{listed}")))
    }

    /// Ends it, and yields the requests that were not answered.
    ///
    /// # Panics
    /// When it did.
    #[must_use]
    pub fn failures(self) -> Vec<Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

/// One connection: a text, a FIN, the same text back and the server's FIN.
///
/// # Errors
/// Whatever went wrong, or another text.
pub fn ask(from: &Place, to: SocketAddr, text: &str) -> io::Result<()> {
    let mut stream = from.dial(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    if heard == text { Ok(()) } else { Err(io::Error::other(format!("said {text:?}, heard {heard:?}"))) }
}
