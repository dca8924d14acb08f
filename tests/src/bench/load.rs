//! The load: a server and its clients. It runs inside pods, so it knows nothing of a mesh.
//!
//! Every connection proves that it is through to the server before a clock starts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::relay;

/// What a process of the load does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Load {
    /// Serves all of the following
    Serve,
    /// Sends large writes for some seconds; prints what the server counted
    Send {
        to: SocketAddr,
        #[arg(long)]
        streams: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// Sends 128 bytes and waits for them, again and again
    Ping {
        to: SocketAddr,
        #[arg(long)]
        seconds: f64,
        /// So many a second at most; else the next when the last is back
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Connects, sends 128 bytes, waits for them and closes, again and again
    Visit {
        to: SocketAddr,
        #[arg(long)]
        clients: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// As many visits at even times, whether or not earlier ones are through; prints how many failed and how long they took
    Storm {
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: f64,
    },
    /// Carries connections on, and nothing else: PORT=ADDRESS:PORT
    Relay {
        #[arg(required = true)]
        routes: Vec<String>,
    },
    /// Opens connections, prints `holding <N>` and keeps them until its input ends
    Hold {
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
}

/// Runs it; clients print one line of JSON.
///
/// # Errors
/// When a connection fails: a benchmark with failures measures something else.
pub fn run(load: Load) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")?;
    match load {
        Load::Serve => serve(),
        Load::Storm { to, connections, seconds } => storm(to, connections, Duration::from_secs_f64(seconds)),
        Load::Relay { routes } => {
            let route = |route: &String| -> Result<(u16, SocketAddr)> {
                let (port, to) = route.split_once('=').with_context(|| format!("{route} is not PORT=ADDRESS:PORT"))?;
                Ok((port.parse()?, to.parse()?))
            };
            relay::serve(&routes.iter().map(route).collect::<Result<Vec<_>>>()?)
        }
        Load::Send { to, streams, seconds } => send(to, streams, Duration::from_secs_f64(seconds)),
        Load::Ping { to, seconds, rate } => ping(
            to,
            Duration::from_secs_f64(seconds),
            rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate)),
        ),
        Load::Visit { to, clients, seconds } => visit(to, clients, Duration::from_secs_f64(seconds)),
        Load::Hold { to, connections } => hold(to, connections),
    }
}

fn serve() -> Result<()> {
    for (port, each) in [(SINK, sink as fn(&TcpStream) -> std::io::Result<()>), (ECHO, echo)] {
        let listener = Arc::new(listen(port)?);
        for _ in 0..SERVERS {
            let listener = listener.clone();
            thread::spawn(move || {
                loop {
                    // A client that went away ends its connection only.
                    let _ = listener.accept().and_then(|(stream, _)| each(&stream));
                }
            });
        }
    }
    let held = listen(HOLD)?;
    let mut streams = Vec::new();
    loop {
        let (mut stream, _) = held.accept()?;
        if stream.write_all(READY).is_ok() {
            streams.push(stream);
        }
    }
}

/// Tells at the end how much came.
fn sink(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(READY)?;
    let mut buffer = vec![0; LARGE];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&total.to_le_bytes()),
            read => total += read as u64,
        }
    }
}

fn echo(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; SMALL];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

fn send(to: SocketAddr, streams: usize, lasting: Duration) -> Result<()> {
    let begin = Arc::new(Barrier::new(streams + 1));
    let senders: Vec<_> = (0..streams)
        .map(|_| {
            let begin = begin.clone();
            thread::spawn(move || -> Result<u64> {
                let opened = proven(to);
                begin.wait();
                let mut stream = opened?;
                let buffer = vec![0x5a; LARGE];
                let begun = Instant::now();
                while begun.elapsed() < lasting {
                    stream.write_all(&buffer)?;
                }
                stream.shutdown(Shutdown::Write)?;
                let mut total = [0; 8];
                stream.read_exact(&mut total).context("wait for the server's count")?;
                Ok(u64::from_le_bytes(total))
            })
        })
        .collect();
    begin.wait();
    let begun = Instant::now();
    let mut bytes = 0;
    for sender in senders {
        bytes += sender.join().expect("a sender does not panic")?;
    }
    println!("{}", json!({ "bytes": bytes, "seconds": begun.elapsed().as_secs_f64() }));
    Ok(())
}

