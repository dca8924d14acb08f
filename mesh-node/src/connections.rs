//! The connections that are alive.
//!
//! Every connection that the agent accepts is opened here and leaves through [`Open`]'s drop, so each one is counted and
//! logged once, whatever its end: completed, refused, reset, or lost to a panic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::connection::{End, Facts, Live};
use crate::cost::Costs;
use crate::netns::NetnsCookie;
use crate::telemetry::Telemetry;

/// All live connections of the agent.
#[derive(Clone, Debug)]
pub struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    live: Mutex<HashMap<u64, Arc<Live>>>,
    held: Mutex<HashMap<NetnsCookie, usize>>,
    next: AtomicU64,
    telemetry: Telemetry,
}

impl Connections {
    pub fn new(telemetry: Telemetry) -> Self {
        let inner = Inner { live: Mutex::default(), held: Mutex::default(), next: AtomicU64::new(1), telemetry };
        Self { inner: Arc::new(inner) }
    }

    /// Puts a connection on record; it stays there until the returned value is finished or dropped.
    pub fn open(&self, facts: Facts, opened: Instant) -> Open {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let (tally, cost) = self.inner.telemetry.opened(&facts);
        let live = Arc::new(Live::new(id, facts, opened, tally, cost));
        self.lock().insert(id, live.clone());
        Open { connections: self.clone(), live, end: None, left: false }
    }

    /// Logs and counts a connection that was refused before it carried anything.
    pub fn refuse(&self, facts: Facts, opened: Instant, end: End) {
        self.open(facts, opened).finish(end);
    }

    /// What the agent does for each pod.
    pub fn costs(&self) -> &Costs {
        self.inner.telemetry.costs()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that something of a pod's is in hand until the returned value is dropped: a connection from its accept on, so
    /// before anyone knows where it goes, or a tunnel over which a peer may ask for more.
    pub fn hold(&self, pod: NetnsCookie) -> Hold {
        *self.held().entry(pod).or_default() += 1;
        Hold { connections: self.clone(), pod }
    }

    /// What is in hand for a pod.
    pub fn held_of(&self, pod: NetnsCookie) -> usize {
        self.held().get(&pod).copied().unwrap_or_default()
    }

    /// Whether nothing is in hand for any pod.
    pub fn is_idle(&self) -> bool {
        self.held().is_empty() && self.is_empty()
    }

    /// Live connections from and to a pod.
    pub fn of_pod(&self, pod: NetnsCookie) -> usize {
        self.lock().values().filter(|live| live.facts.pod == Some(pod)).count()
    }

    /// Every live connection, oldest first.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|live| live.id);
        all
    }

    /// Ends the connections for which `verdict` has a reason, and says how many that were.
    pub fn end_where(&self, mut verdict: impl FnMut(&Live) -> Option<End>) -> usize {
        let mut ended = 0;
        for live in self.all() {
            if let Some(end) = verdict(&live) {
                live.end(end);
                ended += 1;
            }
        }
        ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<NetnsCookie, usize>> {
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a pod's namespace as it is: see [`Connections::hold`].
#[derive(Debug)]
pub struct Hold {
    connections: Connections,
    pod: NetnsCookie,
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.connections.hold(self.pod)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.connections.held();
        if let Some(count) = held.get_mut(&self.pod) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.pod);
            }
        }
    }
}

/// A connection on record.
#[derive(Debug)]
pub struct Open {
    connections: Connections,
    live: Arc<Live>,
    end: Option<End>,
    /// It goes on with nobody here to tell how it ends.
    left: bool,
}

impl Open {
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Takes the connection off the record without a line: another agent writes that.
    pub fn leave(mut self) {
        self.left = true;
    }

    /// Takes the connection off the record and writes its line.
    pub fn finish(mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.live.id);
        if self.left {
            return self.connections.inner.telemetry.left();
        }
        let end = self.end.take().or_else(|| self.live.asked_to_end().cloned()).unwrap_or_else(|| {
            if std::thread::panicking() {
                self.connections.inner.telemetry.panicked();
                End::because("panic", "the agent failed on this connection")
            } else {
                End::agent_stopped()
            }
        });
        self.connections.inner.telemetry.closed(&self.live, &end);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::connection::Direction;

    fn facts() -> Facts {
        Facts::new(Direction::Inbound, ([10, 0, 0, 1], 40000).into(), ([10, 0, 0, 2], 80).into())
    }

    fn metrics(telemetry: &Telemetry) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        telemetry.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    fn ends(text: &str, reason: &str) -> usize {
        text.lines().filter(|l| l.starts_with("weft_connections_ended_total{") && l.contains(reason)).count()
    }

    #[tokio::test]
    async fn a_panic_loses_its_connection_only_and_is_counted() {
        let telemetry = Telemetry::default();
        let connections = Connections::new(telemetry.clone());
        let other = connections.open(facts(), Instant::now());
        let lost = connections.open(facts(), Instant::now());
        let task = tokio::spawn(async move {
            let _lost = lost;
            panic!("a defect");
        });
        assert!(task.await.expect_err("it panicked").is_panic());
        let text = metrics(&telemetry);
        assert!(text.contains("weft_panics_total 1"), "{text}");
        assert_eq!(ends(&text, "panic"), 1, "{text}");
        assert_eq!(connections.len(), 1);
        other.finish(End::complete());
        assert!(connections.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_is_asked_to_end_hears_the_first_reason() {
        let connections = Connections::new(Telemetry::default());
        let open = connections.open(facts(), Instant::now());
        let first = |_: &Live| Some(End::because("policy_denied", "denied by shop/no"));
        assert_eq!(connections.end_where(first), 1);
        connections.end_where(|_| Some(End::because("withdrawn", "")));
        assert_eq!(open.live().ended().await.reason, "policy_denied");
    }

    #[test]
    fn metrics_carry_istios_names_and_bytes_are_counted_once() {
        let telemetry = Telemetry::default();
        let connections = Connections::new(telemetry.clone());
        let open = connections.open(facts(), Instant::now());
        open.live().count_received(5);
        open.live().count_sent(7);
        telemetry.report_bytes(open.live());
        open.live().count_sent(1);
        open.finish(End::complete());
        let text = metrics(&telemetry);
        for (name, value) in [
            ("istio_tcp_connections_opened_total", "1"),
            ("istio_tcp_connections_closed_total", "1"),
            ("istio_tcp_received_bytes_total", "5"),
            ("istio_tcp_sent_bytes_total", "8"),
        ] {
            let line = text.lines().find(|l| l.starts_with(&format!("{name}{{"))).expect(name);
            assert!(line.ends_with(&format!(" {value}")), "{line}");
            assert!(
                line.contains("reporter=\"destination\"") && line.contains("source_workload=\"unknown\""),
                "{line}"
            );
        }
    }
}
