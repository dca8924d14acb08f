//! Scenarios: what the mesh promises, each test named as the claim it proves. One file is one subject; every file is listed
//! here (a tidy test of xtask holds that).

mod opt_in;
mod before;
mod carried;
mod same_node;
mod plain_world;
mod remains;
mod strictness;
mod authorization;
mod revocation;
mod identity;
mod authority;
mod hostile;
mod endurance;
mod upgrade;
mod managers;
mod admin;
mod protocols;
mod transfers;
mod pacing;
mod copying;
mod closing;
mod resilience;
mod crowds;
mod routing;
mod guarded;
mod limited;
mod scraped;
mod traced;
mod tasks;
mod clients;
mod originated;
mod overload;
