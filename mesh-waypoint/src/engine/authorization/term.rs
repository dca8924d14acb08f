//! The single tests that rules are made of.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use mesh_core::identity::SpiffeId;
use mesh_core::l7::authorization::{Attribute, Condition, PathPattern};
use mesh_core::l7::text::TextMatch;
use serde_json::Value;

use super::template::Template;
use super::texts::Texts;
use super::{Peer, Request, Unreadable};
use crate::engine::fields::Fields;

/// A test, or that it does not hold. A `not` field of a policy holds where the value is missing.
#[derive(Clone, Debug)]
pub(super) struct Term<T> {
    test: T,
    is_negated: bool,
}

impl<T> Term<T> {
    pub(super) fn holds(&self, holds: impl FnOnce(&T) -> bool) -> bool {
        holds(&self.test) != self.is_negated
    }
}

/// What a connection decides.
#[derive(Clone, Debug)]
pub(super) enum PeerTest {
    Principal(Texts),
    Namespace(Texts),
    Account(HashSet<(Arc<str>, Arc<str>)>),
    /// `namespace/account` as one text.
    AccountText(Texts),
    SourceIp(Vec<IpNet>),
    DestinationIp(Vec<IpNet>),
    Port(Vec<u16>),
    Sni(Texts),
}

impl PeerTest {
    pub(super) fn holds(&self, peer: &Peer<'_>) -> bool {
        let text = |texts: &Texts, value: Option<&str>| value.is_some_and(|value| texts.hold(value.as_bytes()));
        match self {
            Self::Principal(texts) => text(texts, peer.identity.map(SpiffeId::principal)),
            Self::Namespace(texts) => text(texts, peer.identity.map(SpiffeId::namespace)),
            Self::Account(accounts) => {
                peer.identity.is_some_and(|id| accounts.contains(&(id.namespace().into(), id.service_account().into())))
            }
            Self::AccountText(texts) => {
                let account = peer.identity.map(|id| format!("{}/{}", id.namespace(), id.service_account()));
                text(texts, account.as_deref())
            }
            Self::SourceIp(nets) => within(nets, peer.address),
            Self::DestinationIp(nets) => within(nets, peer.destination),
            Self::Port(ports) => ports.contains(&peer.port),
            Self::Sni(texts) => text(texts, peer.sni),
        }
    }
}

/// What a request decides.
#[derive(Clone, Debug)]
pub(super) enum RequestTest {
    Principal(Texts),
    Audience(Texts),
    Presenter(Texts),
    Claim(Vec<Arc<str>>, Texts),
    RemoteIp(Vec<IpNet>),
    /// In lower case.
    Host(Texts),
    Method(Texts),
    Path(Texts, Vec<Template>),
    /// Path and query, which is what `:path` is.
    Target(Texts),
    /// As sent.
    Authority(Texts),
    Header(Arc<str>, Texts),
}

impl RequestTest {
    pub(super) fn host(values: &[TextMatch]) -> Result<Self, Unreadable> {
        Texts::compile_lower_case(values).map(Self::Host)
    }

    pub(super) fn path(values: &[PathPattern]) -> Result<Self, Unreadable> {
        let (mut texts, mut templates) = (Vec::new(), Vec::new());
        for value in values {
            match value {
                PathPattern::Text(text) => texts.push(text.clone()),
                PathPattern::Template(text) => templates.push(Template::compile(text)?),
            }
        }
        Ok(Self::Path(exact(&texts)?, templates))
    }

    pub(super) fn holds(&self, request: &Request<'_>, client: IpAddr) -> bool {
        let token = request.authenticated;
        match self {
            Self::Principal(texts) => {
                token.and_then(|t| t.principal.as_ref()).is_some_and(|principal| texts.hold(principal.as_bytes()))
            }
            Self::Audience(texts) => token.is_some_and(|t| t.audiences.iter().any(|text| texts.hold(text.as_bytes()))),
            Self::Presenter(texts) => {
                token.and_then(|t| t.presenter.as_ref()).is_some_and(|presenter| texts.hold(presenter.as_bytes()))
            }
            Self::Claim(path, texts) => token.and_then(|t| t.claim(path)).is_some_and(|value| claim(value, texts)),
            Self::RemoteIp(nets) => within(nets, remote(request.fields).unwrap_or(client)),
            Self::Host(texts) => texts.hold(lower_case(request.host).as_bytes()),
            Self::Authority(texts) => texts.hold(request.host.as_bytes()),
            Self::Method(texts) => texts.hold(request.method.as_bytes()),
            Self::Path(texts, templates) => {
                texts.hold(request.path.as_bytes()) || templates.iter().any(|template| template.holds(request.path))
            }
            Self::Target(texts) => match request.query {
                Some(query) => texts.hold(format!("{}?{query}", request.path).as_bytes()),
                None => texts.hold(request.path.as_bytes()),
            },
            Self::Header(name, texts) => request.fields.lines(name).any(|value| texts.hold(value)),
        }
    }
}

