use std::time::{Duration, SystemTime};

use super::*;
use crate::testing::{Leaf, TestCa};

mod exchange;

/// A resumed session shows no certificate; the remembered ones are held against the clock again.
#[test]
fn remembered_certificates_run_out() {
    let id = SpiffeId::new("td", "a", "b").unwrap();
    let svid = TestCa::new("root").issue_leaf(&Leaf::of(&id));
    let reason = |now| still_valid(&svid.chain, now).map(drop).map_err(|e| e.reason());
    let second = Duration::from_secs(1);
    assert_eq!(reason(SystemTime::now()), Ok(()));
    assert_eq!(reason(svid.not_after + second), Err("tls_expired"));
    assert_eq!(reason(svid.not_before - second), Err("tls_not_yet_valid"));
    assert_eq!(still_valid(&[], SystemTime::now()).map(drop).map_err(|e| e.reason()), Err("tls_no_certificate"));
}
