//! A worker's time, shared by the pods that want it: one pod's hundred busy connections do not stand a hundred times before
//! another pod's one.
//!
//! The runtime takes tasks in the order in which they were woken. A task of a pod that has had its [`QUANTUM`] in this pass goes
//! to the end of that order at once. A pass ends with a task of the worker's own, which was woken when the first one was sent
//! back, so it comes behind everything that waited then: whoever was sent back is taken in the next one, and nobody waits while
//! nobody else wants the core. What that costs is the way to the end of the line, about 0.1 us.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mesh_net::tls::budget;
use pin_project_lite::pin_project;
use tokio::sync::Notify;

use crate::cost::Cost;
use crate::lookout;

/// What a pod may use of a pass: two turns of a connection that moves much.
const QUANTUM: Duration = Duration::from_micros(100);
/// After so long without another pod's task a pod counts as alone, has no limit and moves large batches.
const ALONE: Duration = Duration::from_millis(10);

/// Who has had how much of the pass. Pure.
#[derive(Debug, Default)]
struct Shares {
    used: HashMap<u32, Duration>,
    /// The pods that ran last, the latest first, and when.
    latest: [Option<(u32, Instant)>; 2],
    /// Somebody was sent back in this pass.
    waits: bool,
}

/// What becomes of a task that is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Now {
        /// No other pod wants the core.
        alone: bool,
    },
    Later {
        /// Nobody was sent back before it in this pass.
        first: bool,
    },
}

impl Shares {
    fn turn(&mut self, pod: u32, now: Instant) -> Turn {
        let spent = self.used.get(&pod).is_some_and(|used| *used >= QUANTUM);
        let alone = self.is_alone(pod, now);
        if !spent || alone {
            return Turn::Now { alone };
        }
        Turn::Later { first: !std::mem::replace(&mut self.waits, true) }
    }

    fn is_alone(&self, pod: u32, now: Instant) -> bool {
        let other = self.latest.iter().flatten().find(|(latest, _)| *latest != pod);
        other.is_none_or(|(_, when)| now.saturating_duration_since(*when) > ALONE)
    }

    fn ran(&mut self, pod: u32, now: Instant, took: Duration) {
        *self.used.entry(pod).or_default() += took;
        if self.latest[0].is_some_and(|(latest, _)| latest != pod) {
            self.latest[1] = self.latest[0];
        }
        self.latest[0] = Some((pod, now));
    }

    /// Begins the next pass.
    fn next(&mut self) {
        self.used.clear();
        self.waits = false;
    }
}

thread_local! {
    static SHARES: RefCell<Shares> = RefCell::default();
    static OVER: Arc<Notify> = Arc::default();
}

/// Ends passes; to be run by each worker for as long as it lives.
pub async fn keep() {
    let over = OVER.with(Arc::clone);
    loop {
        over.notified().await;
        SHARES.with_borrow_mut(Shares::next);
    }
}

pin_project! {
    /// A task of a pod's, which takes its turn and whose time is counted.
    pub struct Shared<F> {
        cost: Arc<Cost>,
        #[pin]
        task: F,
    }
}

/// Has `task` take turns with those of other pods.
pub fn shared<F>(cost: Arc<Cost>, task: F) -> Shared<F> {
    Shared { cost, task }
}

impl<F: Future> Future for Shared<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let (pod, begun) = (this.cost.id, Instant::now());
        match SHARES.with_borrow_mut(|shares| shares.turn(pod, begun)) {
            Turn::Now { alone } => budget::alone(alone),
            Turn::Later { first } => {
                if first {
                    OVER.with(|over| over.notify_one());
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        // Zero is nobody's.
        let polled = budget::owned_by(pod.saturating_add(1), || this.task.poll(cx));
        let took = begun.elapsed();
        SHARES.with_borrow_mut(|shares| shares.ran(pod, begun + took, took));
        lookout::busy(begun + took, took);
        this.cost.spend(took);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::cost::Costs;
    use crate::netns::NetnsCookie;

    #[test]
    fn a_pod_that_is_alone_has_no_limit_and_one_that_is_not_has_a_quantum_of_each_pass() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(shares.turn(1, now), Turn::Now { alone: true });
            shares.ran(1, now, QUANTUM);
        }
        shares.ran(2, now, QUANTUM / 10);
        assert_eq!(shares.turn(1, now), Turn::Later { first: true });
        assert_eq!(shares.turn(1, now), Turn::Later { first: false });
        assert_eq!(shares.turn(2, now), Turn::Now { alone: false });
        assert_eq!(shares.turn(1, now + ALONE + QUANTUM), Turn::Now { alone: true }, "the other has gone");
        shares.next();
        assert_eq!(shares.turn(1, now), Turn::Now { alone: false });
        shares.ran(1, now, QUANTUM);
        assert_eq!(shares.turn(1, now), Turn::Later { first: true });
    }

    /// Tasks that take a tenth of a quantum, 64 of one pod and one of another, in the order in which they run.
    #[test]
    fn another_pods_task_does_not_wait_for_sixty_four() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let costs = Costs::default();
        let (greedy, modest) = (costs.enter("a", "greedy", NetnsCookie(1)), costs.enter("a", "modest", NetnsCookie(2)));
        let task = |name, cost: &Arc<Cost>, times| {
            let order = order.clone();
            shared(cost.clone(), async move {
                for _ in 0..times {
                    let begun = Instant::now();
                    while begun.elapsed() < QUANTUM / 10 {}
                    order.lock().unwrap().push(name);
                    tokio::task::yield_now().await;
                }
            })
        };
        runtime.block_on(async {
            tokio::spawn(keep());
            let modest = tokio::spawn(task("modest", &modest, 20));
            let greedy: Vec<_> = (0..64).map(|_| tokio::spawn(task("greedy", &greedy, 100))).collect();
            modest.await.unwrap();
            let order = order.lock().unwrap().clone();
            greedy.iter().for_each(tokio::task::JoinHandle::abort);
            let longest = order.split(|name| *name == "modest").map(<[&str]>::len).max().unwrap();
            // A quantum is ten of them, and a pass may end between the two.
            assert!((1..=22).contains(&longest), "{longest} tasks of the other pod ran between two of this one's");
        });
    }

    #[test]
    fn no_task_of_a_pod_starves() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let costs = Costs::default();
        let pods: Vec<_> = (0..2).map(|pod| costs.enter("a", &pod.to_string(), NetnsCookie(pod))).collect();
        let ran: Arc<Mutex<Vec<u32>>> = Arc::new(Mutex::new(vec![0; 16]));
        runtime.block_on(async {
            tokio::spawn(keep());
            let tasks: Vec<_> = (0..16)
                .map(|number| {
                    let ran = ran.clone();
                    tokio::spawn(shared(pods[number % 2].clone(), async move {
                        for _ in 0..50 {
                            let begun = Instant::now();
                            while begun.elapsed() < QUANTUM / 2 {}
                            let same: Vec<u32> = {
                                let mut ran = ran.lock().unwrap();
                                ran[number] += 1;
                                ran.iter().skip(number % 2).step_by(2).copied().collect()
                            };
                            let (least, most) = (same.iter().min().unwrap(), same.iter().max().unwrap());
                            assert!(*most < 10 || least * 2 > *most, "{same:?}");
                            tokio::task::yield_now().await;
                        }
                    }))
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}
