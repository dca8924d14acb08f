//! One agent's subscriptions, and what it is to be told next: pure; the stream around it only waits and sends.

use mesh_core::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_net::control::Kind;
use mesh_net::grpc::{PARTIAL, UNKNOWN};

use super::response::Response;
use super::subscription::{Heard, SessionError, Subscription};
use crate::store::World;

#[derive(Debug, Default)]
pub(crate) struct Session {
    authorization: Subscription,
    layer7: Subscription,
    address: Subscription,
    nonces: u64,
    /// Where in [`Kind::ALL`] what is being told goes on; none: all of it has been.
    amid: Option<usize>,
}

impl Session {
    pub(crate) fn subscription(&self, kind: Kind) -> &Subscription {
        match kind {
            Kind::Address => &self.address,
            Kind::Authorization => &self.authorization,
            Kind::Layer7 => &self.layer7,
        }
    }

    fn subscription_mut(&mut self, kind: Kind) -> &mut Subscription {
        match kind {
            Kind::Address => &mut self.address,
            Kind::Authorization => &mut self.authorization,
            Kind::Layer7 => &mut self.layer7,
        }
    }

    /// Takes a request. The world must be synced: of one that has not been read, a resumption would seem to hold only
    /// what was removed.
    pub(crate) fn hear(&mut self, world: &World, request: DeltaDiscoveryRequest) -> Result<Heard, SessionError> {
        let kind = Kind::of(&request.type_url)
            .ok_or_else(|| SessionError::Type(request.type_url.chars().take(200).collect()))?;
        let subscription = self.subscription_mut(kind);
        let heard = subscription.answered(kind, &request);
        let changes = !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        if !subscription.started() {
            subscription.start(world.of(kind), request)?;
            return Ok(heard.unwrap_or(Heard::Subscribed { kind }));
        }
        if changes {
            subscription.change(
                world.of(kind),
                request.resource_names_subscribe,
                request.resource_names_unsubscribe,
            )?;
        }
        Ok(heard.unwrap_or(Heard::Subscribed { kind }))
    }

    /// Whether the agent has acknowledged, or refused, everything that it was told.
    pub(crate) fn is_heard(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.subscription(*kind).is_heard())
    }

    /// Up to where, in the order of [`Kind::ALL`], the agent has acknowledged everything; what it did not ask for it has.
    pub(crate) fn places(&self) -> [u64; Kind::ALL.len()] {
        Kind::ALL.map(|kind| self.subscription(kind).place())
    }

    /// Whether it subscribes, and has acknowledged all that it was told on that.
    pub(crate) fn is_told(&self) -> bool {
        let started = Kind::ALL.iter().any(|kind| self.subscription(*kind).started());
        started && self.is_heard() && !self.is_amid() && self.refusal().is_none()
    }

    /// What the agent said against what it was told last, if it did.
    pub(crate) fn refusal(&self) -> Option<&str> {
        Kind::ALL.iter().find_map(|kind| self.subscription(*kind).last_nack.as_deref())
    }

    /// Whether there is more of an answer that was begun: to hold that back would gather nothing.
    pub(crate) fn is_amid(&self) -> bool {
        self.is_torn() || Kind::ALL.iter().any(|kind| self.subscription(*kind).is_amid())
    }

    /// Whether the agent has a part of what changed at once, of which it puts nothing in force before it has the rest. Until then
    /// [`next`](Self::next) is asked with one and the same world.
    pub(crate) fn is_torn(&self) -> bool {
        self.amid.is_some()
    }

    /// Whether [`next`](Self::next) may have something to say.
    pub(crate) fn has_work(&self, world: &World) -> bool {
        world.synced && Kind::ALL.iter().any(|kind| self.subscription(*kind).has_work(world.of(*kind)))
    }

    /// The next response: policies, then models, then addresses. A change may concern several of these, and what of it is told
    /// first means something else without the rest, such as a route to a service that is not known yet. So each kind has its turn
    /// once, and all responses but the last say that there is more.
    pub(crate) fn next(&mut self, world: &World) -> Result<Option<Response>, SessionError> {
        if !world.synced {
            return Ok(None);
        }
        for place in self.amid.unwrap_or_default()..Kind::ALL.len() {
            let kind = Kind::ALL[place];
            let collection = world.of(kind);
            let nonce = self.nonces + 1;
            let subscription = self.subscription_mut(kind);
            if !subscription.has_work(collection) {
                continue;
            }
            let Some(batch) = subscription.next(collection)? else { continue };
            subscription.sent(nonce);
            let version = match collection.digest() {
                _ if batch.partial => PARTIAL.to_owned(),
                _ if batch.unknown => UNKNOWN.to_owned(),
                Some(digest) if subscription.wildcard => digest.to_string(),
                _ => collection.head().to_string(),
            };
            self.nonces = nonce;
            self.amid = if batch.partial { Some(place) } else { self.work_after(place, world) };
            if let Some(next) = self.amid {
                // It is announced, so it comes, be it nothing that the agent asked for.
                self.subscription_mut(Kind::ALL[next]).due = true;
            }
            return Ok(Some(Response {
                head: DeltaDiscoveryResponse {
                    system_version_info: version,
                    type_url: kind.type_url().to_owned(),
                    nonce: nonce.to_string(),
                    removed_resources: batch.removed,
                    resources: Vec::new(),
                    more: self.amid.is_some(),
                },
                resources: batch.resources,
                part: batch.part,
            }));
        }
        Ok(None)
    }

    /// Where in [`Kind::ALL`] the next kind stands that may have something to say.
    fn work_after(&self, place: usize, world: &World) -> Option<usize> {
        let may = |place: &usize| self.subscription(Kind::ALL[*place]).has_work(world.of(Kind::ALL[*place]));
        (place + 1..Kind::ALL.len()).find(may)
    }
}
