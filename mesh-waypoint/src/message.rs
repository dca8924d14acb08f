//! Requests on their way through.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode, Version};
use mesh_net::header_list::HeaderList;
use tracing::debug;

use crate::body::Body;
use crate::io::ByteStream;

/// A request as it has come, its head well-formed and nothing more.
#[derive(Debug)]
pub struct Arriving {
    pub method: Method,
    /// `:authority` of HTTP/2; HTTP/1.1 has it among its headers.
    pub authority: Option<String>,
    /// As in the request line: origin form, absolute form, or `*`.
    pub target: String,
    pub version: Version,
    pub headers: HeaderList,
    pub body: Body,
}

/// A request as it goes on.
#[derive(Debug)]
pub struct Departing {
    pub method: Method,
    pub authority: String,
    /// Path and query.
    pub target: String,
    /// Without those that say how the message is framed, but for `content-length`; without Host.
    pub headers: Arc<HeaderList>,
    /// What the connection is asked to become.
    pub upgrade: Option<http::HeaderValue>,
    pub body: Body,
}

/// A response: its head, and its body as it is read.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderList,
    pub body: Body,
}

impl Response {
    pub fn map(self, body: impl FnOnce(Body) -> Body) -> Self {
        Self { body: body(self.body), ..self }
    }
}

/// What comes back.
#[derive(Debug)]
pub struct Answer {
    pub response: Response,
    /// The connection has become something else: nothing follows the head but what that is.
    pub joined: Option<Joined>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self { response, joined: None }
    }
}

/// The endpoint's side of a connection that is no HTTP any more.
pub struct Joined {
    pub upstream: Box<dyn ByteStream>,
    /// Whatever is to live as long.
    pub held: Option<Box<dyn Any + Send>>,
}

impl Joined {
    /// Joins both ends. To be called once the answer's head has told the client that its connection is another one from here on.
    pub async fn carry(mut self, client: &mut impl ByteStream) {
        if let Err(error) = tokio::io::copy_bidirectional(client, &mut self.upstream).await {
            debug!(%error, "an upgraded connection broke off");
        }
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

/// Who answers requests.
pub trait Service: Send + Sync {
    /// Every failure is an answer.
    fn answer(&self, arriving: Arriving) -> impl Future<Output = Answer> + Send;

    /// The answer to what is no request.
    fn refuse(&self, status: StatusCode, why: &str) -> Answer;

    /// The answer to a head that did not come to its end in time.
    fn too_slow(&self) -> Answer;

    /// Whether connections are to end when nothing is under way on them.
    fn is_tight(&self) -> bool;

    /// Ready when [`is_tight`](Self::is_tight) is.
    fn tight(&self) -> impl Future<Output = ()> + Send;
}
