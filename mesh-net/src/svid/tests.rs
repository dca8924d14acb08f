use std::time::{Duration, SystemTime};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;

use super::*;
use crate::testing::{Leaf, TestCa};

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "web").unwrap()
}

fn check(uris: &[&str], dns: &[&str], expect: Expect) {
    let ca = TestCa::new("root");
    let leaf = Leaf {
        uris: uris.iter().map(|s| (*s).to_owned()).collect(),
        dns: dns.iter().map(|s| (*s).to_owned()).collect(),
        ..Leaf::of(&web())
    };
    let (chain, key) = ca.issue_pem(&leaf);
    let seen = match Svid::from_pem(&chain, &KeyPair::from_pem(&key).unwrap()) {
        Ok(svid) => svid.identity.to_string(),
        Err(e) => format!("{}: {e}", e.reason()),
    };
    expect.assert_eq(&seen);
}

#[test]
fn an_svid_names_exactly_one_workload() {
    let id = "spiffe://td/ns/a/sa/b";
    check(&[id], &[], expect!["spiffe://td/ns/a/sa/b"]);
    check(&[id], &["b.a.svc"], expect!["spiffe://td/ns/a/sa/b"]);
    check(
        &[id, "spiffe://td/ns/a/sa/c"],
        &[],
        expect!["svid_san: the leaf certificate's name: the certificate has 2 URI SANs, not one"],
    );
    check(
        &[id, "https://example.com"],
        &[],
        expect!["svid_san: the leaf certificate's name: the certificate has 2 URI SANs, not one"],
    );
    check(&[], &["b.a.svc"], expect!["svid_san: the leaf certificate's name: the certificate has no URI SAN"]);
    check(&[], &[], expect!["svid_san: the leaf certificate's name: the certificate has no URI SAN"]);
    check(
        &["spiffe://td/a"],
        &[],
        expect![[
            r#"svid_san: the leaf certificate's name: the certificate's URI SAN: path "a" is not /ns/<namespace>/sa/<service-account>"#
        ]],
    );
}

#[test]
fn a_request_signed_by_the_authority_becomes_an_svid_without_the_root() {
    let (ca, key) = (TestCa::new("root"), KeyPair::generate().unwrap());
    let chain = ca.sign(&key.csr_pem(&web()).unwrap(), &web(), Duration::from_secs(60)).unwrap();
    let svid = Svid::from_pem(&chain, &key).unwrap();
    assert_eq!(svid.identity, web());
    assert_eq!(svid.chain.len(), 1);
    let left = svid.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    assert!(svid.not_before < SystemTime::now());
    assert!(svid.serial_hex.len() >= 2 && svid.serial_hex.chars().all(|c| c.is_ascii_hexdigit()));
}

#[test]
fn a_chain_for_another_key_is_refused() {
    let (chain, _) = TestCa::new("root").issue_pem(&Leaf::of(&web()));
    let other = KeyPair::generate().unwrap();
    assert!(matches!(Svid::from_pem(&chain, &other), Err(InvalidSvid::KeyMismatch)));
}

#[test]
fn empty_or_broken_pem_is_an_error() {
    let key = KeyPair::generate().unwrap();
    for pem in
        ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----"]
    {
        assert!(Svid::from_pem(pem, &key).is_err(), "{pem:?}");
        assert!(TrustBundle::from_pem(pem).is_err(), "{pem:?}");
        assert!(KeyPair::from_pem(pem).is_err(), "{pem:?}");
    }
}

#[test]
fn bundles_are_equal_by_what_they_trust() {
    let (a, b) = (TestCa::new("a"), TestCa::new("b"));
    let print = |pem: &str| TrustBundle::from_pem(pem).unwrap().fingerprint().to_owned();
    let (ab, ba) =
        (format!("{}{}", a.root_pem(), b.root_pem()), format!("{}{}{}", b.root_pem(), a.root_pem(), b.root_pem()));
    assert_eq!(print(&ab), print(&ba));
    assert_ne!(print(&ab), print(a.root_pem()));
    assert_eq!(TrustBundle::from_pem(&ba).unwrap().roots().len(), 2);
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", KeyPair::generate().unwrap()), "KeyPair");
}

proptest! {
    #[test]
    fn arbitrary_bytes_name_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(spiffe_id_of(&CertificateDer::from(bytes)).is_err());
    }

    #[test]
    fn a_damaged_certificate_never_panics(at in 0usize..400, with: u8, cut in 0usize..600) {
        thread_local! {
            static CERT: Vec<u8> = TestCa::new("root").issue(&web()).chain[0].to_vec();
        }
        let mut bytes = CERT.with(Clone::clone);
        let at = at % bytes.len();
        bytes[at] = with;
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(300)));
        let _ = spiffe_id_of(&CertificateDer::from(bytes.clone()));
        let _ = validity(&[CertificateDer::from(bytes)]);
    }
}
