//! `connectionPool.tcp`: how many connections a pod may have to a service, and how long one may live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::traffic::ConnectionPool;

use super::experience::Target;
use crate::connection::{End, Live};
use crate::netns::NetnsCookie;

/// Connections of the pods of this node for which there is a limit.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<Mutex<HashMap<(NetnsCookie, Target), u32>>>);

impl Limits {
    /// Counts one more connection for as long as the returned value lives; `None` when `most` are there.
    pub fn take(&self, pod: NetnsCookie, target: &Target, most: u32) -> Option<Taken> {
        let key = (pod, target.clone());
        let mut counts = self.lock();
        let count = counts.entry(key.clone()).or_default();
        (*count < most).then(|| {
            *count += 1;
            Taken { limits: self.clone(), key }
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(NetnsCookie, Target), u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that may be.
#[derive(Debug)]
pub struct Taken {
    limits: Limits,
    key: (NetnsCookie, Target),
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut counts = self.limits.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// Ends the connection when it is too old or too long idle. An idle one is found out up to an eighth of the time too late.
pub async fn watch(live: Arc<Live>, pool: ConnectionPool) {
    let old = async {
        let Some(most) = pool.max_duration else { return std::future::pending().await };
        tokio::time::sleep_until((live.opened + most).into()).await;
        End::because("max_connection_duration", format!("the connection is {} old", text(most)))
    };
    let idle = async {
        let Some(most) = pool.idle_timeout else { return std::future::pending().await };
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep((most / 8).max(SHORTEST_LOOK)).await;
            let carried = live.received() + live.sent();
            if carried != seen {
                (seen, since) = (carried, Instant::now());
            } else if since.elapsed() >= most {
                return End::because("idle_timeout", format!("nothing was carried for {}", text(most)));
            }
        }
    };
    let end = tokio::select! { end = old => end, end = idle => end };
    live.end(end);
}

const SHORTEST_LOOK: Duration = Duration::from_millis(1);

fn text(duration: Duration) -> String {
    format!("{duration:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Direction, Facts};
    use mesh_core::workload::ServiceKey;

    #[test]
    fn a_pod_gets_so_many_and_another_pod_its_own() {
        let limits = Limits::default();
        let service = ServiceKey { namespace: "shop".into(), hostname: "web".into() };
        let target = Target { service, port: 80 };
        let (a, b) = (NetnsCookie(1), NetnsCookie(2));
        let first = limits.take(a, &target, 2).expect("the first");
        let _second = limits.take(a, &target, 2).expect("the second");
        assert!(limits.take(a, &target, 2).is_none());
        assert!(limits.take(b, &target, 2).is_some());
        assert!(limits.take(a, &Target { port: 81, ..target.clone() }, 2).is_some());
        drop(first);
        assert!(limits.take(a, &target, 2).is_some());
    }

    fn live() -> Arc<Live> {
        let facts = Facts::new(Direction::Outbound, ([10, 0, 0, 1], 40000).into(), ([10, 0, 0, 2], 80).into());
        Arc::new(Live::new(1, facts, Instant::now(), Arc::default(), None))
    }

    #[tokio::test]
    async fn a_silent_connection_ends_and_one_that_speaks_does_not() {
        let pool = ConnectionPool { idle_timeout: Some(Duration::from_millis(200)), ..ConnectionPool::default() };
        let (silent, speaks) = (live(), live());
        let _watches = [silent.clone(), speaks.clone()].map(|live| tokio::spawn(watch(live, pool.clone())));
        for _ in 0..40 {
            speaks.count_sent(1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(silent.ended().await.reason, "idle_timeout");
        assert_eq!(speaks.asked_to_end(), None);
    }

    #[tokio::test]
    async fn an_old_connection_ends_though_it_speaks() {
        let pool = ConnectionPool { max_duration: Some(Duration::from_millis(50)), ..ConnectionPool::default() };
        let live = live();
        tokio::spawn(watch(live.clone(), pool));
        live.count_received(1);
        assert_eq!(live.ended().await.reason, "max_connection_duration");
        assert!(live.opened.elapsed() >= Duration::from_millis(50));
    }
}
