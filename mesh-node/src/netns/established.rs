//! Connections that a namespace has: those from before enrolment go on outside of the mesh until somebody ends them.
//!
//! Asked of the kernel by sock_diag(7), which knows sockets of every process in the namespace.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK, TCP_SYN_SENT},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as Netlink, protocols::NETLINK_SOCK_DIAG};

use super::Netns;

/// A TCP connection of a socket in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The socket's own end; IPv4 as IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Id of the cgroup in which the socket was made, or its listener; none on kernels before 5.9, which do not tell.
    pub cgroup: Option<u64>,
    /// As the kernel names the socket, with a number that it does not use twice.
    id: SocketId,
    family: u8,
    opening: bool,
    /// Some process has it; else the kernel is about to end it.
    owned: bool,
}

/// Local and remote ends of connections.
type Ends = BTreeSet<(SocketAddr, SocketAddr)>;

/// A line to the kernel about sockets of one namespace.
pub struct Sockets(Socket);

impl Sockets {
    /// # Errors  Of entering, and of netlink.
    pub fn of(netns: &Netns) -> io::Result<Self> {
        diagnosis(netns).map(Self)
    }

    /// As [`Netns::destroy`], of the socket with that cookie, whose ends are to be right too.
    ///
    /// # Errors  As for [`Netns::destroy`].
    pub fn destroy(&self, cookie: u64, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
        let (family, mut id) =
            if local.is_ipv4() { (AF_INET, SocketId::new_v4()) } else { (AF_INET6, SocketId::new_v6()) };
        (id.source_address, id.source_port) = (local.ip(), local.port());
        (id.destination_address, id.destination_port) = (remote.ip(), remote.port());
        id.cookie = cookie.to_ne_bytes();
        destroy(&self.0, family, id)
    }

    /// Bytes that sockets have received, the other end's FIN not counted, by their cookies: all that are connected, are about to be or have not yet closed.
    ///
    /// # Errors  Of netlink.
    pub fn received(&self) -> io::Result<HashMap<u64, u64>> {
        let states = StateFlags::ESTABLISHED
            | StateFlags::SYN_SENT
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT
            | StateFlags::LAST_ACK
            | StateFlags::CLOSING;
        let mut found = HashMap::new();
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let SockDiagMessage::InetRequest(mut request) = request(family, states.clone(), any) else { continue };
            request.extensions = ExtensionFlags::INFO;
            send(&self.0, SockDiagMessage::InetRequest(request), NLM_F_DUMP)?;
            receive(&self.0, |response| {
                let cookie = u64::from_ne_bytes(response.header.socket_id.cookie);
                found.insert(cookie, received(&response));
            })?;
        }
        Ok(found)
    }
}

fn received(response: &InetResponse) -> u64 {
    let info = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    });
    let bytes = info.and_then(|info| info.get(BYTES_RECEIVED..)?.first_chunk().copied()).map_or(0, u64::from_ne_bytes);
    // The kernel counts a FIN as a byte.
    let fin = matches!(response.header.state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING);
    bytes.saturating_sub(fin.into())
}

impl Netns {
    /// Lists TCP connections by which bytes may enter or leave the namespace: open, being opened or half closed. Those
    /// of which both ends are in the namespace are left out, as are all of addresses that are loopback.
    ///
    /// # Errors  Of entering, and of netlink: `ENOENT` on kernels without CONFIG_INET_DIAG.
    pub fn established(&self) -> io::Result<Vec<Established>> {
        let (mut all, ends) = self.connections()?;
        all.retain(|one| !one.remote.ip().is_loopback() && !ends.contains(&(one.remote, one.local)));
        Ok(all)
    }

    /// Sockets of TCP connections of which both ends are in the namespace, loopback's left out, as are those that no process
    /// has any more.
    ///
    /// # Errors  As for [`Netns::established`].
    pub fn within(&self) -> io::Result<Vec<Established>> {
        let (mut all, ends) = self.connections()?;
        all.retain(|one| one.owned && !one.remote.ip().is_loopback() && ends.contains(&(one.remote, one.local)));
        Ok(all)
    }

