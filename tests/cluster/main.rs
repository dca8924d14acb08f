//! Tests on a real Kubernetes. One file is one subject; every file is listed here.

mod admission;
mod chart;
mod control_plane;
mod identity;
mod manifests;
mod mesh;
mod nodes;
mod source;
mod waypoints;
