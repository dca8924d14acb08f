//! The authority's key and certificates on disk.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mesh_net::unix_time;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use tracing::{info, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{BACKDATE, Config, PluggedIn};
use crate::durable;

pub(super) const KEY: &str = "ca-key.pem";
pub(super) const CERT: &str = "ca-cert.pem";
pub(super) const ROOTS: &str = "root-cert.pem";
/// Lifetime of an own root.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, Error)]
pub enum FilesError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} holds no {what}: {why}")]
    Content { path: PathBuf, what: &'static str, why: String },
    #[error("{path} may be read by others (mode {mode:o}); chmod 600 it")]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "only one of {present} and {missing} is there; restore the other, or remove both to start over with a new root"
    )]
    Half { present: PathBuf, missing: PathBuf },
    #[error("the key in {key} is not that of the certificate in {cert}")]
    Mismatch { key: PathBuf, cert: PathBuf },
    #[error("{path}: the certificate may not sign others")]
    NoCa { path: PathBuf },
    #[error("{path}: the certificate is over")]
    Over { path: PathBuf },
    #[error("{path}: certificate {number} of the chain is not signed by the one after it")]
    Chain { path: PathBuf, number: usize },
    #[error("make a root: {0}")]
    Library(String),
}

/// What signs, and what is trusted.
pub(super) struct Material {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// PEM texts after the leaf: nothing for an own root, else the intermediate and those above it.
    pub(super) intermediates: Vec<String>,
    /// PEM text with all roots that agents are to trust, the one that signs first.
    pub(super) roots: String,
    /// The earliest end among the certificates above a leaf.
    pub(super) not_after: SystemTime,
}

/// A root's key and certificate, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) cert: String,
}

/// The files that `config` names, or those of the own root, made at the first start.
pub(super) fn open(config: &Config, now: SystemTime) -> Result<Material, FilesError> {
    let material = match &config.plugged_in {
        Some(files) => plugged_in(files, now)?,
        None => own(&config.state_dir, now)?,
    };
    complete(material, config)
}

/// A root that is kept elsewhere (`place`), and `others` to trust beside it.
pub(super) fn of(
    config: &Config,
    place: &Path,
    pair: &Pair,
    others: &[&str],
    now: SystemTime,
) -> Result<Material, FilesError> {
    let (issuer, mut roots, not_after) = issuer((&place.join(CERT), &pair.cert), (&place.join(KEY), &pair.key), now)?;
    for other in others {
        for (_, pem) in certificates(place, other)? {
            roots.push_str(&pem);
        }
    }
    complete(Material { issuer, intermediates: Vec::new(), roots, not_after }, config)
}

/// Adds the extra roots, and leaves all of them in `root-cert.pem`.
fn complete(mut material: Material, config: &Config) -> Result<Material, FilesError> {
    fs::create_dir_all(&config.state_dir)
        .map_err(|source| FilesError::Write { path: config.state_dir.clone(), source })?;
    if let Some(path) = &config.extra_roots {
        for (_, pem) in certificates(path, &read(path)?)? {
            if !material.roots.contains(pem.trim()) {
                material.roots.push_str(&pem);
            }
        }
    }
    let roots = config.state_dir.join(ROOTS);
    write(&roots, material.roots.as_bytes(), 0o644)?;
    Ok(material)
}

/// What the files hold from which an authority of `config` is made: when it is something else, it is to be made anew. Those of
/// the own root are among them if `own` is said.
pub(super) fn contents(config: &Config, own: bool) -> Vec<Option<String>> {
    let mut paths: Vec<PathBuf> = config.extra_roots.iter().cloned().collect();
    match &config.plugged_in {
        Some(PluggedIn { cert, key, chain, root }) => {
            paths.extend([cert, key, root].into_iter().chain(chain).cloned());
        }
        None if own => paths.extend([config.state_dir.join(KEY), config.state_dir.join(CERT)]),
        None => {}
    }
    paths.iter().map(|path| fs::read_to_string(path).ok()).collect()
}

