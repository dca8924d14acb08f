//! Tests on a real Kubernetes. One file is one subject; every file is listed here.

mod admission;
mod cni;
mod control_plane;
mod identity;
mod manifests;
mod mesh;
mod nodes;
mod quickstart;
mod source;
mod waypoints;
