//! Small servers and clients that real programs do not offer: server-first, slow, many, hashed. Runs inside pods.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use weft_tests::{bulk, sockets};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Sends back what comes, and a FIN for a FIN
    Echo {
        #[arg(long)]
        port: u16,
    },
    /// Speaks first, as SMTP does: a greeting, then `250 <line>` for every line, `221` for QUIT
    Greet {
        #[arg(long)]
        port: u16,
        #[arg(long, default_value = "220 weft.test ready")]
        greeting: String,
    },
    /// Reads a little, then rests
    Slow {
        #[arg(long)]
        port: u16,
        /// Rest between two reads, in milliseconds
        #[arg(long, default_value_t = 100)]
        rest: u64,
    },
    /// Sends noise while it receives; prints bytes and SHA-256 of both directions for every connection
    Bulk {
        #[arg(long)]
        port: u16,
        #[arg(long, default_value_t = 0)]
        bytes: u64,
        #[arg(long, default_value_t = 2)]
        seed: u64,
    },
    /// Client of `bulk`
    BulkTo {
        to: SocketAddr,
        #[arg(long, default_value_t = 0)]
        bytes: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Connects, sends a text and a FIN, prints what comes until the end
    Say {
        to: SocketAddr,
        #[arg(default_value = "")]
        text: String,
    },
    /// Opens connections to an echo server, proves each with a byte, prints `holding <N>`, proves all again for every line
    /// on its input (`all <N> alive`) and ends with it
    Hold {
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
    /// Makes sockets for the test; its input is one end of a socket pair
    Lend,
}

fn main() -> Result<()> {
    raise_file_limit()?;
    match Arguments::parse().role {
        Role::Echo { port } => serve(port, |stream| {
            // One descriptor each: 10,000 of these are held in one test.
            std::io::copy(&mut &stream, &mut &stream)?;
            stream.shutdown(Shutdown::Write)?;
            Ok(())
        }),
        Role::Greet { port, greeting } => serve(port, move |stream| greet(&stream, &greeting)),
        Role::Slow { port, rest } => serve(port, move |mut stream| {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer)? > 0 {
                thread::sleep(Duration::from_millis(rest));
            }
            Ok(())
        }),
        Role::Bulk { port, bytes, seed } => serve(port, move |stream| {
            print(&bulk::exchange(&stream, bytes, seed, Duration::ZERO)?);
            Ok(())
        }),
        Role::BulkTo { to, bytes, seed } => {
            let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
            print(&bulk::exchange(&stream, bytes, seed, Duration::ZERO)?);
            Ok(())
        }
        Role::Say { to, text } => say(to, &text),
        Role::Hold { to, connections } => hold(to, connections),
        Role::Lend => {
            let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            sockets::lend(line).context("lend sockets")
        }
    }
}

/// Both families, a thread for every connection; an error ends that connection only.
fn serve(port: u16, each: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static) -> Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0; 16], port)).into()).with_context(|| format!("bind port {port}"))?;
    socket.listen(4096)?;
    for stream in TcpListener::from(socket).incoming() {
        let stream = stream.context("accept")?;
        let each = each.clone();
        // 10,000 of these are held in one test.
        thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let peer = stream.peer_addr();
            if let Err(error) = each(stream) {
                eprintln!("{peer:?}: {error:#}");
            }
        })?;
    }
    bail!("no more connections")
}

fn greet(mut stream: &TcpStream, greeting: &str) -> Result<()> {
    write!(stream, "{greeting}\r\n")?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.eq_ignore_ascii_case("quit") {
            write!(stream, "221 bye\r\n")?;
            break;
        }
        write!(stream, "250 {line}\r\n")?;
    }
    Ok(())
}

fn say(to: SocketAddr, text: &str) -> Result<()> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    std::io::copy(&mut stream, &mut std::io::stdout())?;
    Ok(())
}

fn hold(to: SocketAddr, connections: usize) -> Result<()> {
    let mut held = Vec::with_capacity(connections);
    for number in 0..connections {
        let stream = TcpStream::connect(to).with_context(|| format!("connection {number} to {to}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        prove(&stream).with_context(|| format!("connection {number}"))?;
        held.push(stream);
    }
    println!("holding {connections}");
    for line in std::io::stdin().lines() {
        line?;
        for (number, stream) in held.iter().enumerate() {
            prove(stream).with_context(|| format!("connection {number}"))?;
        }
        println!("all {connections} alive");
    }
    Ok(())
}

fn prove(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer != *b"?" {
        bail!("another byte came back");
    }
    Ok(())
}

fn print(exchanged: &bulk::Exchanged) {
    println!("sent {} {}", exchanged.sent, exchanged.sent_sha256);
    println!("received {} {}", exchanged.received, exchanged.received_sha256);
}

fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}
