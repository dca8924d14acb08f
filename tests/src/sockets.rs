//! Sockets of a pod, used by the test.
//!
//! eBPF on a cgroup sees a socket by the cgroup of the process that made it, so a thread that only enters the pod's
//! namespace is not seen. A small program in the pod therefore makes the sockets and lends them to the test (SCM_RIGHTS):
//! they belong to the pod in every respect, and the test has them in hand with full control over close and reset.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::program::{Launch, Program};
use crate::wait::PATIENCE;

/// The lending program, and this end of its line.
#[derive(Debug)]
pub struct Sockets {
    line: Mutex<UnixStream>,
    _lender: Program,
}

impl Sockets {
    /// Starts `lender` (`probe lend`) in the place whose sockets are wanted.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn lent_by(lender: Launch) -> Result<Sockets> {
        let (line, far_end) = UnixStream::pair()?;
        line.set_read_timeout(Some(PATIENCE))?;
        Ok(Sockets { line: Mutex::new(line), _lender: lender.stdin(far_end).start()? })
    }

    /// A fresh TCP socket.
    ///
    /// # Errors
    /// When the lender has died.
    pub fn tcp(&self, domain: Domain) -> io::Result<Socket> {
        let mut line = self.line.lock().expect("nobody panics while holding it");
        line.write_all(if domain == Domain::IPV6 { b"6" } else { b"4" })?;
        receive(&line).map(Socket::from)
    }

    /// Connects to `to` as the pod's programs would.
    ///
    /// # Errors
    /// What `connect` says, or `TimedOut` after [`PATIENCE`].
    pub fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.dial_within(to, PATIENCE)
    }

    /// As [`dial`](Sockets::dial), with another deadline.
    ///
    /// # Errors
    /// What `connect` says, or `TimedOut`.
    pub fn dial_within(&self, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
        let socket = self.tcp(Domain::for_address(to))?;
        socket.connect_timeout(&to.into(), within)?;
        Ok(socket.into())
    }

    /// Listens on `on`; an unspecified IPv6 address takes IPv4 too.
    ///
    /// # Errors
    /// What `bind` or `listen` says.
    pub fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.tcp(Domain::for_address(on))?;
        socket.set_reuse_address(true)?;
        if on.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&on.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    }
}

/// The lender's side: makes a socket for every byte that comes, `4` or `6`, until the line closes. A second byte follows once the
/// socket is the borrower's alone: while the lender had it too, the borrower could not close it.
///
/// # Errors
/// When a socket cannot be made or sent.
pub fn lend(mut line: UnixStream) -> io::Result<()> {
    let mut asked = [0];
    while line.read(&mut asked)? == 1 {
        let domain = if asked == *b"6" { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        let rights = [socket.as_raw_fd()];
        sendmsg::<()>(
            line.as_raw_fd(),
            &[IoSlice::new(&asked)],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )?;
        drop(socket);
        line.write_all(&asked)?;
    }
    Ok(())
}

fn receive(mut line: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut room = cmsg_space!(std::os::fd::RawFd);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(line.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let [fd] = fds[..]
        {
            let lent = own(fd);
            line.read_exact(&mut [0])?;
            return Ok(lent);
        }
    }
    Err(io::Error::new(ErrorKind::UnexpectedEof, "the lender of sockets has ended"))
}

#[allow(unsafe_code)]
fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel made this descriptor for this process while it received the message, `receive` passes it on
    // exactly once, and nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_socket_connects() {
        let (line, far_end) = UnixStream::pair().unwrap();
        let lender = std::thread::spawn(|| lend(far_end));
        let ask = |digit: &[u8]| {
            (&line).write_all(digit).unwrap();
            Socket::from(receive(&line).unwrap())
        };
        let (first, second) = (ask(b"4"), ask(b"6"));
        assert_eq!(second.domain().unwrap(), Domain::IPV6);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        first.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        (&first).write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        drop(line);
        lender.join().unwrap().unwrap();
    }

    #[test]
    fn what_the_borrower_closes_is_closed() {
        let (line, far_end) = UnixStream::pair().unwrap();
        let lender = std::thread::spawn(|| lend(far_end));
        for _ in 0..1000 {
            (&line).write_all(b"4").unwrap();
            let listener = Socket::from(receive(&line).unwrap());
            listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            listener.listen(1).unwrap();
            let at = listener.local_addr().unwrap().as_socket().unwrap();
            drop(listener);
            assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        drop(line);
        lender.join().unwrap().unwrap();
    }

    #[test]
    fn a_lender_that_died_is_an_error() {
        let (line, far_end) = UnixStream::pair().unwrap();
        drop(far_end);
        assert_eq!(receive(&line).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
