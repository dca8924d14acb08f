//! Weft's controller: reads Kubernetes, Istio and Gateway API resources, serves agents, and is the certificate authority.

pub mod uninstall;
pub mod app;
pub mod settings;
pub mod debug;
mod leader;
mod status;
mod distribution;
pub mod instances;
pub mod ads;
mod admission;
pub mod authority;
pub mod access;
pub mod store;
pub mod index;
pub mod source;
pub mod object;
pub mod yaml;
pub mod apiserver;
mod condition;
mod backoff;
mod durable;
