//! TLS as a server speaks it: shared by Gateway and Sidecar.

use crate::schema::{BOOLEAN, Shape, TEXT, TEXTS, Type, field, list, objects, rule};

pub(super) static SERVER_TLS: Shape = Shape::new(&[
    field("httpsRedirect", BOOLEAN, "Answers plain HTTP with the address by HTTPS."),
    field(
        "mode",
        Type::Choice(&["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"]),
        "Whether TLS is terminated, and whom clients have to prove to be.",
    ),
    field("serverCertificate", TEXT, "File with the server's certificate."),
    field("privateKey", TEXT, "File with the server's key."),
    field("caCertificates", TEXT, "File with the authorities that clients' certificates have to come from."),
    field("caCrl", TEXT, "File with certificates that were revoked."),
    field("credentialName", TEXT, "Secret with certificates and key, in place of files."),
    field("credentialNames", list(&TEXT).least(1).most(2), "Secrets with certificates and keys of different kinds."),
    field("caCertCredentialName", TEXT, "Secret or ConfigMap with the authorities for clients' certificates."),
    field(
        "tlsCertificates",
        objects(&CERTIFICATE).least(1).most(2),
        "Files with certificates and keys of different kinds.",
    ),
    field("subjectAltNames", TEXTS, "Names of which a client's certificate has to have one."),
    field("verifyCertificateSpki", TEXTS, "Hashes of keys of which a client has to have one, SHA-256 in base64."),
    field("verifyCertificateHash", TEXTS, "Hashes of certificates of which a client has to have one, SHA-256 in hex."),
    field("minProtocolVersion", VERSION, "Oldest TLS that is spoken."),
    field("maxProtocolVersion", VERSION, "Newest TLS that is spoken."),
    field("cipherSuites", TEXTS, "Ciphers for TLS 1.2 and older, by OpenSSL's names."),
])
.rules(&[
    rule(
        "!has(self.tlsCertificates) || !has(self.credentialNames)",
        "credentialNames and tlsCertificates exclude each other",
    ),
    rule(
        "!has(self.credentialName) || (!has(self.credentialNames) && !has(self.tlsCertificates))",
        "credentialName excludes credentialNames and tlsCertificates",
    ),
]);

static CERTIFICATE: Shape = Shape::new(&[
    field("serverCertificate", TEXT, "File with the certificate."),
    field("privateKey", TEXT, "File with the key."),
    field("caCertificates", TEXT, "File with the authorities for clients' certificates."),
]);

const VERSION: Type = Type::Choice(&["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]);
