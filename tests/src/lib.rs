//! The testbed: two nodes in network namespaces, real programs as pods, and ways to look at what they do.
//!
//! ```text
//!   pod ── veth ── node a ──┐                 ┌── node b ── veth ── pod
//!   pod ── veth ──┘         └── wire: bridge ─┘         └── veth ── pod
//!                                │       │
//!                           controller  outside (a client that is in no mesh)
//! ```
//!
//! Everything blocks: a scenario is read from top to bottom, and what has to happen beside it runs on a thread
//! ([`Place::begin`](place::Place::begin)). Every wait is for a condition and has a deadline. All that a run makes carries
//! its id and is removed when the [`Run`](run::Run) is dropped; `cargo xtask clean-up` removes what a killed one left.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod pair;
pub mod soak;
pub mod reviews;
pub mod tokens;
pub mod waypoint;
pub mod mesh;
pub mod objects;
pub mod needs;
pub mod footprint;
pub mod copies;
pub mod knock;
pub mod answer;
pub mod apps;
pub mod outcome;
pub mod held;
pub mod capture;
pub mod topology;
pub mod pod;
pub mod node;
pub mod place;
pub mod sockets;
pub mod program;
pub mod netns;
pub mod run;
pub mod cgroup;
pub mod dialogue;
pub mod bulk;
pub mod dashboard;
pub mod unary;
pub mod wait;
