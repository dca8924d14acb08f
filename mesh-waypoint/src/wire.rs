//! Messages of external authorizers' own protocol, by the names that they have on the wire: `envoy::service::auth::v3`.

#![allow(clippy::doc_markdown, clippy::large_enum_variant, missing_docs, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/authorizer.rs"));
