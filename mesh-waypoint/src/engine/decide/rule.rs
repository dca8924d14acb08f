//! A rule, compiled.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh_core::l7::route::{self, AbortWith, BackendRef, Fault, Mirror};
use mesh_core::workload::ServiceKey;

use crate::engine::cors::{BadCors, Cors};
use crate::engine::headers::{BadOps, Ops};
use crate::engine::redirect::{BadRedirect, Redirect};
use crate::engine::respond::{Reply, Why};
use crate::engine::retry::Retries;
use crate::engine::rewrite::{BadRewrite, Rewrite};
use crate::engine::session::{BadSession, Session};

#[derive(Clone, Debug)]
pub struct Rule {
    /// What it comes from, for the log.
    pub origin: Arc<str>,
    /// From the end of an injected delay to the end of the reply.
    pub timeout: Option<Duration>,
    pub retries: Retries,
    pub session: Option<Session>,
    pub(super) action: Action,
    pub(super) request: Ops,
    pub(super) response: Ops,
    pub(super) fault: Fault,
    pub(super) cors: Option<Cors>,
    pub(super) mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Forward(ToBackends),
    Redirect(Redirect),
    Respond(Reply),
}

#[derive(Clone, Debug)]
pub(super) struct ToBackends {
    pub(super) backends: Vec<Backend>,
    pub(super) rewrite: Rewrite,
    /// When there is none to draw.
    pub(super) otherwise: StatusCode,
}

#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) weight: u32,
    pub(super) to: To,
    pub(super) request: Ops,
    pub(super) response: Ops,
    pub(super) rewrite: Option<Rewrite>,
}

#[derive(Clone, Debug)]
pub(super) enum To {
    Service {
        service: ServiceKey,
        port: u16,
        subset: Option<Arc<str>>,
    },
    /// Its share is answered with this.
    Missing(StatusCode),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    #[error("{0} is no status")]
    Status(u16),
    #[error("retries: no header is called {0:?}")]
    RetryHeader(Arc<str>),
    #[error(transparent)]
    Ops(#[from] BadOps),
    #[error(transparent)]
    Rewrite(#[from] BadRewrite),
    #[error(transparent)]
    Redirect(#[from] BadRedirect),
    #[error(transparent)]
    Cors(#[from] BadCors),
    #[error(transparent)]
    Session(#[from] BadSession),
}

impl Rule {
    pub(super) fn new(rule: &route::Rule) -> Result<Self, BadRule> {
        let action = match &rule.action {
            route::Action::Forward(forward) => Action::Forward(ToBackends {
                backends: forward.backends.iter().map(Backend::new).collect::<Result<_, _>>()?,
                rewrite: Rewrite::new(&forward.rewrite)?,
                otherwise: status(forward.otherwise)?,
            }),
            route::Action::Redirect(redirect) => Action::Redirect(Redirect::new(redirect)?),
            route::Action::Respond(respond) => {
                Action::Respond(Reply::text(status(respond.status)?, respond.body.clone(), Why::Direct))
            }
        };
        if let Some(AbortWith::Http(code)) = rule.fault.abort.as_ref().map(|abort| abort.with) {
            status(code)?;
        }
        Ok(Self {
            origin: rule.origin.clone(),
            timeout: rule.timeout.filter(|time| !time.is_zero()),
            retries: Retries::new(&rule.retries).map_err(BadRule::RetryHeader)?,
            session: rule.session.as_ref().map(Session::new).transpose()?,
            action,
            request: Ops::for_requests(&rule.request_headers)?,
            response: Ops::for_responses(&rule.response_headers)?,
            fault: rule.fault.clone(),
            cors: rule.cors.as_ref().map(Cors::new).transpose()?,
            mirrors: rule.mirrors.clone(),
        })
    }
}

impl Backend {
    fn new(backend: &route::Backend) -> Result<Self, BadRule> {
        let to = match &backend.to {
            BackendRef::Service { service, port, subset } => {
                To::Service { service: service.clone(), port: *port, subset: subset.clone() }
            }
            BackendRef::Missing { status: code, .. } => To::Missing(status(*code)?),
        };
        Ok(Self {
            weight: backend.weight,
            to,
            request: Ops::for_requests(&backend.request_headers)?,
            response: Ops::for_responses(&backend.response_headers)?,
            rewrite: backend.rewrite.as_ref().map(Rewrite::new).transpose()?,
        })
    }
}

/// One that ends an exchange.
fn status(code: u16) -> Result<StatusCode, BadRule> {
    StatusCode::from_u16(code).ok().filter(|status| !status.is_informational()).ok_or(BadRule::Status(code))
}
