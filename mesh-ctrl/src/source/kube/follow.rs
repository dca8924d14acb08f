//! One kind's watch, for as long as the controller lives: list, watch, and list again whenever that is in doubt.
//!
//! ```text
//!            definition absent                 silent, garbled, doubted
//!         ┌────────────────────┐            ┌───────────────────────────┐
//!  Absent ──definition present──> Resolving ──served version──> Watching ──> pause
//! ```

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ::kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use ::kube::runtime::watcher::{self, Error, Event as Watch, watcher};
use ::kube::{Api, Client, Resource};
use futures_util::{FutureExt, Stream, StreamExt};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::hearing::{Hearing, Trouble};
use super::kinds::Watched;
use super::ledger::{Ledger, Next, Step};
use super::presence::{self, Presence};
use crate::backoff::Backoff;
use crate::source::{Event, Finding};

/// What one kind has to tell.
#[derive(Debug)]
pub(super) struct Report {
    /// Row of the table of kinds.
    pub(super) row: usize,
    pub(super) events: Vec<Event>,
    /// The first list is complete, or there is nothing to list.
    pub(super) listed: bool,
    /// All that is wrong with objects of the kind at present.
    pub(super) findings: Vec<Finding>,
    /// Why the kind cannot be listed, none when it can.
    pub(super) trouble: Option<Arc<str>>,
}

/// Follows one kind.
pub(super) struct Follower {
    pub(super) row: usize,
    pub(super) watched: &'static Watched,
    pub(super) client: Client,
    pub(super) presence: Presence,
    pub(super) hearing: Hearing,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) pace: Pace,
}

/// Times and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Objects in a page of a list.
    pub page: u32,
    /// Wait before a list that is not believed is asked for again.
    pub doubt: Duration,
    /// Longest silence of a watch before its connection is given up. A watch ends by itself after 290 s, and bookmarks
    /// come about once a minute.
    pub silence: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { page: 500, doubt: Duration::from_secs(1), silence: Duration::from_secs(330) }
    }
}

/// The reports' receiver is gone: the controller stops.
struct Stopped;

