//! Messages of others' protocols, by the names that they have on the wire: external authorizers' `envoy::service::auth::v3`, and
//! OTLP collectors' `opentelemetry::proto::trace::v1`.

#![allow(clippy::doc_markdown, clippy::large_enum_variant, missing_docs, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
