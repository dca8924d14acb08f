//! Pods and WorkloadEntries, and what says something of them: their namespaces, nodes and owners.

use std::sync::Arc;

use super::{Cluster, EVERYWHERE, Member, Name, Topic, Touched, set};
use crate::index::Unit;
use crate::index::labels::{forget, matches};
use crate::object::{Kind, Labels, Metadata, Namespace, Node, Pod, WorkloadEntry};

impl Cluster {
    pub(super) fn set_namespace(&mut self, name: Arc<str>, new: Option<Namespace>, touched: &mut Touched) {
        let says = |o: &Option<Namespace>| {
            o.as_ref().map(|n| (n.metadata.labels.clone(), n.metadata.annotations.clone())).unwrap_or_default()
        };
        let after = says(&new);
        let old = set(&mut self.namespaces, name.clone(), new);
        if says(&old) != after {
            self.touch_namespace(&name, touched);
            self.topics.insert(Topic::Namespace(name));
        }
    }

    pub(super) fn set_node(&mut self, name: Arc<str>, new: Option<Node>, touched: &mut Touched) {
        let labels = |o: &Option<Node>| o.as_ref().map(|n| n.metadata.labels.clone()).unwrap_or_default();
        let after = labels(&new);
        let old = set(&mut self.nodes, name.clone(), new);
        // Nodes are written every few seconds by their heartbeats; labels hardly ever change.
        if labels(&old) != after {
            touched.extend(self.on_node.get(&name).into_iter().flatten().cloned().map(Unit::from));
        }
    }

    pub(super) fn set_pod(&mut self, name: Name, new: Option<Pod>, touched: &mut Touched) {
        let owner = |pod: &Pod| {
            let owner = pod.metadata.owner.as_ref()?;
            let kind = match &*owner.kind {
                "ReplicaSet" => Kind::ReplicaSet,
                "Job" => Kind::Job,
                _ => return None,
            };
            Some((kind, Name { namespace: pod.metadata.namespace.clone(), name: owner.name.clone() }))
        };
        if let Some(new) = &new {
            self.add_member(Member::Pod(name.clone()), &new.metadata);
        }
        let (node, new_owner) = (new.as_ref().map(|p| p.node.clone()), new.as_ref().and_then(owner));
        let kept = new.as_ref().map(|p| p.metadata.labels.clone());
        let says = |pod: Option<&Pod>| pod.map(|pod| (pod.metadata.labels.clone(), pod.service_account.clone()));
        let after = says(new.as_ref());
        let old = set(&mut self.pods, name.clone(), new);
        let before = says(old.as_ref());
        if before != after {
            let labels = before.iter().chain(&after).map(|(labels, _)| labels);
            labels.for_each(|labels| self.tell_labels(&name.namespace, labels));
        }
        if let Some(old) = old {
            self.drop_member(&Member::Pod(name.clone()), &old.metadata, kept.as_ref());
            forget(&mut self.on_node, &old.node, &Member::Pod(name.clone()));
            if let Some(owner) = owner(&old) {
                forget(&mut self.owned_by, &owner, &name);
            }
        }
        if let Some(node) = node {
            self.on_node.entry(node).or_default().insert(Member::Pod(name.clone()));
        }
        if let Some(owner) = new_owner {
            self.owned_by.entry(owner).or_default().insert(name.clone());
        }
        touched.insert(Unit::Pod(name));
    }

    pub(super) fn set_entry(&mut self, name: Name, new: Option<WorkloadEntry>, touched: &mut Touched) {
        let member = Member::Entry(name.clone());
        if let Some(old) = self.entries.remove(&name) {
            self.drop_member(&member, &entry_metadata(&old), None);
            self.tell_labels(&name.namespace, &old.endpoint.labels);
            if let Ok(Some(node)) = old.node() {
                forget(&mut self.on_node, &node, &member);
            }
        }
        if let Some(mut new) = new {
            // Labels stand in both places; those of the object itself win.
            new.endpoint.labels.extend(new.metadata.labels.clone());
            if let Ok(Some(node)) = new.node() {
                self.on_node.entry(node).or_default().insert(member.clone());
            }
            self.add_member(member, &entry_metadata(&new));
            self.tell_labels(&name.namespace, &new.endpoint.labels);
            self.entries.insert(name.clone(), new);
        }
        touched.insert(Unit::Entry(name));
    }

    pub(super) fn set_owner(&mut self, key: (Kind, Name), new: Option<Metadata>, touched: &mut Touched) {
        let owner = |m: &Option<Metadata>| m.as_ref().map(|m| m.owner.clone());
        let after = owner(&new);
        let old = set(&mut self.owners, key.clone(), new);
        if owner(&old) != after {
            touched.extend(self.owned_by.get(&key).into_iter().flatten().cloned().map(Unit::Pod));
        }
    }

    fn add_member(&mut self, member: Member, metadata: &Metadata) {
        self.members.insert(&metadata.namespace, &metadata.labels, &member);
        self.members.insert(&EVERYWHERE.into(), &metadata.labels, &member);
        self.members_in.entry(metadata.namespace.clone()).or_default().insert(member);
    }

    /// `kept`: the labels of what takes the old one's place.
    fn drop_member(&mut self, member: &Member, metadata: &Metadata, kept: Option<&Labels>) {
        let mut gone = metadata.labels.clone();
        gone.retain(|key, value| kept.is_none_or(|kept| kept.get(key) != Some(value)));
        self.members.remove(&metadata.namespace, &gone, member);
        self.members.remove(&EVERYWHERE.into(), &gone, member);
        if kept.is_none() {
            forget(&mut self.members_in, &metadata.namespace, member);
        }
    }

    fn tell_labels(&mut self, namespace: &Arc<str>, labels: &Labels) {
        for (key, value) in labels {
            for scope in [namespace.clone(), EVERYWHERE.into()] {
                self.topics.insert(Topic::Label(scope, key.clone(), value.clone()));
            }
        }
    }

    pub(super) fn touch_namespace(&self, namespace: &Arc<str>, touched: &mut Touched) {
        touched.extend(self.members_in.get(namespace).into_iter().flatten().cloned().map(Unit::from));
    }

    pub(super) fn touch_selected(&self, scope: &Arc<str>, selector: &Labels, touched: &mut Touched) {
        for member in self.members.candidates(scope, selector) {
            if self.labels(member).is_some_and(|labels| matches(selector, labels)) {
                touched.insert(member.clone().into());
            }
        }
    }

    /// Pods and WorkloadEntries that have all of some labels, in a namespace or [`EVERYWHERE`]; no labels pick nothing.
    pub(in crate::index) fn selected(&self, scope: &Arc<str>, selector: &Labels) -> impl Iterator<Item = &Member> {
        let candidates = self.members.candidates(scope, selector);
        candidates.filter(|member| self.labels(member).is_some_and(|labels| matches(selector, labels)))
    }

    pub(in crate::index) fn labels(&self, member: &Member) -> Option<&Labels> {
        match member {
            Member::Pod(name) => self.pods.get(name).map(|pod| &pod.metadata.labels),
            Member::Entry(name) => self.entries.get(name).map(|entry| &entry.endpoint.labels),
        }
    }
}

fn entry_metadata(entry: &WorkloadEntry) -> Metadata {
    Metadata { labels: entry.endpoint.labels.clone(), ..entry.metadata.clone() }
}
