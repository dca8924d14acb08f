use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mesh_core::identity::SpiffeId;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, Issuer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn config(dir: &Path) -> Config {
    Config {
        state_dir: dir.join("state"),
        trust_domain: "td".to_owned(),
        plugged_in: None,
        extra_roots: None,
        leaf_ttl: 24 * HOUR,
        max_leaf_ttl: 48 * HOUR,
    }
}

fn open(config: Config) -> Result<Authority, FilesError> {
    Authority::open(config, SystemTime::now())
}

fn web() -> SpiffeId {
    SpiffeId::new("td", "shop", "web").unwrap()
}

/// A request with its key, for a name that it should not get.
fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn a_leaf_names_the_identity_and_nothing_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(config(dir.path())).unwrap();
    let now = SystemTime::now();
    let signed = authority.sign(&csr(), &web(), None, now).unwrap();
    assert_eq!(signed.chain.len(), 2, "an own root signs leaves itself");
    let (leaf, root) = (der(&signed.chain[0]), der(&signed.chain[1]));
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "the subject is empty (RFC 5280, section 4.2.1.6)");
    assert!(matches!(&san.value.general_names[..], [GeneralName::URI("spiffe://td/ns/shop/sa/web")]));
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca() && root.is_ca());
    leaf.verify_signature(Some(root.public_key())).unwrap();
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life, 24 * 3600 + 120);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    let other = authority.sign(&csr(), &web(), None, now).unwrap();
    assert_ne!(signed.serial, other.serial);
    assert_eq!(signed.serial.len(), 32);
}

#[test]
fn a_lifetime_is_at_most_what_the_setting_and_the_authority_have() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(config(dir.path())).unwrap();
    let now = SystemTime::now();
    let life = |ttl, now: SystemTime| {
        let signed = authority.sign(&csr(), &web(), Some(ttl), now).map_err(|e| e.reason())?;
        Ok(signed.not_after.duration_since(now).unwrap().as_secs())
    };
    assert_eq!(life(HOUR, now), Ok(3600));
    assert_eq!(life(Duration::from_secs(i64::MAX as u64), now), Ok(48 * 3600));
    assert_eq!(life(Duration::ZERO, now), Ok(5));
    let nearly_over = authority.not_after() - Duration::from_secs(100);
    assert_eq!(life(HOUR, nearly_over), Ok(100));
    assert_eq!(life(HOUR, authority.not_after()), Err("authority_expired"));
}

#[test]
fn requests_that_prove_nothing_are_refused_each_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(config(dir.path())).unwrap();
    let refused = |csr: &str| authority.sign(csr, &web(), None, SystemTime::now()).unwrap_err().reason();
    assert_eq!(refused(""), "malformed");
    assert_eq!(refused("garbage"), "malformed");
    assert_eq!(refused("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), "malformed");
    assert_eq!(refused(&"x".repeat(MAX_CSR_BYTES + 1)), "too_long");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = CertificateParams::default().serialize_request(&ed25519).unwrap().pem().unwrap();
    assert_eq!(refused(&request), "key_type");

    // The key of one request with the signature of another: the caller has not shown that it holds the key.
    let request = CertificateSigningRequestDer::from_pem_slice(csr().as_bytes()).unwrap();
    let other = CertificateSigningRequestDer::from_pem_slice(csr().as_bytes()).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&request).unwrap();
    let key = parsed.certification_request_info.subject_pki.subject_public_key.data.to_vec();
    let (_, parsed) = X509CertificationRequest::from_der(&other).unwrap();
    let other_key = parsed.certification_request_info.subject_pki.subject_public_key.data.to_vec();
    let mut forged = request.to_vec();
    let at = forged.windows(key.len()).position(|w| w == key).unwrap();
    forged[at..at + key.len()].copy_from_slice(&other_key);
    assert_eq!(refused(&pem_of(&forged)), "signature");

    let foreign = SpiffeId::new("other", "shop", "web").unwrap();
    let error = authority.sign(&csr(), &foreign, None, SystemTime::now()).unwrap_err();
    assert_eq!(error.reason(), "trust_domain");
}

