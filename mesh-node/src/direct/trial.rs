//! Whether this kernel does what direct connections are built on: tried at start, between two namespaces that are thrown
//! away, by the hooks and with the maps that pods will have.
//!
//! A process of its own is the application of both, because an agent's own sockets are told from those of pods by its
//! cgroup. It sends and receives, half-closes, resets and finds a closed port; the agent then looks whether the books say
//! the same, and whether all of it went without the agent.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mesh_ebpf::{Event, Verdict, VerdictKey};
use mesh_net::causes::chain;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::account;
use crate::ebpf::{Events, Kernel, ListenerKind, Pod};
use crate::netns::{Netns, can_destroy};
use crate::plumbing;
use crate::socket;

/// Tries it. Events that are of other connections are left in `others`.
///
/// # Errors
/// What went wrong, in a few words.
pub fn run(
    kernel: &Kernel,
    cgroup_root: &Path,
    events: &mut Events,
    others: &mut VecDeque<Event>,
) -> Result<(), String> {
    if !can_destroy() {
        return Err("the kernel cannot end a connection (CONFIG_INET_DIAG_DESTROY)".to_owned());
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let pods = [(); 2].map(|()| Netns::fresh());
    let [Ok(from), Ok(to)] = pods else { return Err("make network namespaces".to_owned()) };
    plumbing::join(&from, &to, addresses()).map_err(|error| format!("join two namespaces: {}", chain(&error)))?;
    let until = kernel.trusted_until();
    let tried = with_pods(kernel, &from, &to, || {
        let cgroup = cgroup_root.join(CGROUP);
        match std::fs::create_dir(&cgroup) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed("make a cgroup")(error)),
            _ => {}
        }
        let said = application(&cgroup, &from, &to);
        let _ = std::fs::remove_dir(&cgroup);
        said.map_err(failed("run the application"))?
    });
    let _ = kernel.trust_until(until);
    for netns in [&from, &to] {
        if let Err(error) = kernel.withdraw(netns.cookie()) {
            tracing::debug!(error = chain(&error), "withdraw a namespace of the trial");
        }
    }
    let ours = |event: &Event| event.direct.source == from.cookie().0;
    let mut closed = Vec::new();
    while let Some(event) = events.take() {
        match ours(&event) {
            true if event.kind == Event::CLOSED => closed.push(event),
            true => {}
            false => others.push_back(event),
        }
    }
    tried?;
    let books: Vec<_> = closed
        .iter()
        .map(|event| {
            let (received, sent) = account::bytes(&event.direct);
            format!("{} {received} {sent}", account::end(&event.direct).reason)
        })
        .collect();
    let expected = EXPECTED.repeat(addresses().len());
    if books == expected { Ok(()) } else { Err(format!("the books say {books:?} and not {expected:?}")) }
}

/// Enrols both, lets the first talk to the second, and takes the verdicts back when `work` is done.
fn with_pods(
    kernel: &Kernel,
    from: &Netns,
    to: &Netns,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let mut held = Vec::new();
    for (number, netns) in [from, to].into_iter().enumerate() {
        let listen = || socket::listen(netns, 1, 16, None).map_err(|error| format!("listen: {error}"));
        let listeners = [listen()?, listen()?, listen()?];
        let kinds = [ListenerKind::Outbound, ListenerKind::Plaintext, ListenerKind::Hbone];
        let named: Vec<(ListenerKind, BorrowedFd<'_>)> =
            kinds.into_iter().zip(&listeners).map(|(kind, one)| (kind, one[0].as_fd())).collect();
        let addresses: Vec<IpAddr> = addresses().iter().map(|pair| pair[number]).collect();
        kernel
            .enrol(&Pod { netns, addresses: &addresses, id: 0, listeners: &named })
            .map_err(|error| format!("enrol: {}", chain(&error)))?;
        held.push(listeners);
    }
    let (source, destination) = (from.cookie().0, to.cookie().0);
    let keys = [4, 6].map(|family| VerdictKey { source, destination, port: VerdictKey::OTHER_PORTS, family, pad: 0 });
    let allowed = keys.iter().try_for_each(|key| kernel.set_verdict(*key, Some(Verdict::DIRECT)));
    let later = Kernel::monotonic() + 2 * PATIENCE.as_nanos() as u64;
    let trusted = allowed.and_then(|()| kernel.trust_until(kernel.trusted_until().max(later)));
    let result = trusted.map_err(|error| chain(&error)).and_then(|()| work());
    for key in keys {
        let _ = kernel.set_verdict(key, None);
    }
    result
}

/// Runs this program once more, as what it is in [`applied`], and yields what that says.
fn application(cgroup: &Path, from: &Netns, to: &Netns) -> io::Result<Result<(), String>> {
    let path = |netns: &Netns| format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
    let mut child = Command::new("/proc/self/exe")
        .args([COMMAND, &path(from), &path(to)])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let moved = std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
    let told = moved.and_then(|()| child.stdin.take().map_or(Ok(()), |mut go| go.write_all(b"\n")));
    if told.is_err() {
        let _ = child.kill();
    }
    let ended = wait(&mut child);
    told?;
    let mut said = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut said)?;
    }
    Ok(match ended? {
        true => Ok(()),
        false => Err(format!("the application says: {}", said.trim())),
    })
}

