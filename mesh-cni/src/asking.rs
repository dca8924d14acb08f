//! Asking the agent.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::packet::{Answer, MOST, Request};

/// What an answer takes on its way, beside the time that the agent is given.
const MARGIN: Duration = Duration::from_millis(500);

/// Sends one request to the agent at `path`, with the pod's network namespace, and waits for the answer until `deadline`.
///
/// # Errors
/// Nobody listens there, or went away without an answer, or there was none in time.
pub fn ask(
    path: &Path,
    request: impl FnOnce(u64) -> Request,
    netns: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<Answer> {
    let left = deadline.saturating_duration_since(Instant::now());
    let given = left.saturating_sub(MARGIN).as_millis();
    let request = serde_json::to_vec(&request(u64::try_from(given).unwrap_or(u64::MAX)))?;
    let agent: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    // Zero would mean for ever.
    let patience = TimeVal::new(left.as_secs().try_into().unwrap_or(i64::MAX), left.subsec_micros().max(1).into());
    setsockopt(&agent, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(&agent, sockopt::SendTimeout, &patience)?;
    connect(agent.as_raw_fd(), &UnixAddr::new(path)?)?;
    let descriptors = netns.map(|netns| [netns.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = descriptors.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    sendmsg::<UnixAddr>(agent.as_raw_fd(), &[IoSlice::new(&request)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    let mut buffer = [0; MOST];
    match recv(agent.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it went away without an answer")),
        Ok(length) => Ok(serde_json::from_slice(&buffer[..length])?),
        Err(nix::Error::EAGAIN) => Err(io::Error::new(io::ErrorKind::TimedOut, "it has not answered in time")),
        Err(error) => Err(error.into()),
    }
}
