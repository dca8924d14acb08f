//! The waypoint: what is asked of a service, request by request.
//!
//! [`engine`] decides, and knows neither sockets nor clocks; everything else carries out.

pub mod engine;
