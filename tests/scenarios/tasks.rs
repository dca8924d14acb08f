//! Istio's task pages, traffic management and security: what their readers apply, in resources of our own with the same shape
//! (`tests/fixtures/tasks`), and what they are told to see then. One mesh serves the pages of a group, one after another.
//!
//! Left out are pages of ingress and egress gateways, which waypoints are not.

mod stage;
mod page;
mod bookinfo;
mod samples;
mod security;
mod localities;
