//! Sockets in a pod's namespace: the agent's listeners, its connections out of the pod and into the application.
//!
//! A socket is made inside of the namespace and used from outside; it stays where it was made.

pub mod packet;
mod option;
pub mod pacing;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use mesh_ebpf::{MARK_AGENT, MARK_CAPTURE, MARK_DELIVER, MARK_DRAWN};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use self::pacing::Pacing;
use crate::netns::Netns;

/// How long the agent's connections may be silent before the kernel asks whether the peer is there.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes until the connection counts as lost.
    pub probes: u32,
}

impl Default for Keepalive {
    /// Three minutes: below the five after which the tightest of common NAT tables (RFC 5382 asks for two hours; cloud
    /// load balancers give 350 s) forget a connection. Nine probes of 20 s add another three.
    fn default() -> Self {
        Self { idle: Duration::from_secs(180), interval: Duration::from_secs(20), probes: 9 }
    }
}

impl Keepalive {
    /// Of tunnels: a peer that is gone without a word is found out within a minute.
    pub const TUNNEL: Self = Self { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 };
}

/// A connection that the agent opened.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// How it was broken already when we learnt that it was open: by a peer that accepted, perhaps spoke, and reset at
    /// once. What the peer said can be read; the end that is read behind it is a FIN only if this is a broken pipe
    /// (Linux: a reset that comes after a FIN is EPIPE, any other ECONNRESET).
    pub broken: Option<io::Error>,
}

/// A connection to the application, and whom it shows as the client.
#[derive(Debug)]
pub struct Delivery {
    /// The connection.
    pub dialled: Dialled,
    /// Whether the application sees the client's own address; else it sees the pod's.
    pub transparent: bool,
}

