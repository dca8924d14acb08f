//! Weft's node agent: takes enrolled pods' connections from eBPF, carries them over mutual TLS and enforces policy.
