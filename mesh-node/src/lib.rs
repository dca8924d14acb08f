//! Weft's node agent: takes enrolled pods' connections from eBPF, carries them over mutual TLS and enforces policy.

pub mod ebpf;
pub mod plumbing;
pub mod socket;
pub mod netns;
