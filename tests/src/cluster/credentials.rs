//! A cluster's certificates: an authority of its own, what the API server shows, and who its clients are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// The authority, and the folder in which all certificates and keys are.
#[derive(Debug)]
pub(super) struct Credentials {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Credentials {
    /// Makes an authority, the API server's certificate for `names`, and the key that signs service-account tokens.
    pub(super) fn make(dir: PathBuf, names: &[&str]) -> Result<Credentials> {
        fs::create_dir(&dir)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("weft test cluster", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        fs::write(dir.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let credentials = Credentials { dir, issuer: Issuer::new(params, key) };

        let mut serving = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        serving.distinguished_name = subject("kube-apiserver", None);
        serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        credentials.issue("apiserver", serving)?;

        let accounts = KeyPair::generate()?;
        secret(&credentials.path("accounts.key"), &accounts.serialize_pem())?;
        fs::write(credentials.path("accounts.pub"), accounts.public_key_pem())?;
        Ok(credentials)
    }

    /// A kubeconfig for the user `name` in `group`, for the API server at `url`.
    pub(super) fn kubeconfig(&self, name: &str, group: &str, url: &str) -> Result<PathBuf> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let file = name.replace(':', "-");
        self.issue(&file, params)?;
        let path = self.path(&format!("{file}.kubeconfig"));
        let (ca, cert, key) =
            (self.path("ca.crt"), self.path(&format!("{file}.crt")), self.path(&format!("{file}.key")));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: weft\n\
             clusters:\n- name: weft\n  cluster:\n    server: {url}\n    certificate-authority: {}\n\
             users:\n- name: {name:?}\n  user:\n    client-certificate: {}\n    client-key: {}\n\
             contexts:\n- name: weft\n  context: {{cluster: weft, user: {name:?}}}\n",
            ca.display(),
            cert.display(),
            key.display()
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// A JSON Web Token of `claims` (RFC 7515, compact), by the key of service accounts.
    pub(super) fn token(&self, claims: &Value) -> Result<String> {
        let key = KeyPair::from_pem(&fs::read_to_string(self.path("accounts.key"))?)?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der())?;
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(claims));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn issue(&self, name: &str, mut params: CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.path(&format!("{name}.crt")), certificate.pem())?;
        secret(&self.path(&format!("{name}.key")), &key.serialize_pem())
    }
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject
}

fn secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
