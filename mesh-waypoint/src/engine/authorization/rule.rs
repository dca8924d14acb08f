//! A rule, taken apart into what a connection decides and what is left for each request.
//!
//! ```text
//! rule         group & group ..            from; to; each condition
//! group        alternative | alternative ..
//! alternative  term & term ..              a field of a source or an operation, or a condition's values
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::l7::authorization::{Condition, Operation, Rule as Written, Source};

use super::term::{PeerTest, RequestTest, Term, both, condition, exact};
use super::{Peer, Request, Unreadable};

#[derive(Clone, Debug)]
pub(super) struct Rule {
    groups: Vec<Vec<Alternative>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Alternative {
    pub(super) peer: Vec<Term<PeerTest>>,
    /// Shared with every connection for which the others hold.
    pub(super) request: Arc<[Term<RequestTest>]>,
}

impl Rule {
    /// # Errors
    /// Any part of it cannot be read.
    pub(super) fn compile(rule: &Written) -> Result<Self, Unreadable> {
        let mut groups = Vec::new();
        if !rule.from.is_empty() {
            groups.push(rule.from.iter().map(source).collect::<Result<_, _>>()?);
        }
        if !rule.to.is_empty() {
            groups.push(rule.to.iter().map(operation).collect::<Result<_, _>>()?);
        }
        for written in &rule.when {
            groups.push(vec![when(written)?]);
        }
        Ok(Self { groups })
    }

    /// A rule that holds for everything.
    pub(super) fn always() -> Self {
        Self { groups: Vec::new() }
    }

    /// What is left to ask of a request; `None` when it can hold for none on this connection.
    pub(super) fn for_connection(&self, peer: &Peer<'_>) -> Option<Rest> {
        let mut left = Vec::new();
        for group in &self.groups {
            let mut possible =
                group.iter().filter(|a| a.peer.iter().all(|term| term.holds(|t| t.holds(peer)))).peekable();
            possible.peek()?;
            let possible: Vec<_> = possible.map(|alternative| alternative.request.clone()).collect();
            if possible.iter().all(|terms| !terms.is_empty()) {
                left.push(possible);
            }
        }
        Some(Rest(left))
    }
}

/// Groups of a rule that a request decides.
#[derive(Clone, Debug)]
pub(super) struct Rest(Vec<Vec<Arc<[Term<RequestTest>]>>>);

impl Rest {
    /// `client`: its own address.
    pub(super) fn holds(&self, request: &Request<'_>, client: IpAddr) -> bool {
        let alternative =
            |terms: &Arc<[Term<RequestTest>]>| terms.iter().all(|term| term.holds(|test| test.holds(request, client)));
        self.0.iter().all(|group| group.iter().any(alternative))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.0.is_empty()
    }
}

fn source(s: &Source) -> Result<Alternative, Unreadable> {
    let mut peer = Vec::new();
    both(&mut peer, &s.principals, &s.not_principals, |v| Ok(PeerTest::Principal(exact(v)?)))?;
    both(&mut peer, &s.namespaces, &s.not_namespaces, |v| Ok(PeerTest::Namespace(exact(v)?)))?;
    let accounts = |v: &[_]| Ok(PeerTest::Account(v.iter().cloned().collect()));
    both(&mut peer, &s.service_accounts, &s.not_service_accounts, accounts)?;
    both(&mut peer, &s.ip_blocks, &s.not_ip_blocks, |v| Ok(PeerTest::SourceIp(v.to_vec())))?;
    let mut request = Vec::new();
    let principal = |v: &[_]| Ok(RequestTest::Principal(exact(v)?));
    both(&mut request, &s.request_principals, &s.not_request_principals, principal)?;
    let remote = |v: &[_]| Ok(RequestTest::RemoteIp(v.to_vec()));
    both(&mut request, &s.remote_ip_blocks, &s.not_remote_ip_blocks, remote)?;
    Ok(Alternative { peer, request: request.into() })
}

fn operation(o: &Operation) -> Result<Alternative, Unreadable> {
    let mut peer = Vec::new();
    both(&mut peer, &o.ports, &o.not_ports, |v| Ok(PeerTest::Port(v.to_vec())))?;
    let mut request = Vec::new();
    both(&mut request, &o.hosts, &o.not_hosts, RequestTest::host)?;
    both(&mut request, &o.methods, &o.not_methods, |v| Ok(RequestTest::Method(exact(v)?)))?;
    both(&mut request, &o.paths, &o.not_paths, RequestTest::path)?;
    Ok(Alternative { peer, request: request.into() })
}

fn when(written: &Condition) -> Result<Alternative, Unreadable> {
    let (mut peer, mut request) = (Vec::new(), Vec::new());
    condition(written, &mut peer, &mut request)?;
    Ok(Alternative { peer, request: request.into() })
}
