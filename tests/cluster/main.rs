//! Tests on a real Kubernetes. One file is one subject; every file is listed here.

mod admission;
mod control_plane;
mod identity;
mod manifests;
mod mesh;
mod nodes;
mod replicas;
mod roots;
mod source;
mod trouble;
mod waypoints;