/// A text or a list of texts; numbers and booleans are no text.
fn claim(value: &Value, texts: &Texts) -> bool {
    match value {
        Value::String(text) => texts.hold(text.as_bytes()),
        Value::Array(items) => items.iter().filter_map(Value::as_str).any(|text| texts.hold(text.as_bytes())),
        _ => false,
    }
}

/// The last entry of x-forwarded-for, which is the one that the nearest proxy wrote.
pub(super) fn remote(fields: &dyn Fields) -> Option<IpAddr> {
    let last = fields.lines("x-forwarded-for").last()?;
    let entry = str::from_utf8(last).ok()?.rsplit(',').next()?.trim();
    entry.parse().ok().or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()))
}

fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.into() }
}

/// As [`mesh_core::policy`] has it: a network of IPv4-mapped addresses means the IPv4 addresses in it.
fn within(nets: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    nets.iter().any(|net| match (net, ip) {
        (IpNet::V6(mapped), IpAddr::V4(ip)) if mapped.prefix_len() >= 96 => mapped.contains(&ip.to_ipv6_mapped()),
        _ => net.contains(&ip),
    })
}

pub(super) fn exact(values: &[TextMatch]) -> Result<Texts, Unreadable> {
    Texts::compile(values)
}

type Terms<T> = Vec<Term<T>>;

/// Adds a term for each of the two lists that says something.
pub(super) fn both<T, V>(
    terms: &mut Terms<T>,
    values: &[V],
    not: &[V],
    test: impl Fn(&[V]) -> Result<T, Unreadable>,
) -> Result<(), Unreadable> {
    for (values, is_negated) in [(values, false), (not, true)] {
        if !values.is_empty() {
            terms.push(Term { test: test(values)?, is_negated });
        }
    }
    Ok(())
}

pub(super) fn condition(
    written: &Condition,
    peer: &mut Terms<PeerTest>,
    request: &mut Terms<RequestTest>,
) -> Result<(), Unreadable> {
    let (values, not) = (&written.values[..], &written.not_values[..]);
    let mut of_peer = |test: &dyn Fn(&[TextMatch]) -> Result<PeerTest, Unreadable>| both(peer, values, not, test);
    let mut of_request =
        |test: &dyn Fn(&[TextMatch]) -> Result<RequestTest, Unreadable>| both(request, values, not, test);
    match &written.key {
        Attribute::SourceIp => of_peer(&|v| Ok(PeerTest::SourceIp(nets(v)?))),
        Attribute::SourceNamespace => of_peer(&|v| Ok(PeerTest::Namespace(exact(v)?))),
        Attribute::SourcePrincipal => of_peer(&|v| Ok(PeerTest::Principal(exact(v)?))),
        Attribute::SourceServiceAccount => of_peer(&|v| Ok(PeerTest::AccountText(exact(v)?))),
        Attribute::DestinationIp => of_peer(&|v| Ok(PeerTest::DestinationIp(nets(v)?))),
        Attribute::DestinationPort => of_peer(&|v| Ok(PeerTest::Port(ports(v)?))),
        Attribute::Sni => of_peer(&|v| Ok(PeerTest::Sni(exact(v)?))),
        Attribute::RemoteIp => of_request(&|v| Ok(RequestTest::RemoteIp(nets(v)?))),
        Attribute::RequestPrincipal => of_request(&|v| Ok(RequestTest::Principal(exact(v)?))),
        Attribute::Audiences => of_request(&|v| Ok(RequestTest::Audience(exact(v)?))),
        Attribute::Presenter => of_request(&|v| Ok(RequestTest::Presenter(exact(v)?))),
        Attribute::Claim(path) => of_request(&|v| Ok(RequestTest::Claim(path.clone(), exact(v)?))),
        Attribute::RequestHeader(name) => of_request(&|v| header(name, v)),
    }
}

/// What the reference's proxy has as headers, and is none here, is looked for where it is: a DENY that looks for `:path` among
/// the headers would never hold.
fn header(name: &str, values: &[TextMatch]) -> Result<RequestTest, Unreadable> {
    let (name, texts) = (name.to_ascii_lowercase(), exact(values)?);
    match &*name {
        ":authority" | "host" => Ok(RequestTest::Authority(texts)),
        ":method" => Ok(RequestTest::Method(texts)),
        ":path" => Ok(RequestTest::Target(texts)),
        name if name.is_empty() || name.starts_with(':') => Err(Unreadable),
        name => Ok(RequestTest::Header(name.into(), texts)),
    }
}

fn nets(values: &[TextMatch]) -> Result<Vec<IpNet>, Unreadable> {
    let net = |value: &TextMatch| match value {
        TextMatch::Exact(text) => {
            let address = || text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| Unreadable)
        }
        _ => Err(Unreadable),
    };
    values.iter().map(net).collect()
}

fn ports(values: &[TextMatch]) -> Result<Vec<u16>, Unreadable> {
    let port = |value: &TextMatch| match value {
        TextMatch::Exact(text) => text.parse().map_err(|_| Unreadable),
        _ => Err(Unreadable),
    };
    values.iter().map(port).collect()
}