/// The certificates of a PEM file, at least one, and nothing else that is in it.
pub(super) fn roots(path: &Path) -> Result<String, FilesError> {
    Ok(certificates(path, &read(path)?)?.into_iter().map(|(_, pem)| pem).collect())
}

/// 128 random bits, the first one clear so that the number is positive (RFC 5280, section 4.1.2.2).
pub(super) fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn own(dir: &Path, now: SystemTime) -> Result<Material, FilesError> {
    let (key_path, cert_path) = (dir.join(KEY), dir.join(CERT));
    match (key_path.exists(), cert_path.exists()) {
        (false, false) => {
            let Pair { key, cert } = make_root(now)?;
            fs::create_dir_all(dir).map_err(|source| FilesError::Write { path: dir.to_owned(), source })?;
            write(&key_path, key.as_bytes(), 0o600)?;
            write(&cert_path, cert.as_bytes(), 0o644)?;
            info!(path = %cert_path.display(), "made a root");
        }
        (true, false) => return Err(FilesError::Half { present: key_path, missing: cert_path }),
        (false, true) => return Err(FilesError::Half { present: cert_path, missing: key_path }),
        (true, true) => {}
    }
    private(&key_path)?;
    let (issuer, roots, not_after) = issuer((&cert_path, &read(&cert_path)?), (&key_path, &read(&key_path)?), now)?;
    Ok(Material { issuer, intermediates: Vec::new(), roots, not_after })
}

/// A new root, valid for ten years.
pub(super) fn make_root(now: SystemTime) -> Result<Pair, FilesError> {
    let library = |e: rcgen::Error| FilesError::Library(e.to_string());
    let key = KeyPair::generate().map_err(library)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Weft");
    // The serial tells two roots apart: a verifier looks for an issuer by its name.
    let serial = random_serial();
    let short: String = serial[..4].iter().map(|b| format!("{b:02x}")).collect();
    subject.push(DnType::CommonName, format!("Weft root {short}"));
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_TTL).into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let certificate = params.self_signed(&key).map_err(library)?;
    Ok(Pair { key: key.serialize_pem(), cert: certificate.pem() })
}

/// From when until when the first certificate of a PEM text is valid. `place` is for the error.
pub(super) fn validity(place: &Path, cert: &str) -> Result<(SystemTime, SystemTime), FilesError> {
    let (der, _) = certificates(place, cert)?.remove(0);
    let certificate = parse(place, &der)?;
    Ok((unix_time::at(certificate.validity().not_before.timestamp()), end(&certificate)))
}

fn plugged_in(files: &PluggedIn, now: SystemTime) -> Result<Material, FilesError> {
    private(&files.key)?;
    let cert = read(&files.cert)?;
    let (issuer, own, mut not_after) = issuer((&files.cert, &cert), (&files.key, &read(&files.key)?), now)?;
    let own_der = certificates(&files.cert, &cert)?.remove(0).0;
    let roots = certificates(&files.root, &read(&files.root)?)?;
    let mut path = vec![(own_der.clone(), own)];
    if let Some(chain) = &files.chain {
        for (der, pem) in certificates(chain, &read(chain)?)? {
            let known = path.iter().any(|(d, _)| *d == der) || roots.iter().any(|(d, _)| *d == der);
            if !known {
                path.push((der, pem));
            }
        }
    }
    let chain_path = files.chain.clone().unwrap_or_else(|| files.cert.clone());
    for (number, (der, _)) in path.iter().enumerate() {
        let broken = || FilesError::Chain { path: chain_path.clone(), number: number + 1 };
        let certificate = parse(&chain_path, der)?;
        not_after = not_after.min(end(&certificate));
        let signs = |above: &CertificateDer<'_>| {
            X509Certificate::from_der(above).is_ok_and(|(_, above)| {
                above.subject() == certificate.issuer()
                    && certificate.verify_signature(Some(above.public_key())).is_ok()
            })
        };
        let signed = match path.get(number + 1) {
            Some((above, _)) => signs(above),
            None => roots.iter().any(|(root, _)| signs(root)),
        };
        if !signed {
            return Err(broken());
        }
    }
    // A root that was plugged in as the signing certificate is no intermediate.
    let is_root = roots.iter().any(|(der, _)| *der == own_der);
    let intermediates = if is_root { Vec::new() } else { path.into_iter().map(|(_, pem)| pem).collect() };
    let roots = roots.into_iter().map(|(_, pem)| pem).collect();
    Ok(Material { issuer, intermediates, roots, not_after })
}

