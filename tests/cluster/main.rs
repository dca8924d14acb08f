//! Tests on a real Kubernetes. One file is one subject; every file is listed here.

mod admission;
mod control_plane;
mod identity;
mod installed;
mod interruptions;
mod kinds;
mod manifests;
mod mesh;
mod nodes;
mod source;
mod transitions;
mod uninstall;
mod waypoints;
