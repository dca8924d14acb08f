//! The pinned maps, typed.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, SockHash},
};
use mesh_ebpf::{ABI_VERSION, Address, FlowKey, FlowKind, ListenerKey, Plumbed, Pod, Settings, maps, pins};

use super::{KernelError, LoadError};

/// Every map that the agent reads or writes. The numbers are those of the ABI.
pub(super) struct Tables {
    pub(super) pods: HashMap<MapData, u64, Pod>,
    pub(super) local: HashMap<MapData, Address, u64>,
    pub(super) agents: HashMap<MapData, u64, u8>,
    pub(super) flows: Flows,
    pub(super) listeners: SockHash<MapData, ListenerKey>,
    pub(super) plumbed: HashMap<MapData, u64, Plumbed>,
    pub(super) settings: Array<MapData, Settings>,
}

impl Tables {
    /// Takes the maps out of a loaded object.
    pub(super) fn of(programs: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            pods: typed(programs, maps::PODS)?,
            local: typed(programs, maps::LOCAL)?,
            agents: typed(programs, maps::AGENTS)?,
            flows: typed(programs, maps::FLOWS)?,
            listeners: typed(programs, maps::LISTENERS)?,
            plumbed: typed(programs, maps::PLUMBED)?,
            settings: typed(programs, maps::SETTINGS)?,
        })
    }

    pub(super) fn settings(&self) -> Result<Settings, KernelError> {
        self.settings.get(&0, 0).map_err(failed("read", maps::SETTINGS))
    }

    /// Removes the flows of a pod. Those of open connections would go by themselves; nobody waits for them.
    pub(super) fn forget_flows(&mut self, cookie: u64) {
        let keys: Vec<_> = self.flows.keys().filter_map(Result::ok).filter(|key| key.cookie == cookie).collect();
        for key in keys {
            let _ = self.flows.remove(&key);
        }
    }
}

/// The flows, apart from the other tables: reading them needs nobody's leave.
pub(super) type Flows = HashMap<MapData, FlowKey, FlowKind>;

/// Opens the pinned map of flows once more.
pub(super) fn flows(dir: &Path) -> Result<Flows, KernelError> {
    let data = MapData::from_pin(dir.join(pins::MAPS).join(maps::FLOWS)).map_err(failed("open", maps::FLOWS))?;
    Map::LruHashMap(data).try_into().map_err(failed("open", maps::FLOWS))
}

/// Refuses pins of another ABI, before a program is loaded with maps whose types it would mistake.
pub(super) fn check_pins(dir: &Path) -> Result<(), LoadError> {
    let path = dir.join(pins::MAPS).join(maps::SETTINGS);
    if !path.exists() {
        return Ok(());
    }
    let found = MapData::from_pin(&path).ok().and_then(|data| {
        let settings: Array<_, Settings> = Map::Array(data).try_into().ok()?;
        Some(settings.get(&0, 0).ok()?.abi_version)
    });
    match found {
        // Zero: the agent that made the pins did not live to write its version, so no program of its runs either.
        Some(0 | ABI_VERSION) => Ok(()),
        other => Err(LoadError::PinnedAbi { dir: dir.to_owned(), found: other.unwrap_or(u32::MAX) }),
    }
}

/// Turns a map's error into ours.
pub(super) fn failed(what: &'static str, map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { what, map, source }
}

/// As [`failed`], where an entry that is not there is as good as one removed.
pub(super) fn gone(map: &'static str, result: Result<(), MapError>) -> Result<(), KernelError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(failed("remove", map)),
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = programs.take_map(name).ok_or(LoadError::Missing(name))?;
    Ok(T::try_from(map).map_err(failed("open", name))?)
}
