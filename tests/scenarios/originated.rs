//! TLS of the waypoint's own to an application, within the tunnel to its node.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use weft_tests::needs;
use weft_tests::reviews::{Reviews, SERVICE};

/// Writes a root, and a certificate that it has made for `name` with its key: `root.pem`, `chain.pem`, `key.pem`.
fn certificates(dir: &Path, name: &str) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let chain = CertificateParams::new([name.to_owned()])?.signed_by(&key, &issuer)?;
    fs::create_dir_all(dir)?;
    for (file, text) in [("root.pem", root.pem()), ("chain.pem", chain.pem()), ("key.pem", key.serialize_pem())] {
        fs::write(dir.join(file), text)?;
    }
    Ok(())
}

#[test]
fn an_application_that_wants_tls_gets_it_from_the_waypoint() -> Result<()> {
    needs!("curl", "python3");
    let reviews = Reviews::open("l7-tls", &["v1"])?;
    let (pod, trusted) = (&reviews.versions[0], reviews.waypoint.pod.dir().join("tls"));
    certificates(&trusted, "reviews.shop.svc.cluster.local")?;
    certificates(&trusted.join("other"), "reviews.shop.svc.cluster.local")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/tls_server.py");
    let server = pod.command("python3").args(["-u", script, "7000"]);
    let mut server = server.arg(trusted.join("chain.pem")).arg(trusted.join("key.pem")).start()?;
    server.wait_listens(7000)?;
    let ask = || -> Result<String> {
        let curl = reviews.web.command("curl").args(["--silent", "--noproxy", "*", "--max-time", "10"]);
        curl.args(["--write-out", " %{http_code}", &format!("http://{SERVICE}:7000/")]).stdout()
    };
    let rule = |roots: &Path, more: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: reviews, namespace: shop}}, spec: {{host: \
             reviews, trafficPolicy: {{portLevelSettings: [{{port: {{number: 7000}}, tls: {{mode: SIMPLE, caCertificates: '{}'{more}}}}}]}}}}}}\n",
            roots.display()
        )
    };
    ensure!(ask()?.ends_with(" 503"), "plain HTTP to a server that speaks TLS");
    reviews.apply(&rule(&trusted.join("root.pem"), ""))?;
    assert_eq!(ask()?, "reviews.shop.svc.cluster.local 200");
    reviews.apply(&rule(&trusted.join("root.pem"), ", sni: other.example"))?;
    ensure!(ask()?.ends_with(" 503"), "the certificate is for another name");
    reviews.apply(&rule(&trusted.join("other/root.pem"), ""))?;
    ensure!(ask()?.ends_with(" 503"), "nobody trusts who made the certificate");
    let lines = reviews.waypoint.accesses();
    let last = lines
        .last()
        .map(|line| (line["response_flags"].clone(), line["upstream_transport_failure_reason"].to_string()));
    ensure!(last.is_some_and(|(flags, why)| flags == "UF" && why.contains("certificate")), "{lines:#?}");
    Ok(())
}