fn ping(to: SocketAddr, lasting: Duration, apart: Duration) -> Result<()> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    for _ in 0..WARM_UP {
        round_trip(&stream)?;
    }
    let mut trips = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < lasting {
        let sent = Instant::now();
        round_trip(&stream)?;
        trips.push(sent.elapsed());
        if !apart.is_zero() {
            thread::sleep(apart.saturating_sub(sent.elapsed()));
        }
    }
    trips.sort_unstable();
    let at = |per_cent: usize| trips[(trips.len() - 1) * per_cent / 100].as_secs_f64() * 1e6;
    println!("{}", json!({ "count": trips.len(), "p50_us": at(50), "p99_us": at(99) }));
    Ok(())
}

fn visit(to: SocketAddr, clients: usize, lasting: Duration) -> Result<()> {
    let once = move || -> Result<()> { round_trip(&TcpStream::connect(to)?) };
    once()?;
    let begun = Instant::now();
    let visitors: Vec<_> = (0..clients)
        .map(|_| {
            thread::spawn(move || -> Result<u64> {
                let mut count = 0;
                while begun.elapsed() < lasting {
                    once().with_context(|| format!("visit {count}"))?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for visitor in visitors {
        count += visitor.join().expect("a visitor does not panic")?;
    }
    println!("{}", json!({ "count": count, "seconds": begun.elapsed().as_secs_f64() }));
    Ok(())
}

fn storm(to: SocketAddr, connections: usize, lasting: Duration) -> Result<()> {
    let begun = Instant::now();
    let visitors: Vec<_> = (0..STORMERS)
        .map(|first| {
            thread::spawn(move || {
                let mut taken = Vec::new();
                for number in (first..connections).step_by(STORMERS) {
                    let due = begun + lasting.mul_f64(number as f64 / connections as f64);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let visited = TcpStream::connect(to).map_err(Into::into).and_then(|stream| round_trip(&stream));
                    // From when it was due: who waits for a thread waits for earlier visits.
                    taken.push(visited.map(|()| due.elapsed()));
                }
                taken
            })
        })
        .collect();
    let (mut trips, mut failed) = (Vec::new(), 0);
    for visitor in visitors {
        for taken in visitor.join().expect("a visitor does not panic") {
            match taken {
                Ok(taken) => trips.push(taken),
                Err(error) => {
                    eprintln!("{error:#}");
                    failed += 1;
                }
            }
        }
    }
    trips.sort_unstable();
    let at = |per_cent: usize| trips.get((trips.len().max(1) - 1) * per_cent / 100).map_or(0.0, Duration::as_secs_f64);
    println!("{}", json!({ "failed": failed, "p99_ms": at(99) * 1e3, "slowest_ms": at(100) * 1e3 }));
    Ok(())
}

fn hold(to: SocketAddr, connections: usize) -> Result<()> {
    let held = (0..connections).map(|number| proven(to).with_context(|| format!("connection {number}")));
    let held = held.collect::<Result<Vec<_>>>()?;
    println!("holding {connections}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    drop(held);
    Ok(())
}

/// A connection on which the server has spoken.
fn proven(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut word = [0; READY.len()];
    stream.read_exact(&mut word).context("wait for the server's word")?;
    if word != *READY {
        bail!("something else answers at {to}");
    }
    Ok(stream)
}

fn round_trip(mut stream: &TcpStream) -> Result<()> {
    let mut buffer = [0x5a; SMALL];
    stream.write_all(&buffer)?;
    Ok(stream.read_exact(&mut buffer)?)
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0; 16], port)).into()).with_context(|| format!("bind port {port}"))?;
    socket.listen(4096)?;
    Ok(socket.into())
}

pub(super) const SINK: u16 = 7100;
pub(super) const ECHO: u16 = 7101;
pub(super) const HOLD: u16 = 7102;
const READY: &[u8; 5] = b"ready";
/// More than connections that have something to say at once.
const SERVERS: usize = 64;
const LARGE: usize = 256 << 10;
const SMALL: usize = 128;
const WARM_UP: usize = 100;
/// Visits of a storm that may be under way at once.
const STORMERS: usize = 256;
