//! A server that ends as a sane one does, and clients that count what they lose. Runs inside pods of a cluster.
//!
//! ```text
//! traffic serve --port 8080 --echo 7000 --name web       GET / says the name; 7000 sends back what comes
//! traffic load --fresh ADDR --kept ADDR --held ADDR      8081 says, as JSON, how each of them fares
//!   fresh   a request on a connection of its own every 10 ms
//!   kept    a request every 10 ms on a connection that is kept until the server says close
//!   held    ten connections to an echo server, a line on each every 200 ms
//!   slow    four connections at a time, each for an answer that takes three seconds
//!   stream  one connection to an echo server: noise, and what comes back compared
//! ```
//! Nothing is counted before the server has answered for the first time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Serve {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        echo: u16,
        #[arg(long)]
        name: String,
    },
    Load {
        #[arg(long)]
        fresh: Option<SocketAddr>,
        #[arg(long)]
        kept: Option<SocketAddr>,
        #[arg(long)]
        held: Option<SocketAddr>,
        #[arg(long)]
        slow: Option<SocketAddr>,
        #[arg(long)]
        stream: Option<SocketAddr>,
        /// Port at which it says how they fare.
        #[arg(long, default_value_t = 8081)]
        report: u16,
        /// What requests of `fresh` have as their path.
        #[arg(long, default_value = "")]
        marker: String,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Serve { port, echo, name } => serve(port, echo, &name),
        Role::Load { fresh, kept, held, slow, stream, report, marker } => {
            let begun = Instant::now();
            let mut tallies = Vec::new();
            let mut start = |name: &'static str, to: Option<SocketAddr>, run: Client| {
                let Some(to) = to else { return };
                let tally = Arc::new(Tally { begun, state: Mutex::default() });
                tallies.push((name, tally.clone()));
                let marker = marker.clone();
                thread::spawn(move || {
                    while !answers(to, name != "held" && name != "stream") {
                        thread::sleep(PAUSE);
                    }
                    run(to, &marker, &tally);
                });
            };
            start("fresh", fresh, fresh_requests);
            start("kept", kept, kept_requests);
            start("stream", stream, stream_of_noise);
            for _ in 0..4 {
                start("slow", slow, |to, _, tally| fresh_requests(to, "slow", tally));
            }
            for _ in 0..10 {
                start("held", held, held_connection);
            }
            tell(report, &tallies)
        }
    }
}

type Client = fn(SocketAddr, &str, &Tally);

fn answers(to: SocketAddr, http: bool) -> bool {
    let answer = dial(to).and_then(|mut stream| {
        if http {
            return ask(&mut BufReader::new(stream), "", "close").map(drop);
        }
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])
    });
    answer.is_ok()
}

/// What befell one client.
struct Tally {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    good: u64,
    bytes: u64,
    failures: Vec<String>,
    failed: u64,
    /// Longest time from a request to its answer.
    longest: Duration,
}

impl Tally {
    fn count(&self, asked: Instant, bytes: usize, outcome: io::Result<()>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.longest = state.longest.max(asked.elapsed());
        match outcome {
            Ok(()) => {
                state.good += 1;
                state.bytes += bytes as u64;
                true
            }
            Err(error) => {
                state.failed += 1;
                if state.failures.len() < 20 {
                    state.failures.push(format!("{:.2} s: {error}", self.begun.elapsed().as_secs_f64()));
                }
                false
            }
        }
    }
}

/// Serves what was counted, one JSON object, however asked.
fn tell(port: u16, tallies: &[(&'static str, Arc<Tally>)]) -> Result<()> {
    for stream in TcpListener::bind(("::", port))?.incoming() {
        let mut all = json!({});
        for (name, tally) in tallies {
            let state = tally.state.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = |field: &str, more: u64| all[*name][field].as_u64().unwrap_or_default() + more;
            let longest = u64::try_from(state.longest.as_millis())?.max(sum("longest_ms", 0));
            let mut failures: Vec<Value> = all[*name]["failures"].as_array().cloned().unwrap_or_default();
            failures.extend(state.failures.iter().map(|failure| json!(failure)));
            let of_one = json!({
                "good": sum("good", state.good), "failed": sum("failed", state.failed), "bytes": sum("bytes", state.bytes),
                "longest_ms": longest, "failures": failures,
            });
            all[*name] = of_one;
        }
        let page = all.to_string();
        let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
        // Who asks may go away.
        let _ = stream.and_then(|mut stream| {
            let asked = stream.read(&mut [0; 1024])?;
            if asked == 0 { Ok(()) } else { stream.write_all((head + &page).as_bytes()) }
        });
    }
    bail!("no more connections")
}

fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn fresh_requests(to: SocketAddr, marker: &str, tally: &Tally) {
    loop {
        let asked = Instant::now();
        let outcome = dial(to).and_then(|stream| ask(&mut BufReader::new(stream), marker, "close")).map(drop);
        tally.count(asked, 0, outcome);
        thread::sleep(PAUSE);
    }
}

fn kept_requests(to: SocketAddr, _: &str, tally: &Tally) {
    let mut kept: Option<BufReader<TcpStream>> = None;
    loop {
        let asked = Instant::now();
        let outcome = kept.take().map_or_else(|| dial(to).map(BufReader::new), Ok).and_then(|mut stream| {
            let closes = ask(&mut stream, "", "keep-alive")?;
            kept = (!closes).then_some(stream);
            Ok(())
        });
        tally.count(asked, 0, outcome);
        thread::sleep(PAUSE);
    }
}

/// One request; true if the server is going to close.
fn ask(stream: &mut BufReader<TcpStream>, marker: &str, connection: &str) -> io::Result<bool> {
    let request = format!("GET /{marker} HTTP/1.1\r\nhost: web\r\nconnection: {connection}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut closes, mut length, mut line) = (false, None, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the connection ended before the answer did"));
        }
        match line.trim_end().split_once(": ") {
            Some(("connection", "close")) => closes = true,
            Some(("content-length", text)) => length = text.parse::<usize>().ok(),
            None if line == "\r\n" => break,
            _ => {}
        }
    }
    let length = length.ok_or_else(|| io::Error::other("an answer without length"))?;
    stream.read_exact(&mut vec![0; length])?;
    Ok(closes)
}

