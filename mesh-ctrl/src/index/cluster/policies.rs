//! Policies of the mesh, and whom a changed one reaches.

use std::sync::Arc;

use super::{Age, Cluster, EVERYWHERE, Name, Touched};
use crate::index::Unit;
use crate::index::labels::forget;
use crate::object::{AuthorizationPolicy, Labels, PeerAuthentication};

impl Cluster {
    pub(super) fn set_authorization(&mut self, name: Name, new: Option<AuthorizationPolicy>, touched: &mut Touched) {
        let scope = self.policy_scope(&name.namespace);
        if let Some(old) = self.authorizations.remove(&name) {
            self.note_authorization(&name, false);
            // A changed rule is the policy's matter; a workload lists only its name.
            if new.as_ref().is_none_or(|new| new.selector != old.selector) {
                self.touch_selected(&scope, &old.selector, touched);
            }
            self.authorization_selectors.remove(&scope, &old.selector, &name);
            if let Some(new) = &new
                && new.selector != old.selector
            {
                self.touch_selected(&scope, &new.selector, touched);
            }
        } else if let Some(new) = &new {
            self.touch_selected(&scope, &new.selector, touched);
        }
        if let Some(new) = new {
            self.note_authorization(&name, true);
            self.authorization_selectors.insert(&scope, &new.selector, &name);
            self.authorizations.insert(name.clone(), new);
        }
        touched.insert(Unit::Authorization(name));
    }

    pub(super) fn set_peer(&mut self, name: Name, new: Option<PeerAuthentication>, touched: &mut Touched) {
        let namespace = &name.namespace;
        if let Some(old) = self.peers.remove(&name) {
            self.touch_peer(&name, &old.selector, touched);
            self.peer_selectors.remove(namespace, &old.selector, &name);
            forget(&mut self.peers_of_namespace, namespace, &(Age::of(&old.metadata), name.clone()));
            forget(&mut self.peers_in, namespace, &name);
        }
        if let Some(new) = new {
            self.touch_peer(&name, &new.selector, touched);
            self.peer_selectors.insert(namespace, &new.selector, &name);
            if new.selector.is_empty() {
                let oldest = self.peers_of_namespace.entry(namespace.clone()).or_default();
                oldest.insert((Age::of(&new.metadata), name.clone()));
            }
            self.peers_in.entry(namespace.clone()).or_default().insert(name.clone());
            self.peers.insert(name.clone(), new);
        }
        touched.insert(Unit::PeerAuthentication(name));
    }

    /// A PeerAuthentication reaches its selection, its namespace or the mesh, and there also what inherits from it.
    pub(super) fn touch_peer(&self, name: &Name, selector: &Labels, touched: &mut Touched) {
        if !selector.is_empty() {
            return self.touch_selected(&name.namespace, selector, touched);
        }
        let mut reach = |namespace: &Arc<str>| {
            let peers = self.peers_in.get(namespace).into_iter().flatten();
            touched.extend(peers.cloned().map(Unit::PeerAuthentication));
            self.touch_namespace(namespace, touched);
        };
        match name.namespace == self.config.root_namespace {
            true => self.peers_in.keys().chain(self.members_in.keys()).for_each(reach),
            false => reach(&name.namespace),
        }
    }

    /// Where a policy's selector picks: in its namespace, or for the root namespace everywhere.
    pub(in crate::index) fn policy_scope(&self, namespace: &Arc<str>) -> Arc<str> {
        if *namespace == self.config.root_namespace { EVERYWHERE.into() } else { namespace.clone() }
    }
}