/// Opens listening sockets in the pod's namespace that take connections for any address, IPv4 and IPv6: one for each of
/// `workers`. All are to be handed to `Kernel`, which spreads connections between them. Non-blocking.
///
/// What is accepted has no delay for small writes, and `keepalive`: accepted sockets have their listener's options.
///
/// Each has a port of the kernel's choice, among those for clients: connections come by eBPF and not by address, so the
/// application keeps the ports it may want. They share no port, because a process of the pod's with the agent's user id
/// could join such a group and be given connections that are the agent's. Who connects to the port itself is told by
/// [`is_direct`].
///
/// # Errors  Of entering the namespace, and of the kernel: `EPERM` without CAP_NET_ADMIN.
pub fn listen(
    netns: &Netns,
    workers: usize,
    backlog: i32,
    keepalive: Option<Keepalive>,
) -> io::Result<Vec<TcpListener>> {
    netns.enter(|| {
        // Bound to a loopback address, an IPv6 socket would be IPv6-only, whatever its options say.
        let (domain, any) = if Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).is_ok() {
            (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        } else {
            (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        let one = || {
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            if domain == Domain::IPV6 {
                socket.set_only_v6(false)?;
                option::transparent_v6(socket.as_fd())?;
            }
            socket.set_ip_transparent_v4(true)?;
            tune(&SockRef::from(&socket), keepalive)?;
            socket.bind(&SocketAddr::new(any, 0).into())?;
            socket.listen(backlog)?;
            Ok(TcpListener::from(socket))
        };
        (0..workers.max(1)).map(|_| one()).collect()
    })?
}

/// Whether a connection accepted on one of [`listen`]'s sockets, for [`asked`], came by the
/// listener's own `port` and not by eBPF: from a process of the pod's, or, once the pod is released, from anywhere. To
/// be refused: it was asked of nobody in the mesh, and to carry it to where it was asked for would lead back here.
///
/// Who comes by the port has asked for it. Of those who ask for that port, captured ones mean another host, and are
/// told by the mark of their SYN, which `sock_ops` sets on them alone; the rest, steered or not, can only end here.
/// Costs a system call if the ports are equal, else nothing.
pub fn is_direct(stream: &TcpStream, asked: SocketAddr, port: u16) -> bool {
    asked.port() == port && SockRef::from(stream).mark().map(|mark| mark & !MARK_DRAWN).ok() != Some(MARK_CAPTURE)
}

/// Whether the connect hook has drawn an endpoint for a captured connection, and it was none of its own choices. A pod with
/// CAP_NET_ADMIN can say so itself, and chooses by that among the endpoints that it may reach anyway.
pub fn is_drawn(stream: &TcpStream) -> bool {
    SockRef::from(stream).mark().ok() == Some(MARK_CAPTURE | MARK_DRAWN)
}

/// The address that the client of an accepted connection dialled: IPv4 as IPv4. Known also when the client has gone; who it
/// was is then told by accept(2) alone.
///
/// # Errors  Of the kernel.
pub fn asked(stream: &TcpStream) -> io::Result<SocketAddr> {
    Ok(canonical(stream.local_addr()?))
}

/// Dials `to` from the pod's namespace with the pod's address, past our own capture: connections passed through.
///
/// # Errors  Of the kernel and the peer; `TimedOut` after `timeout`.
pub async fn connect_from_pod(netns: &Netns, to: SocketAddr, timeout: Duration) -> io::Result<Dialled> {
    let to = canonical(to);
    let socket = dialling(netns, to, MARK_AGENT)?;
    within(timeout, connect(socket, to)).await
}

/// As [`connect_from_pod`], for a tunnel: with [`Keepalive::TUNNEL`], and paced as `pacing` says.
///
/// # Errors  As for that.
pub async fn connect_tunnel(
    netns: &Netns,
    to: SocketAddr,
    pacing: &Pacing,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let to = canonical(to);
    let socket = dialling(netns, to, MARK_AGENT)?;
    pacing.begin(&socket);
    let tunnel = within(timeout, connect(socket, to)).await?.stream;
    pacing.settle(&tunnel);
    // It fails only for a socket that is gone already, which the handshake will tell.
    let _ = keep_alive(&tunnel, Keepalive::TUNNEL);
    Ok(tunnel)
}

/// Dials the application at `to`, an address of the pod's, with `client` as the source address, so that the
/// application sees its real client.
///
/// Where that is impossible (the families differ, or `client` is a loopback address) the pod's own address is shown.
/// The source port is not the client's: it is one above the range from which Linux clients choose theirs, because the
/// client's own connection may end in this very namespace (plaintext) and must not have the same four numbers.
///
/// # Errors  `ConnectionRefused` when nothing listens; `TimedOut` after `timeout`.
pub async fn deliver(netns: &Netns, client: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<Delivery> {
    let (client, to) = (client.to_canonical(), canonical(to));
    let shown = client.is_ipv4() == to.is_ipv4()
        && !client.is_loopback()
        && !client.is_unspecified()
        && !client.is_multicast()
        && !matches!(client, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !shown {
        let dialled = connect_from_pod(netns, to, timeout).await?;
        return Ok(Delivery { dialled, transparent: false });
    }
    let attempts = async {
        for attempt in 0..SOURCE_ATTEMPTS {
            let socket = dialling(netns, to, MARK_DELIVER)?;
            if attempt + 1 < SOURCE_ATTEMPTS {
                match bind_as(&socket, client, source_port()) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                    other => other?,
                }
            } else {
                // The kernel looks for a free one in its own range, at connect and for these four numbers only.
                option::bind_without_port(socket.as_fd())?;
                bind_as(&socket, client, 0)?;
            }
            match connect(socket, to).await {
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::AddrNotAvailable.into())
    };
    let dialled = within(timeout, attempts).await?;
    Ok(Delivery { dialled, transparent: true })
}

/// Ends the connection with a reset, as the other end of a relayed connection ended: what is unsent is dropped.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Whether `error`, from reading or writing, says that the peer reset the connection rather than closing it.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Has the kernel ask a peer on another host whether it is there. One on this host needs no asking: its kernel is ours.
///
/// # Errors  `EINVAL` for durations below a second.
pub fn keep_alive(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    tune(&SockRef::from(stream), Some(keepalive))
}

fn tune(socket: &SockRef<'_>, keepalive: Option<Keepalive>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let Some(Keepalive { idle, interval, probes }) = keepalive else { return Ok(()) };
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes))
}

/// An IPv4-mapped IPv6 address as the IPv4 address that it is.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A non-blocking socket of the family of `to`, made in the namespace.
fn dialling(netns: &Netns, to: SocketAddr, mark: u32) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = netns.enter(|| Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP)))??;
    socket.set_mark(mark)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Binds to an address that is not the namespace's own.
