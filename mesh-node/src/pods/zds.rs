//! Pods from a pod manager (a CNI agent, say): one protobuf message a packet, namespaces as descriptors.
//!
//! The manager listens, the agent connects. Packets are few, so a thread of its own does blocking reads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::wire::zds;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};
use prost::Message;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{Command, Description, Manager};
use crate::netns::Netns;
use crate::socket::packet;

/// Longest packet, in bytes; a manager that sends more is not speaking this protocol.
const MAX_PACKET: usize = 1024;
/// Wait between attempts to reach the manager.
const RECONNECT: Duration = Duration::from_secs(1);

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Add { uid: String, info: Option<(String, String, String)> },
    Keep { uid: String },
    Remove { uid: String },
    SnapshotSent,
}

#[derive(Debug, Error)]
pub enum InvalidPacket {
    #[error("packet of {0} bytes or more, the most is {MAX_PACKET}")]
    TooLong(usize),
    #[error("packet is no WorkloadRequest: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("packet without a request this version knows")]
    Empty,
    #[error("{0} without a uid")]
    NoUid(&'static str),
    #[error("pod {uid}: namespace and service account are needed to know its identity")]
    NoInfo { uid: String },
    #[error("pod {uid} came with {count} descriptors, not with one for its namespace")]
    Descriptors { uid: String, count: usize },
}

/// Reads a packet. The text in it is checked when it is used.
///
/// # Errors
/// See [`InvalidPacket`].
pub fn read_packet(bytes: &[u8]) -> Result<Packet, InvalidPacket> {
    if bytes.len() > MAX_PACKET {
        return Err(InvalidPacket::TooLong(bytes.len()));
    }
    let request = zds::WorkloadRequest::decode(bytes)?;
    let named = |what, uid: String| if uid.is_empty() { Err(InvalidPacket::NoUid(what)) } else { Ok(uid) };
    Ok(match request.payload.ok_or(InvalidPacket::Empty)? {
        zds::workload_request::Payload::Add(add) => Packet::Add {
            uid: named("add", add.uid)?,
            info: add.workload_info.map(|i| (i.namespace, i.name, i.service_account)),
        },
        zds::workload_request::Payload::Keep(keep) => Packet::Keep { uid: named("keep", keep.uid)? },
        zds::workload_request::Payload::Del(del) => Packet::Remove { uid: named("delete", del.uid)? },
        zds::workload_request::Payload::SnapshotSent(_) => Packet::SnapshotSent,
    })
}

/// Follows the manager at `path` on a thread of its own, for as long as commands are taken.
///
/// # Errors
/// The process may have no more threads.
pub fn follow(path: PathBuf, commands: mpsc::Sender<Command>) -> io::Result<()> {
    std::thread::Builder::new().name("zds".to_owned()).spawn(move || {
        let mut told = false;
        while !commands.is_closed() {
            match session(&path, &commands) {
                Ok(()) => info!(path = %path.display(), "the pod manager closed its socket"),
                Err(error) if !told => {
                    warn!(path = %path.display(), %error, "pod manager not reached; trying on");
                    told = true;
                }
                Err(_) => {}
            }
            std::thread::sleep(RECONNECT);
        }
    })?;
    Ok(())
}

fn session(path: &Path, commands: &mpsc::Sender<Command>) -> io::Result<()> {
    let manager = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(manager.as_raw_fd(), &UnixAddr::new(path)?)?;
    let hello = zds::ZdsHello { version: zds::Version::V1 as i32 };
    send(manager.as_raw_fd(), &hello.encode_to_vec(), MsgFlags::empty())?;
    info!(path = %path.display(), "pod manager reached");
    // Pods of the first list, until it is complete.
    let mut listing: Option<Vec<Arc<str>>> = Some(Vec::new());
    let mut buffer = [0u8; MAX_PACKET + 1];
    loop {
        let (len, descriptors) = packet::receive(manager.as_fd(), &mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let answer = match read_packet(&buffer[..len]) {
            Ok(packet) => obey(packet, descriptors, &mut listing, commands),
            Err(error) => Err(error.to_string()),
        };
        let error = answer.err().unwrap_or_default();
        if !error.is_empty() {
            warn!(error, "pod manager's request not carried out");
        }
        let ack = zds::workload_response::Payload::Ack(zds::Ack { error });
        let response = zds::WorkloadResponse { payload: Some(ack) };
        send(manager.as_raw_fd(), &response.encode_to_vec(), MsgFlags::empty())?;
    }
}

fn obey(
    packet: Packet,
    mut descriptors: Vec<OwnedFd>,
    listing: &mut Option<Vec<Arc<str>>>,
    commands: &mpsc::Sender<Command>,
) -> Result<(), String> {
    let stopping = || "the agent is stopping".to_owned();
    match packet {
        Packet::Add { uid, info } => {
            let (namespace, name, account) =
                info.ok_or_else(|| InvalidPacket::NoInfo { uid: uid.clone() }.to_string())?;
            let count = descriptors.len();
            let fd = match (descriptors.pop(), count) {
                (Some(fd), 1) => fd,
                _ => return Err(InvalidPacket::Descriptors { uid, count }.to_string()),
            };
            let netns = Netns::from_fd(fd).map_err(|e| format!("pod {uid}: its namespace: {e}"))?;
            let description = Description {
                uid: uid.as_str().into(),
                namespace: namespace.into(),
                name: name.into(),
                service_account: (!account.is_empty()).then(|| account.into()),
                netns,
                manager: Manager::Zds,
            };
            if let Some(listing) = listing {
                listing.push(description.uid.clone());
            }
            let (reply, answer) = oneshot::channel();
            commands.blocking_send(Command::Add(description, reply)).map_err(|_| stopping())?;
            // A manager that lists its pods is not kept waiting for each: certificates are fetched together.
            if listing.is_some() { Ok(()) } else { wait(answer).map(drop) }
        }
        Packet::Keep { uid } => {
            if let Some(listing) = listing {
                listing.push(uid.into());
            }
            Ok(())
        }
        Packet::Remove { uid } => {
            let (reply, answer) = oneshot::channel();
            commands.blocking_send(Command::Remove(uid.into(), reply)).map_err(|_| stopping())?;
            wait(answer)
        }
        Packet::SnapshotSent => {
            let uids = listing.take().unwrap_or_default();
            commands.blocking_send(Command::Settle(Manager::Zds, uids)).map_err(|_| stopping())
        }
    }
}

/// A manager holds a pod's start back until it is answered.
fn wait<T>(answer: oneshot::Receiver<Result<T, String>>) -> Result<T, String> {
    answer.blocking_recv().unwrap_or_else(|_| Err("the agent is stopping".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(request: Option<zds::workload_request::Payload>, expect: Expect) {
        let bytes = zds::WorkloadRequest { payload: request }.encode_to_vec();
        let seen = match read_packet(&bytes) {
            Ok(packet) => format!("{packet:?}"),
            Err(error) => error.to_string(),
        };
        expect.assert_eq(&seen);
    }

    #[test]
    fn packets_are_read_or_refused_with_a_reason() {
        use zds::workload_request::Payload;
        let info = zds::WorkloadInfo { name: "web".into(), namespace: "shop".into(), service_account: "web-sa".into() };
        check(
            Some(Payload::Add(zds::AddWorkload { uid: "u1".into(), workload_info: Some(info) })),
            expect![[r#"Add { uid: "u1", info: Some(("shop", "web", "web-sa")) }"#]],
        );
        check(Some(Payload::Add(zds::AddWorkload::default())), expect!["add without a uid"]);
        check(Some(Payload::Del(zds::DelWorkload { uid: "u1".into() })), expect![[r#"Remove { uid: "u1" }"#]]);
        check(Some(Payload::Keep(zds::KeepWorkload { uid: "u1".into() })), expect![[r#"Keep { uid: "u1" }"#]]);
        check(Some(Payload::SnapshotSent(zds::SnapshotSent {})), expect!["SnapshotSent"]);
        check(None, expect!["packet without a request this version knows"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..1500)) {
            let _ = read_packet(&bytes);
        }
    }
}
