//! What Istio's and the Gateway API's resources are.
//!
//! This crate knows no cluster, opens no socket and reads no clock. It takes objects as JSON, as any source delivers them,
//! so that admission, the controller's sources and the command line say the same of the same object.
//!
//! ```text
//! api (tables of fields) --crd::render-------> CustomResourceDefinition
//!                        --validate(object)--> findings about one object
//!                        --analyze(objects)--> findings about all of them together
//! ```

pub mod crd;
mod analyze;
mod validate;
pub mod api;
pub mod schema;
mod syntax;
mod report;
mod node;
pub mod finding;

pub use analyze::{Mesh, analyze};
pub use finding::{Code, Finding, ObjectRef, Severity};
pub use syntax::duration::parse as parse_duration;
pub use syntax::grpc_status::parse as parse_grpc_status;
pub use syntax::pattern::check as check_expression;
pub use validate::{is_refused, validate};