fn bind_as(socket: &Socket, client: IpAddr, port: u16) -> io::Result<()> {
    match client {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => option::transparent_v6(socket.as_fd())?,
    }
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(client, port).into())
}

async fn connect(socket: Socket, to: SocketAddr) -> io::Result<Dialled> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    // An application in this very kernel has answered by now. (To call connect(2) again would tell as well, but it throws away
    // what a peer said that has reset since.)
    let open = PollFlags::POLLOUT;
    let mut asked = [PollFd::new(socket.as_fd(), open)];
    let is_open = poll(&mut asked, PollTimeout::ZERO)? == 1 && asked[0].revents() == Some(open);
    let stream = TcpStream::from_std(socket.into())?;
    if is_open { Ok(Dialled { stream, broken: None }) } else { answered(stream).await }
}

/// Waits for the peer of a connection that has begun.
async fn answered(stream: TcpStream) -> io::Result<Dialled> {
    stream.writable().await?;
    match stream.take_error()? {
        // Neither can come before the connection is open: a refusal is ECONNREFUSED.
        Some(error) if !is_reset(&error) => Err(error),
        broken => Ok(Dialled { stream, broken }),
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A port above the kernel's default range for clients (32768 to 60999), a different one at each call.
fn source_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // A stride coprime to the range's length (4,535 = 5 * 907) visits every port before any a second time.
    let step = NEXT.fetch_add(1, Ordering::Relaxed) % SOURCE_PORTS;
    (SOURCE_FIRST + step * 1_613 % SOURCE_PORTS) as u16
}

/// First port above `net.ipv4.ip_local_port_range`'s default.
const SOURCE_FIRST: u32 = 61_000;
const SOURCE_PORTS: u32 = 65_535 - SOURCE_FIRST;
/// Seven ports of our own, then the kernel's choice. With half of ours in use by one client and port of the pod's, seven
/// fail once in 128.
const SOURCE_ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::task::Poll;

    use super::*;

    /// What is read from a connection whose peer has spoken and gone before we knew that it was open.
    async fn dialled(leave: impl Fn(std::net::TcpStream)) -> (Option<io::ErrorKind>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.connect(&to.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        leave(listener.accept().unwrap().0);
        let Dialled { stream, broken } = answered(TcpStream::from_std(socket.into()).unwrap()).await.unwrap();
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read);
        (broken.map(|error| error.kind()), read)
    }

    #[tokio::test]
    async fn a_peer_that_speaks_and_leaves_at_once_is_heard() {
        let reset = |stream: &std::net::TcpStream| SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        let said = |mut stream: &std::net::TcpStream| stream.write_all(b"bye").unwrap();
        assert_eq!(dialled(|stream| said(&stream)).await, (None, b"bye".to_vec()));
        let after_reset = dialled(|stream| {
            said(&stream);
            reset(&stream);
        });
        assert_eq!(after_reset.await, (Some(io::ErrorKind::ConnectionReset), b"bye".to_vec()));
        let after_fin = dialled(|stream| {
            said(&stream);
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            reset(&stream);
        });
        assert_eq!(after_fin.await, (Some(io::ErrorKind::BrokenPipe), b"bye".to_vec()));
    }

    #[tokio::test]
    async fn an_application_of_this_host_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let Poll::Ready(dialled) = futures_util::poll!(Box::pin(connect(socket, to))) else {
            panic!("the kernel knew already")
        };
        assert!(dialled.unwrap().broken.is_none());
    }

    #[tokio::test]
    async fn where_nobody_listens_a_dial_is_refused() {
        let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(connect(socket, to).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn source_ports_come_round_only_after_all_were_used() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..SOURCE_PORTS {
            assert!(seen.insert(source_port()));
        }
        assert!(seen.iter().all(|&port| port >= 61_000));
    }
}
