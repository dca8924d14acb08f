//! What becomes of a request: functions of the model ([`mesh_core::l7`]), the request's head, the client and drawn numbers.

pub mod ratelimit;
pub mod authorization;
pub mod jwt;
pub mod balance;
pub mod limits;
pub mod experience;
pub mod outliers;
pub mod fields;
