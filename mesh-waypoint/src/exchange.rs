//! One request's story: what it is, whether it may, where it goes, and what comes back.

use http::{Request, Response};
use hyper::body::Incoming;

use crate::body::{self, Body};
use crate::serve::Session;

/// Answers a request. Every failure is an answer.
pub async fn exchange(_session: &Session, _request: Request<Incoming>) -> Response<Body> {
    Response::new(body::empty())
}