fn pem_of(der: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * n) & 63) as usize];
            text.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn the_root_is_made_once_with_a_key_that_only_we_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let first = open(config.clone()).unwrap();
    let state = config.state_dir.clone();
    let mode = |name: &str| std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca-key.pem"), mode("ca-cert.pem"), mode("root-cert.pem")), (0o600, 0o644, 0o644));
    assert_eq!(std::fs::read_to_string(state.join("root-cert.pem")).unwrap(), **first.roots().borrow());
    let ten_years = first.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(ten_years > 3649 * 24 * HOUR);

    let again = open(config.clone()).unwrap();
    assert_eq!(*first.roots().borrow(), *again.roots().borrow());
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 3, "nothing is left aside");

    std::fs::set_permissions(state.join("ca-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(open(config.clone()), Err(FilesError::Mode { .. })));
    std::fs::remove_file(state.join("ca-cert.pem")).unwrap();
    assert!(matches!(open(config), Err(FilesError::Half { .. })), "a key without its certificate is not overwritten");
}

struct Made {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

fn make(name: &str, above: Option<&Made>) -> Made {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = match above {
        Some(above) => params.signed_by(&key, &Issuer::from_params(&above.params, &above.key)),
        None => params.self_signed(&key),
    };
    let pem = certificate.unwrap().pem();
    Made { params, key, pem }
}

fn plug(dir: &Path, cert: &Made, key: &Made, chain: &[&Made], root: &Made) -> Config {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let chain: String = chain.iter().map(|made| made.pem.as_str()).collect();
    let plugged_in = PluggedIn {
        cert: write("cert.pem", &cert.pem),
        key: write("key.pem", &key.key.serialize_pem()),
        chain: (!chain.is_empty()).then(|| write("chain.pem", &chain)),
        root: write("root.pem", &root.pem),
    };
    Config { plugged_in: Some(plugged_in), ..config(dir) }
}

#[test]
fn a_plugged_in_intermediate_signs_and_its_chain_goes_with_the_leaf() {
    let dir = tempfile::tempdir().unwrap();
    let root = make("root", None);
    let policy = make("policy", Some(&root));
    let issuing = make("issuing", Some(&policy));
    // As Istio's cert-chain.pem: from the signing certificate up to the root.
    let authority = open(plug(dir.path(), &issuing, &issuing, &[&issuing, &policy, &root], &root)).unwrap();
    let signed = authority.sign(&csr(), &web(), None, SystemTime::now()).unwrap();
    assert_eq!(signed.chain.len(), 4);
    let ders: Vec<_> = signed.chain.iter().map(|pem| der(pem)).collect();
    let parsed: Vec<_> = ders.iter().map(|der| X509Certificate::from_der(der).unwrap().1).collect();
    for pair in parsed.windows(2) {
        pair[0].verify_signature(Some(pair[1].public_key())).unwrap();
    }
    assert_eq!(ders[3], der(&root.pem));
    assert!(!dir.path().join("state/ca-key.pem").exists());
    assert_eq!(authority.serving(&[ServerName::Dns("ctrl".to_owned())], SystemTime::now()).unwrap().chain.len(), 3);
}

#[test]
fn plugged_in_files_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (make("root", None), make("root", None));
    let issuing = make("issuing", Some(&root));
    let seen = |cert: &Made, key: &Made, root: &Made| open(plug(dir.path(), cert, key, &[], root)).err();
    assert!(seen(&issuing, &issuing, &root).is_none());
    assert!(matches!(seen(&issuing, &other, &root), Some(FilesError::Mismatch { .. })));
    assert!(matches!(seen(&issuing, &issuing, &other), Some(FilesError::Chain { number: 1, .. })));
}

#[tokio::test(start_paused = true)]
async fn plugged_in_files_that_change_are_taken_once_they_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (make("old", None), make("new", None));
    let authority = Arc::new(open(plug(dir.path(), &old, &old, &[], &old)).unwrap());
    tokio::spawn(reread(authority.clone()));
    let mut roots = authority.roots();
    let signed_by_new = || {
        let signed = authority.sign(&csr(), &web(), None, SystemTime::now()).unwrap();
        let (leaf, root) = (der(&signed.chain[0]), der(&new.pem));
        let (_, root) = X509Certificate::from_der(&root).unwrap();
        X509Certificate::from_der(&leaf).unwrap().1.verify_signature(Some(root.public_key())).is_ok()
    };
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let look = || tokio::time::sleep(Duration::from_secs(20));

    look().await;
    assert!(!roots.has_changed().unwrap());
    write("root.pem", &format!("{}{}", old.pem, new.pem));
    roots.changed().await.unwrap();
    assert!(roots.borrow_and_update().contains(new.pem.trim()) && !signed_by_new());
    // The certificate is written, and its key not yet.
    write("cert.pem", &new.pem);
    look().await;
    assert!(!signed_by_new());
    write("key.pem", &new.key.serialize_pem());
    look().await;
    assert!(signed_by_new());
    write("root.pem", &new.pem);
    roots.changed().await.unwrap();
    assert_eq!(**roots.borrow(), new.pem);
    assert_eq!(std::fs::read_to_string(dir.path().join("state/root-cert.pem")).unwrap(), new.pem);
}

#[test]
fn a_second_root_travels_with_every_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let next = make("next", None);
    let path = dir.path().join("next.pem");
    std::fs::write(&path, &next.pem).unwrap();
    let authority = open(Config { extra_roots: Some(path), ..config(dir.path()) }).unwrap();
    let signed = authority.sign(&csr(), &web(), None, SystemTime::now()).unwrap();
    let roots = signed.chain.last().unwrap();
    assert_eq!(roots.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(roots.contains(next.pem.trim()));
    assert_eq!(&std::fs::read_to_string(dir.path().join("state/root-cert.pem")).unwrap(), roots);
}

#[test]
fn serving_certificates_carry_names_and_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(config(dir.path())).unwrap();
    let names = [ServerName::Dns("ctrl.example".to_owned()), ServerName::Ip("fd00::1".parse().unwrap())];
    let serving = authority.serving(&names, SystemTime::now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&serving.chain[0]).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    let text = format!("{:?}", san.value.general_names);
    assert!(text.contains("ctrl.example") && text.contains("IPAddress([253, 0"), "{text}");
}

proptest! {
    #[test]
    fn no_bytes_of_a_request_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..400, with in any::<u8>()) {
        let _ = proven_key(&String::from_utf8_lossy(&bytes));
        let _ = proven_key(&pem_of(&bytes));
        let request = CertificateSigningRequestDer::from_pem_slice(csr().as_bytes()).unwrap().to_vec();
        let (_, parsed) = X509CertificationRequest::from_der(&request).unwrap();
        let signed = parsed.certification_request_info.raw;
        let start = request.windows(signed.len()).position(|w| w == signed).unwrap();
        let at = at % request.len();
        let mut damaged = request.clone();
        damaged[at] = with;
        // The envelope's tags are read leniently; of what the signature covers, no bit may differ.
        let covered = (start..start + signed.len()).contains(&at) && damaged != request;
        prop_assert!(proven_key(&pem_of(&damaged)).is_err() || !covered);
    }
}
