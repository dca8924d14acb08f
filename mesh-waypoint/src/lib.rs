//! The waypoint: what is asked of a service, request by request.
//!
//! ```text
//! agent ==mTLS==> worker: who, for what --> serve: what is spoken --> exchange: may it, where to --> upstream ==mTLS==> agent
//! ```
//!
//! [`engine`] decides, and knows neither sockets nor clocks; everything else carries out.

pub mod app;
pub mod settings;
pub mod worker;
pub mod serve;
pub mod exchange;
pub mod relay;
pub mod export;
pub mod fetch;
pub mod errand;
pub mod aim;
pub mod session;
pub mod spots;
pub mod keys;
pub mod upstream;
pub mod http1;
pub mod http2;
pub mod message;
pub mod outbox;
pub mod inlet;
pub mod body;
pub mod stall;
pub mod length;
pub mod limits;
pub mod dial;
pub mod io;
pub mod sniff;
pub mod asked;
pub mod world;
pub mod originate;
pub mod telemetry;
pub mod overload;
pub mod client;
pub mod date;
pub mod wire;
pub mod engine;