fn wait(child: &mut Child) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The application's part, in a process of its own: both ends of connections from one namespace to the other.
///
/// # Errors
/// What one of the ends saw that it should not have.
pub fn applied(from: &Path, to: &Path) -> Result<(), String> {
    let mut go = String::new();
    io::stdin().read_line(&mut go).map_err(|error| error.to_string())?;
    let open = |path: &Path| Netns::open(path).map_err(|error| format!("open {}: {error}", path.display()));
    let (from, to) = (open(from)?, open(to)?);
    addresses().iter().try_for_each(|[_, address]| {
        let address = SocketAddr::new(*address, PORT);
        let said = talk(&from, &to, address);
        said.map_err(|(what, error)| format!("{what} at {address}: {error}"))
    })
}

fn talk(from: &Netns, to: &Netns, address: SocketAddr) -> Result<(), (&'static str, io::Error)> {
    let what = |what: &'static str| move |error: io::Error| (what, error);
    let listener = listen(to, address).map_err(what("listen"))?;
    let made = || from.enter(|| Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)))?;
    let connect = || -> io::Result<(TcpStream, TcpStream)> {
        let socket = made()?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        let client = TcpStream::from(socket);
        let (server, peer) = listener.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        // Whom the agent delivers has the client's address and another port.
        if peer == client.local_addr()? { Ok((client, server)) } else { Err(io::Error::other("not direct")) }
    };

    let (client, server) = connect().map_err(what("connect"))?;
    let sending = thread::spawn(move || -> io::Result<usize> {
        let mut client = client;
        let mut block = noise();
        for number in 0..BLOCKS {
            block[..8].copy_from_slice(&number.to_ne_bytes());
            client.write_all(&block)?;
        }
        client.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer)
    });
    let received = receive(server);
    let answered = sending.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed")));
    received.map_err(what("receive"))?;
    if answered.map_err(what("send, and receive after a half-close"))? != ANSWER.len() {
        return Err(("receive after a half-close", ErrorKind::UnexpectedEof.into()));
    }

    let (mut client, server) = connect().map_err(what("connect again"))?;
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).map_err(what("reset"))?;
    drop(server);
    match client.read(&mut [0; 1]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => return Err(("be reset", io::Error::other(format!("{other:?}")))),
    }
    drop((client, listener));

    let socket = made().map_err(what("make a socket"))?;
    match socket.connect_timeout(&address.into(), PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(("be refused", io::Error::other(format!("{other:?}")))),
    }
}

fn listen(netns: &Netns, address: SocketAddr) -> io::Result<TcpListener> {
    netns.enter(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)?;
        Ok(TcpListener::from(socket))
    })?
}

/// Compares what comes with what was sent, byte for byte, to the client's FIN; then answers.
fn receive(mut server: TcpStream) -> io::Result<()> {
    let (mut expected, mut block) = (noise(), noise());
    for number in 0..BLOCKS {
        expected[..8].copy_from_slice(&number.to_ne_bytes());
        server.read_exact(&mut block)?;
        if block != expected {
            return Err(io::Error::other("other bytes than were sent"));
        }
    }
    if server.read(&mut [0; 1])? != 0 {
        return Err(io::Error::other("more bytes than were sent"));
    }
    server.write_all(ANSWER)
}

/// The same for both ends (xorshift64*, Vigna 2016).
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..BLOCK / 8).flat_map(|_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_ne_bytes()
    });
    words.collect()
}

/// Those of the families that this kernel has.
fn addresses() -> &'static [[IpAddr; 2]] {
    let families = if Path::new("/proc/sys/net/ipv6").exists() { 2 } else { 1 };
    &ADDRESSES[..families]
}

/// Name of the subcommand that is [`applied`].
pub const COMMAND: &str = "same-node-trial";
/// Name of its cgroup, below the pods'.
const CGROUP: &str = "weft-trial";
/// Of documentation (RFC 5737 and 3849), so that no pod has them: for each family the client's and the server's.
static ADDRESSES: [[IpAddr; 2]; 2] = [
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))],
    [
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x57, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x57, 0, 0, 0, 0, 2)),
    ],
];
const PORT: u16 = 7;
const BLOCK: usize = 64 << 10;
/// 64 MiB in all.
const BLOCKS: u64 = 1024;
const ANSWER: &[u8] = b"all of it";
/// The ends of a family's connections, with bytes each way.
const EXPECTED: [&str; 3] = ["complete 67108864 9", "destination_reset 0 0", "connect_refused 0 0"];
/// All of it takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(5);
