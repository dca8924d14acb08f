//! Connections that are no HTTP: to a backend as routes say, and then byte for byte.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mesh_core::l7::route::{SourceMatch, by_weight};
use mesh_net::header_list::HeaderList;
use rand::RngExt;
use tokio::io::AsyncReadExt;

use crate::aim::{Aim, Destination, UnderWay, Unknown};
use crate::asked::Of;
use crate::engine::authorization::{Peer, Verdict};
use crate::engine::balance::stick;
use crate::engine::outliers::Outcome;
use crate::io::{ByteStream, Rewound};
use crate::session::{InForce, Session};
use crate::telemetry::{Record, Word};
use crate::world::Compiled;

/// TLS that passes through: its SNI chooses the route.
pub async fn tls(session: Session, mut io: impl ByteStream + 'static, mut first: BytesMut) {
    let sni = loop {
        if let Some(sni) = server_name(&first) {
            break sni;
        }
        match io.read_buf(&mut first).await {
            Ok(0) | Err(_) => break None,
            Ok(_) => {}
        }
    };
    bytes(session, Rewound::new(first.freeze(), io), sni.as_deref()).await;
}

/// Carries the connection to its end.
pub async fn bytes(session: Session, mut client: impl ByteStream + 'static, sni: Option<&str>) {
    let telemetry = session.shared.telemetry.clone();
    let mut record = Record::new(session.client.clone(), session.asked.address, "-");
    record.texts.set(Word::Authority, sni.unwrap_or_default());
    let live = telemetry.begin();
    let rules = session.in_force(&session.world()).compiled.as_ref().and_then(|compiled| compiled.telemetry.clone());
    match Box::pin(reach(&session, &mut record, sni)).await {
        Ok((mut upstream, _in_flight)) => {
            telemetry.connection_opened(&record, rules.as_ref());
            match tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                Ok((received, sent)) => (record.received, record.sent) = (received, sent),
                Err(error) => {
                    record.flags = if is_reset(&error) { "UC" } else { "UF" };
                    record.failure = error.to_string();
                }
            }
        }
        Err((flags, why)) => {
            record.flags = flags;
            record.failure = why;
        }
    }
    telemetry.connection_closed(&mut record, rules.as_ref());
    drop(live);
}

async fn reach(
    session: &Session,
    record: &mut Record,
    sni: Option<&str>,
) -> Result<(Box<dyn ByteStream>, UnderWay), (&'static str, String)> {
    let world = session.world();
    let in_force = session.in_force(&world);
    let InForce { compiled, service, .. } = &*in_force;
    let compiled = compiled.as_ref().ok_or(("NC", "it does not use this waypoint any more".to_owned()))?;
    record.service = service.clone();
    admit(session, compiled, sni).map_err(|why| ("-", why))?;
    let to = destination(session, compiled, sni).ok_or(("NR", "no route leads anywhere".to_owned()))?;
    let empty = HeaderList::new();
    let head = stick::Head { fields: &empty, query: None, client: session.client.address.ip() };
    let aim = Aim::new(session, &world, compiled, &to, &head)
        .map_err(|Unknown| ("NC", "the destination of the route is not known".to_owned()))?;
    record.service = aim.service.clone().or_else(|| record.service.take());
    let mut tried = Vec::new();
    loop {
        let endpoint =
            aim.endpoint(session, &world, &tried, Instant::now()).ok_or(("UH", "no endpoint is healthy".to_owned()))?;
        record.destination = Some(endpoint.workload.clone());
        record.upstream = Some(endpoint.address);
        let (client, limit) = (session.client.address, aim.policy.pool.connect_timeout);
        let dialler = session.shared.upstreams.dialler();
        match dialler.open(&endpoint, Some(client), aim.vouched(session, &world, &endpoint), limit).await {
            Ok(stream) => {
                aim.judge(session, &endpoint, Outcome::Connected);
                return Ok((stream, aim.begin(&endpoint).map_err(|over| ("UO", over.to_string()))?));
            }
            Err(error) => {
                aim.judge(session, &endpoint, Outcome::Failed);
                tried.push(endpoint.uid().clone());
                if tried.len() >= ATTEMPTS {
                    return Err(("UF", error.to_string()));
                }
            }
        }
    }
}

/// Endpoints tried for one connection, the first included.
const ATTEMPTS: usize = 3;

/// Whether the client may have a connection at all. What policy says of requests holds for none of its bytes: an ALLOW that
/// asks for a method lets nothing in.
fn admit(session: &Session, compiled: &Arc<Compiled>, sni: Option<&str>) -> Result<(), String> {
    let policies = compiled.policies.for_connection(Peer {
        identity: Some(&session.client.identity),
        address: session.client.address.ip(),
        destination: session.asked.address.ip(),
        port: session.asked.address.port(),
        sni,
    });
    match policies.evaluate_bytes(&[]).verdict {
        Verdict::Allow(_) => Ok(()),
        Verdict::Deny(denial) => Err(format!("policy: {denial}")),
        Verdict::Ask(question) => Err(format!("policy: {} asks an authorizer of requests", question.policy)),
    }
}

