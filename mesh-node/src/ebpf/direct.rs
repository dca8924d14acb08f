//! What the kernel is told of connections between two pods of this node that no agent carries, and what it tells of them.
//!
//! Handles of its own to the pinned maps: a verdict waits for no enrolment.

use std::{
    fmt, io,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use mesh_ebpf::{Choices, Direct, Event, FlowKey, SameNode, ServiceKey, Settings, Verdict, VerdictKey, maps, pins};
use tokio::io::unix::AsyncFd;

use super::{
    KernelError,
    sys::{self, monotonic},
    table::{failed, gone},
};

/// The maps, typed.
pub(super) struct Between {
    verdicts: Mutex<HashMap<MapData, VerdictKey, Verdict>>,
    services: Mutex<HashMap<MapData, ServiceKey, Choices>>,
    /// Once more, for the data path: it waits for nobody who writes.
    choices: HashMap<MapData, ServiceKey, Choices>,
    flows: Mutex<HashMap<MapData, FlowKey, Direct>>,
    same_node: Mutex<Array<MapData, SameNode>>,
    settings: Array<MapData, Settings>,
    /// The generation that our load began.
    generation: u32,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Between {
    pub(super) fn open(dir: &Path, generation: u32) -> Result<Self, KernelError> {
        let (verdicts, flows) = (pinned(dir, maps::VERDICTS)?, pinned(dir, maps::DIRECT)?);
        let (same_node, settings) = (pinned(dir, maps::SAME_NODE)?, pinned(dir, maps::SETTINGS)?);
        Ok(Self {
            verdicts: Mutex::new(Map::HashMap(verdicts).try_into().map_err(failed("open", maps::VERDICTS))?),
            services: Mutex::new(services(dir)?),
            choices: services(dir)?,
            flows: Mutex::new(Map::HashMap(flows).try_into().map_err(failed("open", maps::DIRECT))?),
            same_node: Mutex::new(Map::Array(same_node).try_into().map_err(failed("open", maps::SAME_NODE))?),
            settings: Map::Array(settings).try_into().map_err(failed("open", maps::SETTINGS))?,
            generation,
        })
    }

    pub(super) fn verdicts(&self) -> Vec<(VerdictKey, Verdict)> {
        locked(&self.verdicts).iter().filter_map(Result::ok).collect()
    }

    pub(super) fn set_verdict(&self, key: VerdictKey, verdict: Option<Verdict>) -> Result<(), KernelError> {
        self.own()?;
        let mut verdicts = locked(&self.verdicts);
        match verdict {
            Some(verdict) => verdicts.insert(key, verdict, 0).map_err(failed("insert", maps::VERDICTS)),
            None => gone(maps::VERDICTS, verdicts.remove(&key)),
        }
    }

    pub(super) fn services(&self) -> Vec<(ServiceKey, Choices)> {
        locked(&self.services).iter().filter_map(Result::ok).collect()
    }

    pub(super) fn set_service(&self, key: ServiceKey, choices: Option<Choices>) -> Result<(), KernelError> {
        self.own()?;
        let mut services = locked(&self.services);
        match choices {
            Some(choices) => services.insert(key, choices, 0).map_err(failed("insert", maps::SERVICES)),
            None => gone(maps::SERVICES, services.remove(&key)),
        }
    }

    pub(super) fn choices(&self, key: &ServiceKey) -> Option<Choices> {
        self.choices.get(key, 0).ok()
    }

    pub(super) fn trust(&self, age: Duration) -> Result<(), KernelError> {
        self.trust_until(if age.is_zero() { 0 } else { monotonic() + age.as_nanos() as u64 })
    }

    pub(super) fn trusted_until(&self) -> u64 {
        locked(&self.same_node).get(&SameNode::AGENT, 0).map_or(0, |same_node| same_node.until)
    }

    pub(super) fn trust_until(&self, until: u64) -> Result<(), KernelError> {
        self.own()?;
        let same_node = SameNode { until, ..SameNode::default() };
        locked(&self.same_node).set(SameNode::AGENT, same_node, 0).map_err(failed("write", maps::SAME_NODE))
    }

    pub(super) fn counts(&self) -> SameNode {
        locked(&self.same_node).get(&SameNode::HOOKS, 0).unwrap_or_default()
    }

    pub(super) fn all(&self) -> Vec<(FlowKey, Direct)> {
        locked(&self.flows).iter().filter_map(Result::ok).collect()
    }

    pub(super) fn get(&self, flow: &FlowKey) -> Option<Direct> {
        locked(&self.flows).get(flow, 0).ok()
    }

    pub(super) fn forget(&self, flow: &FlowKey) -> Result<(), KernelError> {
        self.own()?;
        gone(maps::DIRECT, locked(&self.flows).remove(flow))
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.own().is_err()
    }

    /// Makes sure that the pins are ours. Without the lock of `pods.rs`, for which an enrolment would make a verdict wait:
    /// what an agent writes that another has just superseded is found and put right by that one, which compares what is
    /// there with what should be before it puts off the end of any verdict.
    fn own(&self) -> Result<(), KernelError> {
        let now = self.settings.get(&0, 0).map_err(failed("read", maps::SETTINGS))?.generation;
        if now == self.generation { Ok(()) } else { Err(KernelError::Superseded { ours: self.generation, now }) }
    }
}

/// Reads what the hooks tell. They wait for nobody: what is not read is kept until the ring is full, also while no agent
/// runs.
pub struct Events(AsyncFd<RingBuf<MapData>>);

impl Events {
    pub(super) fn open(dir: &Path) -> Result<Self, KernelError> {
        let data = pinned(dir, maps::EVENTS)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(failed("open", maps::EVENTS))?;
        let path = dir.join(pins::MAPS).join(maps::EVENTS);
        // SAFETY: the ring owns the map whose descriptor it returns, always the same one, and lives inside.
        #[allow(unsafe_code)]
        let ring = unsafe { AsyncFd::register(ring) };
        let ring = ring.map_err(|error| KernelError::Pin { what: "watch", path, source: io::Error::from(error) })?;
        Ok(Self(ring))
    }

    /// Resolves when there may be something to read.
    ///
    /// # Errors  Of the runtime.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The oldest that has not been read.
    pub fn take(&mut self) -> Option<Event> {
        let item = self.0.get_mut().next()?;
        sys::event(&item)
    }
}

fn services(dir: &Path) -> Result<HashMap<MapData, ServiceKey, Choices>, KernelError> {
    Map::HashMap(pinned(dir, maps::SERVICES)?).try_into().map_err(failed("open", maps::SERVICES))
}

fn pinned(dir: &Path, map: &'static str) -> Result<MapData, KernelError> {
    MapData::from_pin(dir.join(pins::MAPS).join(map)).map_err(failed("open", map))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a panic left half done is in the kernel.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
