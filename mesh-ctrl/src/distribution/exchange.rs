//! Replicas tell each other: each keeps a key of ConfigMap `weft-agents` up to date, and the leader reads it.
//!
//! A replica writes when it has something new to say, every two seconds at most, and every five in any case. One whose key stays as it
//! is for longer than that is gone, by the reader's own clock; the leader takes its key away in time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{Marks, Summary};
use crate::ads::Agents;

const CONFIG_MAP: &str = "weft-agents";
/// How often it is looked how far agents are.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writes, and between two reads.
const PACE: Duration = Duration::from_secs(2);
/// Longest time without a write.
const BEAT: Duration = Duration::from_secs(5);
/// How long a leader listens before it counts: by then everybody who is there has written.
const LISTENS: Duration = Duration::from_secs(7);
/// Who says nothing for so long is gone.
const SILENT: Duration = Duration::from_secs(15);
/// And its key with it.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What all replicas say, the own summary first.
pub(crate) type Summaries = Arc<Vec<Arc<Summary>>>;

/// One replica's part.
pub(crate) struct Exchange {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// Another one in each process.
    pub(crate) identity: String,
    pub(crate) marks: Arc<Mutex<Marks>>,
    pub(crate) agents: Arc<Agents>,
}

/// What another replica said last, and since when.
struct Heard {
    text: String,
    since: Instant,
}

impl Exchange {
    /// Runs on every replica until it is told to stop; `told` is kept up to date where `leads` is true.
    pub(crate) async fn run(
        self,
        leads: watch::Receiver<bool>,
        told: watch::Sender<Summaries>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut others: HashMap<String, Heard> = HashMap::new();
        let mut leads_since: Option<Instant> = None;
        let (mut written, mut beat, mut tried, mut read) =
            (Summary::default(), 0_u64, None::<Instant>, None::<Instant>);
        loop {
            let progress = self.agents.progress();
            let own = self.marks.lock().unwrap_or_else(|e| e.into_inner()).summary(&progress);
            let pause = tried.map_or(BEAT, |at: Instant| at.elapsed());
            if pause >= BEAT || own != written && pause >= PACE {
                beat += 1;
                tried = Some(Instant::now());
                let said = json!({"beat": beat, "says": own}).to_string();
                match write(&maps, &self.identity, Some(said)).await {
                    Ok(()) => written = own.clone(),
                    Err(error) => {
                        warn!(%error, config_map = CONFIG_MAP, "how far agents are cannot be told to other controllers")
                    }
                }
            }
            let is_leader = *leads.borrow();
            leads_since = is_leader.then(|| leads_since.unwrap_or_else(Instant::now));
            if is_leader && read.is_none_or(|at: Instant| at.elapsed() >= PACE) {
                read = Some(Instant::now());
                match maps.get_opt(CONFIG_MAP).await {
                    Ok(map) => {
                        let said = map.and_then(|map| map.data).unwrap_or_default();
                        for gone in hear(&mut others, said, &self.identity, Instant::now()) {
                            if let Err(error) = write(&maps, &gone, None).await {
                                debug!(%error, replica = gone, "the key of a replica that is gone stays");
                            }
                        }
                    }
                    Err(error) => {
                        warn!(%error, config_map = CONFIG_MAP, "how far agents of other controllers are cannot be read")
                    }
                }
            }
            if leads_since.is_some_and(|since| since.elapsed() >= LISTENS) {
                let all = std::iter::once(own).chain(live(&others, Instant::now())).map(Arc::new).collect();
                let all: Summaries = Arc::new(all);
                told.send_if_modified(|told| {
                    let changed = *told != all;
                    *told = all;
                    changed
                });
            } else if !is_leader {
                others.clear();
            }
            let stops = tokio::select! {
                () = sleep(LOOK) => false,
                _ = stopping.wait_for(|stop| *stop) => true,
            };
            if stops {
                // Its agents go to others, and are counted there.
                if let Err(error) = write(&maps, &self.identity, None).await {
                    debug!(%error, config_map = CONFIG_MAP, "the own key stays");
                }
                return;
            }
        }
    }
}

/// Notes what is new, and yields who has been silent for long.
fn hear(others: &mut HashMap<String, Heard>, said: BTreeMap<String, String>, own: &str, now: Instant) -> Vec<String> {
    others.retain(|replica, _| said.contains_key(replica));
    for (replica, text) in said.into_iter().filter(|(replica, _)| replica != own) {
        match others.get_mut(&replica) {
            Some(heard) if heard.text == text => {}
            _ => drop(others.insert(replica, Heard { text, since: now })),
        }
    }
    let is_gone = |heard: &Heard| now.saturating_duration_since(heard.since) >= FORGOTTEN;
    others.iter().filter(|(_, heard)| is_gone(heard)).map(|(replica, _)| replica.clone()).collect()
}

/// Summaries of who is not silent. What cannot be read is of a later release: it says nothing here.
fn live(others: &HashMap<String, Heard>, now: Instant) -> impl Iterator<Item = Summary> {
    let live = others.iter().filter(move |(_, heard)| now.saturating_duration_since(heard.since) < SILENT);
    let live: BTreeMap<&String, &Heard> = live.collect();
    live.into_values().filter_map(|heard| {
        let mut said: Value = serde_json::from_str(&heard.text).ok()?;
        serde_json::from_value(said["says"].take()).ok()
    })
}

/// Sets one key, or takes it away; the others' are let be.
async fn write(maps: &Api<ConfigMap>, key: &str, text: Option<String>) -> Result<(), kube::Error> {
    let data = Map::from_iter([(key.to_owned(), json!(text))]);
    match maps.patch(CONFIG_MAP, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await {
        Err(kube::Error::Api(status)) if status.code == 404 && text.is_some() => {
            let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "weft-controller".to_owned())]);
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(CONFIG_MAP.to_owned()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                },
                data: text.map(|text| BTreeMap::from([(key.to_owned(), text)])),
                ..ConfigMap::default()
            };
            // Whoever else makes it at the same time has a key of its own in it too.
            let params = PatchParams::apply(&format!("{CONFIG_MAP}-{key}")).force();
            maps.patch(CONFIG_MAP, &params, &Patch::Apply(&map)).await.map(drop)
        }
        written => written.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_is_not_counted_and_is_forgotten_in_time() {
        let (mut others, begin) = (HashMap::new(), Instant::now());
        let text =
            |beat: u64| json!({"beat": beat, "says": Summary { connected: 3, ..Summary::default() }}).to_string();
        let said = |beat| BTreeMap::from([("one".to_owned(), text(beat)), ("own".to_owned(), text(1))]);
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(hear(&mut others, said(1), "own", begin).is_empty());
        assert_eq!(live(&others, after(14)).count(), 1);
        assert!(hear(&mut others, said(2), "own", after(14)).is_empty());
        assert_eq!(live(&others, after(28)).count(), 1);
        assert!(hear(&mut others, said(2), "own", after(29)).is_empty());
        assert_eq!(live(&others, after(29)).count(), 0);
        assert_eq!(hear(&mut others, said(2), "own", after(74)), ["one"]);
        assert!(hear(&mut others, BTreeMap::new(), "own", after(75)).is_empty());
        assert!(others.is_empty());
        // Of a release that says it another way.
        hear(&mut others, BTreeMap::from([("new".to_owned(), "{}".to_owned())]), "own", after(75));
        assert_eq!(live(&others, after(75)).count(), 0);
    }
}