fn destination(session: &Session, compiled: &Compiled, sni: Option<&str>) -> Option<Destination> {
    let Of::Service(service) = &session.asked.of else { return Some(Destination::Itself) };
    let port = session.asked.address.port();
    let rules = compiled.model.ports.get(&port)?;
    let named = sni.and_then(|sni| rules.tls.iter().find(|route| route.sni.iter().any(|host| covers(host, sni))));
    let route = match named {
        Some(route) => &route.then,
        None if rules.tcp.is_empty() => {
            return Some(Destination::Service { service: service.clone(), port, subset: None });
        }
        None => rules.tcp.iter().find(|route| holds(&route.sources, session))?,
    };
    let total: u64 = route.backends.iter().map(|(weight, _)| u64::from(*weight)).sum();
    let drawn = rand::rng().random_range(0..total.max(1));
    let backend = by_weight(route.backends.iter().map(|(weight, to)| (*weight, to)), drawn)?;
    Destination::of(backend)
}

/// Exact, `*.` with what follows, or everything.
fn covers(host: &str, sni: &str) -> bool {
    match host.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => sni.ends_with(suffix),
        None => host == sni,
    }
}

fn holds(sources: &[SourceMatch], session: &Session) -> bool {
    let (namespace, uid) = (session.client.identity.namespace(), session.client.workload.as_ref().map(|w| &w.uid));
    let one = |source: &SourceMatch| {
        (source.namespaces.is_empty() || source.namespaces.contains(namespace))
            && source.workloads.as_ref().is_none_or(|all| uid.is_some_and(|uid| all.contains(uid)))
    };
    sources.is_empty() || sources.iter().any(one)
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// The server name of a ClientHello (RFC 6066, section 3), in lower case. Outer `None`: more bytes are needed.
#[allow(clippy::option_option)]
pub fn server_name(first: &[u8]) -> Option<Option<Arc<str>>> {
    let mut hello = Vec::new();
    let mut rest = first;
    // A ClientHello may be spread over records.
    let wanted = loop {
        if hello.len() >= 4 {
            let length = usize::from(hello[1]) << 16 | usize::from(hello[2]) << 8 | usize::from(hello[3]);
            if hello[0] != 1 || length > MOST_HELLO {
                return Some(None);
            }
            if hello.len() >= 4 + length {
                break 4 + length;
            }
        }
        let [kind, _, _, high, low, tail @ ..] = rest else { return None };
        let length = usize::from(*high) << 8 | usize::from(*low);
        if *kind != 0x16 || length == 0 {
            return Some(None);
        }
        let part = tail.get(..length)?;
        hello.extend_from_slice(part);
        rest = &tail[length..];
    };
    Some(name_of(&hello[4..wanted]))
}

const MOST_HELLO: usize = 64 << 10;

fn name_of(hello: &[u8]) -> Option<Arc<str>> {
    // Version and random, then session id, cipher suites and compression methods.
    let rest = hello.get(34..)?;
    let rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    let rest = rest.get(2 + number(rest)?..)?;
    let rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    let mut extensions = rest.get(2..2 + number(rest)?)?;
    while let Some(kind) = number(extensions) {
        let length = number(extensions.get(2..)?)?;
        let body = extensions.get(4..4 + length)?;
        if kind == 0 {
            let list = body.get(2..)?;
            let name = list.get(3..3 + number(list.get(1..)?)?)?;
            let text = std::str::from_utf8(name).ok().filter(|_| list.first() == Some(&0))?;
            return Some(text.to_ascii_lowercase().into());
        }
        extensions = &extensions[4 + length..];
    }
    None
}

fn number(bytes: &[u8]) -> Option<usize> {
    Some(usize::from(*bytes.first()?) << 8 | usize::from(*bytes.get(1)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with `extensions`, in records of at most `most` bytes.
    fn hello(extensions: &[u8], most: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([2, 1, 1, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
        message.extend(body);
        let record = |part: &[u8]| [&[0x16, 3, 1, 0, u8::try_from(part.len()).unwrap()][..], part].concat();
        message.chunks(most).flat_map(record).collect()
    }

    fn named(name: &str) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        let mut extension = vec![0, 0, 0, length + 5, 0, length + 3, 0, 0, length];
        extension.extend(name.bytes());
        extension
    }

    #[test]
    fn the_server_name_is_found_however_the_hello_comes() {
        let other = [0, 43, 0, 3, 2, 3, 4];
        for most in [1, 5, 100, 250] {
            let whole = hello(&[&other[..], &named("Shop.Example")].concat(), most);
            assert_eq!(server_name(&whole), Some(Some("shop.example".into())));
            for cut in 0..whole.len() {
                assert_eq!(server_name(&whole[..cut]), None, "{cut} of {}", whole.len());
            }
        }
        assert_eq!(server_name(&hello(&other, 100)), Some(None));
        assert_eq!(server_name(b"GET / HTTP/1.1"), Some(None));
    }

    proptest! {
        #[test]
        fn arbitrary_hellos_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..80_usize, byte: u8) {
            let _ = server_name(&bytes);
            let mut damaged = hello(&named("shop.example"), 40);
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = server_name(&damaged);
        }
    }
}