/// A key that others may read is warned of, or refused.
fn private(key: &Path) -> Result<(), FilesError> {
    let mode =
        fs::metadata(key).map_err(|source| FilesError::Read { path: key.to_owned(), source })?.permissions().mode();
    if mode & 0o077 != 0 {
        // Secrets mounted by Kubernetes are group-readable, and may not be changed.
        warn!(path = %key.display(), mode = format!("{:o}", mode & 0o777), "the authority's key may be read by others");
        if mode & 0o007 != 0 {
            return Err(FilesError::Mode { path: key.to_owned(), mode: mode & 0o777 });
        }
    }
    Ok(())
}

/// The first certificate of `cert` with its key, ready to sign; its PEM text; and its end. Texts, each with where it is from.
fn issuer(
    (cert, cert_text): (&Path, &str),
    (key, key_text): (&Path, &str),
    now: SystemTime,
) -> Result<(Issuer<'static, KeyPair>, String, SystemTime), FilesError> {
    let content = |what, path: &Path, why: String| FilesError::Content { path: path.to_owned(), what, why };
    let pair = KeyPair::from_pem(key_text).map_err(|e| content("private key", key, e.to_string()))?;
    let (der, pem) = certificates(cert, cert_text)?.remove(0);
    let certificate = parse(cert, &der)?;
    if certificate.public_key().raw != pair.subject_public_key_info() {
        return Err(FilesError::Mismatch { key: key.to_owned(), cert: cert.to_owned() });
    }
    if !certificate.is_ca() {
        return Err(FilesError::NoCa { path: cert.to_owned() });
    }
    let not_after = end(&certificate);
    if not_after <= now {
        return Err(FilesError::Over { path: cert.to_owned() });
    }
    let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|e| content("certificate", cert, e.to_string()))?;
    Ok((issuer, pem, not_after))
}

fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, FilesError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| FilesError::Content {
        path: path.to_owned(),
        what: "certificate",
        why: e.to_string(),
    })?;
    Ok(certificate)
}

fn end(certificate: &X509Certificate<'_>) -> SystemTime {
    unix_time::at(certificate.validity().not_after.timestamp())
}

/// The certificates of a PEM text that is known to be good.
pub(super) fn split(text: &str) -> Vec<String> {
    certificates(Path::new(""), text).unwrap_or_default().into_iter().map(|(_, pem)| pem).collect()
}

/// Every certificate of a PEM text, at least one, with a PEM text of its own. `path` is for the error.
fn certificates(path: &Path, text: &str) -> Result<Vec<(CertificateDer<'static>, String)>, FilesError> {
    let content = |why: String| FilesError::Content { path: path.to_owned(), what: "certificate", why };
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let (mut rest, mut found) = (text, Vec::new());
    while let Some(start) = rest.find(BEGIN) {
        let length = rest[start..].find(END).ok_or_else(|| content("a certificate without its end".to_owned()))?;
        let end = start + length + END.len();
        let pem = format!("{}\n", &rest[start..end]);
        rest = &rest[end..];
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| content(e.to_string()))?;
        found.push((der, pem));
    }
    if found.is_empty() { Err(content("no certificate in it".to_owned())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<String, FilesError> {
    fs::read_to_string(path).map_err(|source| FilesError::Read { path: path.to_owned(), source })
}

/// Writes aside and renames, so that a crash leaves the old file or the new one; the mode is right from the first byte.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FilesError> {
    durable::replace(path, bytes, mode).map_err(|source| FilesError::Write { path: path.to_owned(), source })
}
