//! What becomes of a request: functions of the model ([`mesh_core::l7`]), the request's head, the client and drawn numbers.
//!
//! A model is compiled once ([`decide::CompiledRoutes::new`]) and asked for every request; what can be wrong with it is found
//! while compiling, so that no request meets it.

pub mod decide;
pub mod session;
pub mod split;
pub mod retry;
pub mod cors;
pub mod redirect;
pub mod rewrite;
pub mod respond;
pub mod matcher;
pub mod headers;
pub mod path;
pub mod pattern;
pub mod head;

#[cfg(test)]
mod sample;

pub mod ratelimit;
pub mod authorization;
pub mod jwt;
pub mod balance;
pub mod limits;
pub mod experience;
pub mod outliers;
pub mod fields;
