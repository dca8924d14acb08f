//! TLS as a server speaks it: of Gateway and Sidecar.

use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;

pub(super) fn check(tls: &Node, report: &mut Report) {
    let mode = tls.text("mode");
    let secrets = tls.present(&["credentialName", "credentialNames", "tlsCertificates"]);
    if secrets.len() > 1 {
        report.add(Code::ExcludingFields, tls, format!("{} exclude each other", secrets.join(" and ")));
    }
    check_ciphers(tls, report);
    let own = tls.present(&["serverCertificate", "privateKey", "caCertificates", "credentialName", "credentialNames"]);
    match mode {
        "ISTIO_MUTUAL" if !own.is_empty() => {
            let message = format!("ISTIO_MUTUAL uses the mesh's certificates and takes no {}", own.join(" and "));
            report.add(Code::BadTlsSettings, tls, message);
        }
        "PASSTHROUGH" | "AUTO_PASSTHROUGH" if !own.is_empty() || tls.has("caCrl") => {
            report.add(Code::IgnoredSetting, tls, format!("{mode} does not terminate TLS and uses no certificates"));
        }
        "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL" if secrets.is_empty() => {
            let needed: &[&str] = match mode {
                "SIMPLE" => &["serverCertificate", "privateKey"],
                _ => &["serverCertificate", "privateKey", "caCertificates"],
            };
            let missing: Vec<&str> = needed.iter().copied().filter(|field| tls.text(field).is_empty()).collect();
            if !missing.is_empty() {
                let message = format!("{mode} needs {}, or credentialName", missing.join(" and "));
                report.add(Code::BadTlsSettings, tls, message);
            }
            if mode == "SIMPLE" && tls.has("caCrl") {
                report.add(Code::BadTlsSettings, tls, "SIMPLE asks for no certificate that caCrl could revoke");
            }
        }
        _ => {}
    }
}

fn check_ciphers(tls: &Node, report: &mut Report) {
    let suites = tls.list("cipherSuites");
    if ["TLSV1_0", "TLSV1_1"].contains(&tls.text("minProtocolVersion")) && suites.is_empty() {
        report.add(
            Code::IgnoredSetting,
            tls,
            "TLS before 1.2 needs cipherSuites that it knows; by default there are none",
        );
    }
    for suite in suites {
        let name = suite.str().unwrap_or_default();
        // An expression, such as -ALL.
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if is_name && name != "ALL" && !SUITES.contains(&name) {
            report.add(Code::IgnoredSetting, &suite, format!("{name:?} is no cipher suite that is known"));
        }
    }
}

/// By OpenSSL's names.
const SUITES: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];