fn held_connection(to: SocketAddr, _: &str, tally: &Tally) {
    let mut held = None;
    loop {
        let asked = Instant::now();
        let outcome = held.take().map_or_else(|| dial(to), Ok).and_then(|mut stream: TcpStream| {
            stream.write_all(b"still there?")?;
            stream.read_exact(&mut [0; 12])?;
            held = Some(stream);
            Ok(())
        });
        tally.count(asked, 12, outcome);
        thread::sleep(Duration::from_millis(200));
    }
}

/// Ends with the first byte that is wrong or lost.
fn stream_of_noise(to: SocketAddr, _: &str, tally: &Tally) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let asked = Instant::now();
    let outcome = dial(to).and_then(|mut stream| {
        loop {
            let asked = Instant::now();
            let piece: Vec<u8> = std::iter::repeat_with(|| {
                // xorshift64, https://doi.org/10.18637/jss.v008.i14
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .take(PIECE / 8)
            .flatten()
            .collect();
            stream.write_all(&piece)?;
            let mut back = vec![0; piece.len()];
            stream.read_exact(&mut back)?;
            if back != piece {
                return Err(io::Error::other("other bytes came back"));
            }
            tally.count(asked, piece.len(), Ok(()));
            thread::sleep(PAUSE);
        }
    });
    tally.count(asked, 0, outcome);
}

fn serve(port: u16, echo: u16, name: &str) -> Result<()> {
    let ending = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, ending.clone())?;
    let open = Arc::new(AtomicUsize::new(0));
    let each = |listener: TcpListener, work: Arc<dyn Fn(TcpStream) -> io::Result<()> + Send + Sync>| {
        let open = open.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (open, work) = (open.clone(), work.clone());
                open.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    // A client that goes away is no failure of the server.
                    let _ = work(stream);
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    };
    let listen = |port: u16| TcpListener::bind(("::", port)).with_context(|| format!("listen at port {port}"));
    let (told, name) = (ending.clone(), name.to_owned());
    each(listen(port)?, Arc::new(move |stream| answer(stream, &name, &told)));
    each(
        listen(echo)?,
        Arc::new(|stream: TcpStream| {
            stream.set_nodelay(true)?;
            io::copy(&mut &stream, &mut &stream)?;
            stream.shutdown(Shutdown::Write)
        }),
    );
    while !ending.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
    }
    // New connections may come until everybody has heard; those that there are end by `connection: close`.
    let told = Instant::now();
    while told.elapsed() < PATIENCE && (told.elapsed() < Duration::from_secs(1) || open.load(Ordering::Relaxed) > 0) {
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// `GET /slow` is answered in pieces for three seconds, anything else with the name at once.
fn answer(stream: TcpStream, name: &str, ending: &AtomicBool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut closes, mut line) = (String::new(), false, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or("/").to_owned();
                closes = line.ends_with("HTTP/1.0\r\n");
            }
            closes |= line.eq_ignore_ascii_case("connection: close\r\n");
            if line == "\r\n" {
                break;
            }
        }
        let body = if path.starts_with("/slow") { SLOW.repeat(30) } else { format!("{name}\n") };
        closes |= ending.load(Ordering::Relaxed);
        let close = if closes { "connection: close\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{close}\r\n", body.len());
        stream.get_mut().write_all(head.as_bytes())?;
        if path.starts_with("/slow") {
            for piece in body.as_bytes().chunks(SLOW.len()) {
                stream.get_mut().write_all(piece)?;
                thread::sleep(Duration::from_millis(100));
            }
        } else {
            stream.get_mut().write_all(body.as_bytes())?;
        }
        if closes {
            return stream.get_ref().shutdown(Shutdown::Write);
        }
    }
}

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of noise at once.
const PIECE: usize = 64 << 10;
const SLOW: &str = "one of thirty pieces, each a tenth of a second after the last\n";
