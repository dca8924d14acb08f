//! What keeps a controller from writing that leads no longer: asked at each write, not when the writer was last woken.
//!
//! A process that was stopped for a while wakes in the middle of what it was doing, and learns only at its next attempt to
//! renew that somebody else leads. So the client that writers have lets a call that changes something out only while the
//! time of the last renewal is not over. What is under way at that moment names the version of the object that it follows
//! from, and is a conflict if the next leader has written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::kube::client::Body;
use futures_util::future::BoxFuture;
use http::{Method, Request};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use thiserror::Error;
use tower_layer::Layer;
use tower_service::Service;

/// Until when this process leads, if nothing more is heard. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    origin: Instant,
    /// Milliseconds after `origin`.
    until: Arc<AtomicU64>,
}

impl Leadership {
    /// That of a process that does not lead yet.
    pub(crate) fn none() -> Self {
        Self { origin: Instant::now(), until: Arc::default() }
    }

    /// Whether this process leads at this moment.
    pub(crate) fn holds(&self) -> bool {
        millis(self.origin.elapsed()) < self.until.load(Ordering::Acquire)
    }

    pub(super) fn extend(&self, until: Instant) {
        self.until.store(millis(until.saturating_duration_since(self.origin)), Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `weft_leader`, as it is when somebody asks.
impl Collector for Leadership {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(i64::from(self.holds()));
        let help = "Whether this controller is the one that writes";
        gauge.encode(encoder.encode_descriptor("weft_leader", help, None, gauge.metric_type())?)
    }
}

impl<S> Layer<S> for Leadership {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, leadership: self.clone() }
    }
}

/// A client's service that changes nothing without the Lease.
#[derive(Debug)]
pub(crate) struct Fenced<S> {
    inner: S,
    leadership: Leadership,
}

#[derive(Debug, Error)]
#[error("the Lease is no longer held: another controller writes")]
struct NotLeading;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.method() != Method::GET && !self.leadership.holds() {
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use super::*;

    /// Takes everything.
    struct Server;

    impl Service<Request<Body>> for Server {
        type Response = Method;
        type Error = Infallible;
        type Future = Ready<Result<Method, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            ready(Ok(request.method().clone()))
        }
    }

    #[tokio::test]
    async fn only_reading_is_left_to_a_controller_whose_time_is_over() {
        let leadership = Leadership::none();
        let mut client = leadership.layer(Server);
        let mut sent = async |method: &Method| {
            let request = Request::builder().method(method).body(Body::empty()).unwrap();
            client.call(request).await.map_err(|error| error.to_string())
        };
        let writing = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let ends: [fn(&Leadership); 3] = [|_| {}, |leadership| leadership.extend(Instant::now()), Leadership::end];
        for end in ends {
            leadership.extend(Instant::now() + Duration::from_secs(3600));
            assert!(leadership.holds());
            for method in &writing {
                assert_eq!(sent(method).await.as_ref(), Ok(method));
            }
            end(&leadership);
            let leads = leadership.holds();
            for method in &writing {
                assert_eq!(sent(method).await.is_ok(), leads, "{method}");
            }
            assert!(sent(&Method::GET).await.is_ok());
        }
        assert!(sent(&Method::PATCH).await.unwrap_err().contains("Lease is no longer held"));
    }
}
