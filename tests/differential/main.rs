//! The waypoint beside Envoy: each intent is written twice, as resources of Istio or the Gateway API and as configuration of Envoy by
//! hand, and the same bytes are sent to both. What clients, backends and clocks see has to be the same but for a short list
//! ([`compare`]).
//!
//! ```text
//!             ┌─ 127.0.1.x  the waypoint's code ── backends 127.0.1.1 ..
//!  bytes ─────┤
//!             └─ 127.0.2.x  Envoy ──────────────── backends 127.0.2.1 ..
//! ```

mod refusals;
mod failures;
mod shapes;
mod matching;
mod odd;
mod intent;
mod compare;
mod envoy;
mod weft;
mod ask;
mod backends;
mod message;

use anyhow::Result;
use weft_tests::needs;

#[test]
fn a_waypoint_does_as_envoy_does() -> Result<()> {
    needs!("envoy");
    let tables = [matching::table(), shapes::table(), odd::table(), failures::table(), refusals::table()?];
    intent::run(tables.into_iter().flatten().collect())
}
