//! Tests on a real Kubernetes. One file is one subject; every file is listed here.

mod admission;
mod chart;
mod cni;
mod control_plane;
mod distributed;
mod identity;
mod installed;
mod interruptions;
mod kinds;
mod manifests;
mod mesh;
mod nodes;
mod pages;
mod proxies;
mod readiness;
mod replicas;
mod roots;
mod source;
mod transitions;
mod trouble;
mod uninstall;
mod waypoints;