/// Why a watch is left.
enum Left {
    Stopped,
    /// It is to be begun anew with a list.
    Again,
    /// The definition went away.
    Absent,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let mut ledger = Ledger::new(self.watched.kind);
        // Ends when nobody listens any more.
        let _: Result<(), Stopped> = self.follow(&mut ledger).await;
    }

    async fn follow(&mut self, ledger: &mut Ledger) -> Result<(), Stopped> {
        let mut backoff = Backoff::default();
        loop {
            if self.watched.custom && !self.is_present().await? {
                self.forget(ledger).await?;
                continue;
            }
            let resource = match self.resolve().await {
                Ok(Some(resource)) => resource,
                Ok(None) => {
                    debug!(kind = self.watched.plural, "not served yet");
                    sleep(backoff.next()).await;
                    continue;
                }
                Err(error) => {
                    self.hearing.trouble(self.watched, Trouble::List);
                    self.complain(ledger, &error).await?;
                    sleep(backoff.next()).await;
                    continue;
                }
            };
            match self.watch(ledger, &resource, &mut backoff).await {
                Left::Stopped => return Err(Stopped),
                Left::Absent => {}
                Left::Again => sleep(self.pace.doubt).await,
            }
        }
    }

    /// Whether the kind's definition is installed; waits until that is known.
    async fn is_present(&mut self) -> Result<bool, Stopped> {
        let definition = self.watched.definition();
        let known = self.presence.wait_for(Option::is_some).await.map_err(|_| Stopped)?;
        Ok(known.as_ref().is_some_and(|present| present.contains(&definition)))
    }

    /// Lets go of the kind's objects once the store has twice said that the definition is gone, and waits until it is there.
    async fn forget(&mut self, ledger: &mut Ledger) -> Result<(), Stopped> {
        let definition = self.watched.definition();
        loop {
            let mut events = Vec::new();
            ledger.take(Step::List, &mut events);
            let next = ledger.take(Step::ListEnd, &mut events);
            self.report(ledger, events, None).await?;
            if next == Next::GoOn {
                break;
            }
            self.hearing.trouble(self.watched, Trouble::Doubted);
            loop {
                sleep(self.pace.doubt).await;
                match presence::is_present(&self.client, &definition).await {
                    Ok(true) if self.is_present().await? => return Ok(()),
                    // The list of names is behind, or not: it will tell.
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => warn!(%error, definition, "whether the definition is gone cannot be asked"),
                }
            }
        }
        let present = |present: &Option<Arc<std::collections::BTreeSet<String>>>| {
            present.as_ref().is_some_and(|present| present.contains(&definition))
        };
        self.presence.wait_for(present).await.map_err(|_| Stopped)?;
        info!(definition, "definition installed");
        Ok(())
    }

    /// The version to watch. None where none is served, as in the moment after a definition was installed.
    async fn resolve(&self) -> Result<Option<ApiResource>, ::kube::Error> {
        if !self.watched.custom {
            return Ok(Some(self.watched.resource(self.watched.versions[0])));
        }
        for version in self.watched.versions {
            let resource = self.watched.resource(version);
            match self.client.list_api_group_resources(&resource.api_version).await {
                Ok(list) if list.resources.iter().any(|r| r.name == self.watched.plural) => return Ok(Some(resource)),
                Ok(_) => {}
                Err(::kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn watch(&mut self, ledger: &mut Ledger, resource: &ApiResource, backoff: &mut Backoff) -> Left {
        let api: Api<Item> = Api::all_with(self.client.clone(), resource);
        let config = watcher::Config::default().page_size(self.pace.page);
        let config = match self.watched.only {
            Some(name) => config.fields(&format!("metadata.name={name}")),
            None => config,
        };
        let mut stream = Box::pin(watcher(api, config));
        self.hearing.expect(self.watched);
        loop {
            let first = match self.next(&mut stream).await {
                Ok(first) => first,
                Err(left) => return left,
            };
            let (mut events, mut next, mut failure) = (Vec::new(), Next::GoOn, None);
            let mut step = Some(first);
            // What has arrived with it: one batch, as long as it is not too long.
            while let Some(event) = step.take() {
                match event {
                    Ok(event) => {
                        next = self.take(ledger, resource, event, &mut events);
                        *backoff = Backoff::default();
                    }
                    Err(error) => failure = Some(error),
                }
                if next == Next::GoOn && failure.is_none() && events.len() < BATCH {
                    step = stream.next().now_or_never().flatten();
                }
            }
            let reported = match &failure {
                Some(error) => {
                    self.note(error);
                    let trouble = matches!(error, Error::InitialListFailed(_)).then(|| words(error));
                    self.report(ledger, events, trouble).await
                }
                None => self.report(ledger, events, None).await,
            };
            if reported.is_err() {
                return Left::Stopped;
            }
            if next == Next::ListAgain {
                warn!(kind = self.watched.plural, doubted = ledger.doubted(), "list not believed; asking again");
                self.hearing.trouble(self.watched, Trouble::Doubted);
                return Left::Again;
            }
            if let Some(error) = failure {
                let gone = matches!(&error, Error::WatchError(status) if status.code == 410);
                if self.watched.custom && is_not_found(&error) {
                    sleep(backoff.next()).await;
                    // Another version may be served by now, or none.
                    return Left::Absent;
                }
                if !gone {
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// The next event, or why there will be none.
    async fn next(
        &mut self,
        stream: &mut (impl Stream<Item = watcher::Result<Watch<Item>>> + Unpin),
    ) -> Result<watcher::Result<Watch<Item>>, Left> {
        loop {
            let quiet = self.pace.silence.saturating_sub(self.hearing.silence(self.watched)).max(MOMENT);
            tokio::select! {
                next = timeout(quiet, stream.next()) => match next {
                    Ok(Some(event)) => return Ok(event),
                    Ok(None) => return Err(Left::Again),
                    Err(_) if self.hearing.silence(self.watched) < self.pace.silence => {}
                    Err(_) => {
                        warn!(kind = self.watched.plural, after = ?self.pace.silence, "watch is silent; beginning anew");
                        self.hearing.trouble(self.watched, Trouble::Silent);
                        return Err(Left::Again);
                    }
                },
                changed = self.presence.changed(), if self.watched.custom => {
                    if changed.is_err() {
                        return Err(Left::Stopped);
                    }
                    let definition = self.watched.definition();
                    let present = self.presence.borrow_and_update().as_ref().is_some_and(|p| p.contains(&definition));
                    if !present {
                        return Err(Left::Absent);
                    }
                }
                () = self.reports.closed() => return Err(Left::Stopped),
            }
        }
    }

    fn take(&self, ledger: &mut Ledger, resource: &ApiResource, event: Watch<Item>, events: &mut Vec<Event>) -> Next {
        let whole = |item: Item| item.whole(resource);
        let step = match event {
            Watch::Init => Step::List,
            Watch::InitApply(item) => Step::Listed(whole(item)),
            Watch::InitDone => Step::ListEnd,
            Watch::Apply(item) => Step::Changed(whole(item)),
            Watch::Delete(item) => Step::Deleted(whole(item)),
        };
        let ended = matches!(step, Step::ListEnd);
        let next = ledger.take(step, events);
        if ended {
            self.hearing.listed(self.watched, ledger.doubted());
        }
        next
    }

    fn note(&self, error: &Error) {
        let trouble = match error {
            Error::WatchError(status) if status.code == 410 => Trouble::Gone,
            Error::InitialListFailed(_) | Error::NoResourceVersion => Trouble::List,
            Error::WatchStartFailed(_) | Error::WatchError(_) | Error::WatchFailed(_) => Trouble::Watch,
        };
        self.hearing.trouble(self.watched, trouble);
        match trouble {
            Trouble::Gone => {
                info!(kind = self.watched.plural, "changes since the last one seen are gone; listing anew")
            }
            _ => warn!(kind = self.watched.plural, %error, "watch failed"),
        }
    }

    async fn complain(&self, ledger: &Ledger, error: &::kube::Error) -> Result<(), Stopped> {
        warn!(kind = self.watched.plural, %error, "the API server cannot be asked what it serves");
        self.report(ledger, Vec::new(), Some(error.to_string().into())).await
    }

    async fn report(&self, ledger: &Ledger, events: Vec<Event>, trouble: Option<Arc<str>>) -> Result<(), Stopped> {
        let report = Report {
            row: self.row,
            events,
            listed: ledger.is_listed(),
            findings: ledger.findings().cloned().collect(),
            trouble,
        };
        self.reports.send(report).await.map_err(|_| Stopped)
    }
}

fn words(error: &Error) -> Arc<str> {
    match error {
        Error::InitialListFailed(error) => error.to_string().into(),
        error => error.to_string().into(),
    }
}

fn is_not_found(error: &Error) -> bool {
    matches!(
        error,
        Error::InitialListFailed(::kube::Error::Api(status)) | Error::WatchStartFailed(::kube::Error::Api(status))
            if status.code == 404
    )
}

/// An object as it came: what the watch itself needs of it, and all of it.
#[derive(Clone, Debug)]
struct Item {
    metadata: ObjectMeta,
    value: Value,
}

impl Item {
    /// Items of a list do not repeat what they are.
    fn whole(self, resource: &ApiResource) -> Value {
        let mut value = self.value;
        if let Value::Object(map) = &mut value {
            map.insert("apiVersion".to_owned(), Value::String(resource.api_version.clone()));
            map.insert("kind".to_owned(), Value::String(resource.kind.clone()));
        }
        value
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |name: &str| value.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, value })
    }
}

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Events in one report.
const BATCH: usize = 1000;

/// Shortest wait for an event, so that a silence that is just over does not spin.
const MOMENT: Duration = Duration::from_millis(100);
