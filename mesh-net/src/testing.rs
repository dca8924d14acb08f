//! A certificate authority for tests.

use std::sync::Arc;

use mesh_core::identity::SpiffeId;

use crate::svid::{Svid, TrustBundle};
use crate::tls::Credentials;

/// A root that signs whatever it is asked to.
pub struct TestCa {}

impl TestCa {
    pub fn new(_name: &str) -> Self {
        todo!()
    }

    pub fn root_pem(&self) -> String {
        todo!()
    }

    pub fn trust(&self) -> Arc<TrustBundle> {
        todo!()
    }

    /// An SVID valid from an hour ago for a day.
    pub fn issue(&self, _identity: &SpiffeId) -> Arc<Svid> {
        todo!()
    }

    /// An SVID of this root that trusts this root.
    pub fn credentials(&self, _identity: &SpiffeId) -> Credentials {
        todo!()
    }
}
