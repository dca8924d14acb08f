//! Laws of the model, tried on generated values.

mod generate;
mod policy;
mod snapshot;
mod wire;
