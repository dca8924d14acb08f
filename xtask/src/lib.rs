//! The part of xtask that the testbed shares with it: taking a run of the testbed, or a test
//! cluster, apart; making images; and getting the program that both compare Weft with.
//!
//! xtask sees no other crate of Weft; `weft-tests` sees this one, so that a run that ends well and a run that was
//! killed are removed by the same code.

pub mod clusters;
pub mod leftovers;
pub mod image;
pub mod download;
pub mod target;
