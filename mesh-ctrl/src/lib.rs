//! Weft's controller: reads Kubernetes, Istio and Gateway API resources, serves agents, and is the certificate authority.

pub mod index;
pub mod source;
pub mod object;