    /// All connections, and the two ends of each that is open.
    fn connections(&self) -> io::Result<(Vec<Established>, Ends)> {
        let states = StateFlags::ESTABLISHED
            | StateFlags::SYN_SENT
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT;
        let all = dump(&diagnosis(self)?, states)?;
        // One that is being opened proves nothing: a process may bind to a foreign address and dial its own end.
        let ends = all.iter().filter(|one| !one.opening).map(|one| (one.local, one.remote)).collect();
        Ok((all, ends))
    }

    /// Ports on which a socket in the namespace takes connections, whatever its address.
    ///
    /// # Errors  As for [`Netns::established`].
    pub fn listening(&self) -> io::Result<BTreeSet<u16>> {
        Ok(dump(&diagnosis(self)?, StateFlags::LISTEN)?.iter().map(|one| one.local.port()).collect())
    }

    /// Ends a connection as a reset would: the other end is sent one, the application sees ECONNABORTED. False if it
    /// had ended already.
    ///
    /// # Errors  Of entering, and of netlink: `EOPNOTSUPP` on kernels without CONFIG_INET_DIAG_DESTROY, which
    /// `ebpf::probe` tells.
    pub fn destroy(&self, connection: &Established) -> io::Result<bool> {
        destroy(&diagnosis(self)?, connection.family, connection.id.clone())
    }
}

/// Whether the kernel can end a connection, found out by one that cannot exist. In the calling thread's namespace.
pub(crate) fn can_destroy() -> bool {
    let tried = Netns::current().and_then(|here| destroy(&diagnosis(&here)?, AF_INET, SocketId::new_v4()));
    tried.is_ok()
}

/// A netlink socket of the namespace.
fn diagnosis(netns: &Netns) -> io::Result<Socket> {
    let mut socket = netns.enter(|| Socket::new(NETLINK_SOCK_DIAG))??;
    socket.bind_auto()?;
    socket.connect(&Netlink::new(0, 0))?;
    Ok(socket)
}

/// Sockets of both families in one of the states.
fn dump(socket: &Socket, states: StateFlags) -> io::Result<Vec<Established>> {
    let mut found = Vec::new();
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        send(socket, request(family, states.clone(), any), NLM_F_DUMP)?;
        receive(socket, |response| found.push(established(response)))?;
    }
    Ok(found)
}

fn destroy(socket: &Socket, family: u8, id: SocketId) -> io::Result<bool> {
    send(socket, SockDiagDestroy::new(request(family, StateFlags::all(), id)), NLM_F_ACK)?;
    match receive(socket, |_| {}) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        done => done.map(|()| true),
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    let (protocol, extensions) = (IPPROTO_TCP, ExtensionFlags::empty());
    SockDiagMessage::InetRequest(InetRequest { family, protocol, extensions, states, socket_id })
}

fn send<M: NetlinkSerializable + Into<NetlinkPayload<M>>>(socket: &Socket, message: M, flags: u16) -> io::Result<()> {
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads answers to the end, which is an acknowledgement, an error or the end of a dump.
fn receive(socket: &Socket, mut each: impl FnMut(InetResponse)) -> io::Result<()> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
            rest = &rest[length..];
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => each(*response),
                NetlinkPayload::Error(error) => return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) },
                NetlinkPayload::Done(_) => return Ok(()),
                _ => {}
            }
        }
    }
}

fn established(response: InetResponse) -> Established {
    let InetResponse { header, nlas } = response;
    let id = header.socket_id;
    let end = |address: std::net::IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    let cgroup = nlas.iter().find_map(|attribute| match attribute {
        Nla::Other(other) if netlink_packet_core::Nla::kind(other) == CGROUP_ID => {
            let mut bytes = [0; 8];
            (netlink_packet_core::Nla::value_len(other) == bytes.len()).then(|| {
                netlink_packet_core::Nla::emit_value(other, &mut bytes);
                u64::from_ne_bytes(bytes)
            })
        }
        _ => None,
    });
    Established {
        local: end(id.source_address, id.source_port),
        remote: end(id.destination_address, id.destination_port),
        cgroup,
        family: header.family,
        opening: header.state == TCP_SYN_SENT,
        owned: header.inode != 0,
        id,
    }
}

/// `INET_DIAG_CGROUP_ID` of <linux/inet_diag.h>.
const CGROUP_ID: u16 = 21;
/// Where `tcpi_bytes_received` lies in `struct tcp_info` of <linux/tcp.h>; kernel 4.1.
const BYTES_RECEIVED: usize = 128;
