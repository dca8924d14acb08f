//! Who is let in, and what each of the others is told apart by.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use expect_test::{Expect, expect};
use mesh_core::identity::SpiffeId;
use mesh_net::testing::{AnyServer, Leaf, TestCa, self_signed_pem};
use mesh_net::tls::{self, ALPN_H2, Credentials, TrustDomains};
use mesh_net::tunnel::{Config, client, server};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pair::{LONG, Mesh, echo, handshake, id, open, read_to_end, serve, sockets};

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// What a hostile end shows and speaks.
struct Hostile {
    certificate: Option<(String, String)>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: &'static [&'static [u8]],
}

impl Hostile {
    fn showing(certificate: (String, String)) -> Self {
        Self { certificate: Some(certificate), versions: TLS13, alpn: &[ALPN_H2] }
    }

    fn chain_and_key(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (chain, key) = self.certificate.as_ref()?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
        Some((chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()))
    }

    fn client(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
        let mut config = match self.chain_and_key() {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|p| p.to_vec()).collect();
        config
    }

    fn server(&self) -> ServerConfig {
        let (chain, key) = self.chain_and_key().unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = self.alpn.iter().map(|p| p.to_vec()).collect();
        config
    }
}

/// A hostile client at our accepting end; then an honest one, which must be served.
async fn check_client(mesh: &Mesh, hostile: Hostile, expect: Expect) {
    let (dialled, accepted) = sockets().await;
    let domains = TrustDomains::only("cluster.local");
    let client = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(hostile.client()));
        let name = ServerName::try_from("db.example.com").unwrap();
        if let Ok(mut stream) = connector.connect(name, dialled).await {
            let _ = stream.read(&mut [0; 1]).await;
        }
    };
    let (accepted, ()) = tokio::join!(tls::accept(accepted, &mesh.db, &domains, &[ALPN_H2], LONG), client);
    let error = accepted.map(drop).unwrap_err();
    expect.assert_eq(&format!("{}: {error}", error.reason()));
    let (client, server) = handshake(&mesh.web, &mesh.db, &[id("db")]).await;
    assert_eq!((client.unwrap().peer(), server.unwrap().peer()), (&id("db"), &id("web")));
}

/// A hostile server at our dialling end.
async fn check_server(mesh: &Mesh, hostile: Hostile, expect: Expect) {
    let (dialled, accepted) = sockets().await;
    let server = async {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(hostile.server()));
        if let Ok(mut stream) = acceptor.accept(accepted).await {
            let _ = stream.read(&mut [0; 1]).await;
        }
    };
    let expected = [id("db")];
    let (dialled, ()) =
        tokio::join!(async { tls::connect(dialled, &mesh.web, &expected, &[ALPN_H2], LONG).await.map(drop) }, server);
    let error = dialled.unwrap_err();
    expect.assert_eq(&format!("{}: {error}", error.reason()));
}

fn leaf(uris: &[&str], dns: &[&str]) -> Leaf {
    Leaf {
        uris: uris.iter().map(|u| (*u).to_owned()).collect(),
        dns: dns.iter().map(|d| (*d).to_owned()).collect(),
        ..Leaf::of(&id("db"))
    }
}

fn at(account: &str, from: i64, to: i64) -> Leaf {
    let now = SystemTime::now();
    let shift = |secs: i64| match u64::try_from(secs) {
        Ok(secs) => now + Duration::from_secs(secs),
        Err(_) => now - Duration::from_secs(secs.unsigned_abs()),
    };
    Leaf { not_before: shift(from), not_after: shift(to), ..Leaf::of(&id(account)) }
}

#[tokio::test]
async fn hostile_clients_are_refused_by_name_and_others_served() {
    let mesh = Mesh::new();
    let foreign = SpiffeId::new("other.domain", "shop", "web").unwrap();
    let web = || mesh.ca.issue_pem(&Leaf::of(&id("web")));
    let show = Hostile::showing;
    check_client(
        &mesh,
        Hostile { certificate: None, ..show(web()) },
        expect!["tls_no_certificate: the peer showed no certificate"],
    )
    .await;
    check_client(
        &mesh,
        show(mesh.ca.issue_pem(&Leaf::of(&foreign))),
        expect![
            "tls_trust_domain: the peer spiffe://other.domain/ns/shop/sa/web is of a trust domain that is not accepted"
        ],
    )
    .await;
    check_client(
        &mesh,
        show(mesh.ca.issue_pem(&at("web", -20, -10))),
        expect!["tls_expired: the peer's certificate has expired"],
    )
    .await;
    check_client(
        &mesh,
        show(mesh.ca.issue_pem(&at("web", 100, 200))),
        expect!["tls_not_yet_valid: the peer's certificate is not valid yet"],
    )
    .await;
    check_client(
        &mesh,
        show(self_signed_pem(&Leaf::of(&id("web")))),
        expect!["tls_unknown_issuer: the peer's certificate does not chain to a trusted root: UnknownIssuer"],
    )
    .await;
    check_client(
        &mesh,
        show(TestCa::new("mesh root").issue_pem(&Leaf::of(&id("web")))),
        expect!["tls_unknown_issuer: the peer's certificate does not chain to a trusted root: BadSignature"],
    )
    .await;
    check_client(
        &mesh,
        show(
            mesh.ca.issue_pem(&leaf(
                &["spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/db"],
                &[],
            )),
        ),
        expect!["tls_invalid_san: the peer's certificate names no workload: the certificate has 2 URI SANs, not one"],
    )
    .await;
    check_client(
        &mesh,
        show(mesh.ca.issue_pem(&leaf(&[], &["web.shop.svc"]))),
        expect!["tls_invalid_san: the peer's certificate names no workload: the certificate has no URI SAN"],
    )
    .await;
    check_client(
        &mesh,
        Hostile { versions: TLS12, ..show(web()) },
        expect!["tls_protocol: TLS handshake: peer is incompatible: Tls12NotOfferedOrEnabled"],
    )
    .await;
    check_client(
        &mesh,
        Hostile { alpn: &[b"http/1.1"], ..show(web()) },
        expect!["tls_no_alpn: no application protocol in common"],
    )
    .await;
    check_client(
        &mesh,
        Hostile { alpn: &[], ..show(web()) },
        expect!["tls_no_alpn: no application protocol in common"],
    )
    .await;
}

#[tokio::test]
async fn hostile_servers_are_refused_by_name() {
    let mesh = Mesh::new();
    let db = || mesh.ca.issue_pem(&Leaf::of(&id("db")));
    let show = Hostile::showing;
    check_server(
        &mesh,
        show(mesh.ca.issue_pem(&Leaf::of(&id("impostor")))),
        expect!["tls_wrong_identity: dialled [spiffe://cluster.local/ns/shop/sa/db], met spiffe://cluster.local/ns/shop/sa/impostor"],
    )
    .await;
    check_server(
        &mesh,
        show(mesh.ca.issue_pem(&at("db", -20, -10))),
        expect!["tls_expired: the peer's certificate has expired"],
    )
    .await;
    check_server(
        &mesh,
        show(mesh.ca.issue_pem(&at("db", 100, 200))),
        expect!["tls_not_yet_valid: the peer's certificate is not valid yet"],
    )
    .await;
    check_server(
        &mesh,
        show(self_signed_pem(&Leaf::of(&id("db")))),
        expect!["tls_unknown_issuer: the peer's certificate does not chain to a trusted root: UnknownIssuer"],
    )
    .await;
    check_server(
        &mesh,
        show(mesh.ca.issue_pem(&leaf(&["spiffe://cluster.local/ns/shop/sa/db", "https://db"], &[]))),
        expect!["tls_invalid_san: the peer's certificate names no workload: the certificate has 2 URI SANs, not one"],
    )
    .await;
    check_server(
        &mesh,
        show(mesh.ca.issue_pem(&leaf(&[], &["db.shop.svc"]))),
        expect!["tls_invalid_san: the peer's certificate names no workload: the certificate has no URI SAN"],
    )
    .await;
    check_server(
        &mesh,
        Hostile { versions: TLS12, ..show(db()) },
        expect!["tls_protocol: TLS handshake: received fatal alert: ProtocolVersion"],
    )
    .await;
    check_server(
        &mesh,
        Hostile { alpn: &[b"http/1.1"], ..show(db()) },
        expect!["tls_no_alpn: no application protocol in common"],
    )
    .await;
    check_server(&mesh, Hostile { alpn: &[], ..show(db()) }, expect!["tls_no_alpn: no application protocol in common"])
        .await;
}

#[tokio::test]
async fn garbage_and_silence_instead_of_a_handshake_end_it() {
    let mesh = Mesh::new();
    let domains = TrustDomains::only("cluster.local");
    for (bytes, reason) in
        [(&b"GET / HTTP/1.1\r\n\r\n"[..], "tls_protocol"), (&[0u8; 4096][..], "tls_protocol"), (b"", "tls_io")]
    {
        let (mut dialled, accepted) = sockets().await;
        dialled.write_all(bytes).await.unwrap();
        dialled.shutdown().await.unwrap();
        let error = tls::accept(accepted, &mesh.db, &domains, &[ALPN_H2], LONG).await.map(drop).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");

        let (dialled, mut accepted) = sockets().await;
        accepted.write_all(bytes).await.unwrap();
        accepted.shutdown().await.unwrap();
        let error = tls::connect(dialled, &mesh.web, &[id("db")], &[ALPN_H2], LONG).await.map(drop).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
    let (_silent, accepted) = sockets().await;
    let short = Duration::from_millis(50);
    let error = tls::accept(accepted, &mesh.db, &domains, &[ALPN_H2], short).await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "no handshake within 50ms");
}

#[tokio::test]
async fn any_of_the_expected_identities_and_aliased_trust_domains_are_met() {
    let mesh = Mesh::new();
    let (client, server) = handshake(&mesh.web, &mesh.db, &[id("other"), id("db")]).await;
    let client = client.unwrap();
    assert_eq!((client.peer(), client.alpn()), (&id("db"), ALPN_H2));
    assert_eq!(client.key_exchange(), Some("X25519MLKEM768"));
    drop(server);

    let old = mesh.ca.credentials(&SpiffeId::new("old.domain", "shop", "web").unwrap());
    let (dialled, accepted) = sockets().await;
    let domains = TrustDomains { own: "cluster.local".into(), aliases: vec!["old.domain".into()] };
    let expected = [id("db")];
    let (client, server) = tokio::join!(
        tls::connect(dialled, &old, &expected, &[ALPN_H2], LONG),
        tls::accept(accepted, &mesh.db, &domains, &[ALPN_H2], LONG)
    );
    client.unwrap();
    assert_eq!(server.unwrap().peer().trust_domain(), "old.domain");
}

/// One exchange, so that tickets arrive; yields whether the handshake was resumed, at both ends.
async fn exchange(web: &Credentials, db: &Credentials, expected: &[SpiffeId]) -> Result<(bool, bool), &'static str> {
    let (client, server) = handshake(web, db, expected).await;
    let client = client.map_err(|e| e.reason())?;
    let server = server.map_err(|e| e.reason())?;
    let resumed = (client.resumed(), server.resumed());
    let config = Config::default();
    let (connection, driver) = client::Connection::new(client, &config);
    let driver = tokio::spawn(driver);
    let server = serve(server::Connection::handshake(server, &config).await.unwrap(), echo);
    let (mut send, mut recv) = open(&connection).await;
    send.send(b"hi").await.unwrap();
    send.finish();
    assert_eq!(read_to_end(&mut recv).await.unwrap(), b"hi");
    drop((connection, send, recv));
    driver.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
    Ok(resumed)
}

#[tokio::test]
async fn resumption_never_outlives_its_credentials_nor_skips_the_identity() {
    let mesh = Mesh::new();
    let db = [id("db")];
    assert_eq!(exchange(&mesh.web, &mesh.db, &db).await, Ok((false, false)));
    assert_eq!(exchange(&mesh.web, &mesh.db, &db).await, Ok((true, true)));
    // The ticket at hand is db's; whoever expects another is told so.
    assert_eq!(exchange(&mesh.web, &mesh.db, &[id("other")]).await, Err("tls_wrong_identity"));
    assert_eq!(exchange(&mesh.web, &mesh.db, &db).await, Ok((false, false)));
    // A renewed certificate at either end starts anew.
    assert_eq!(exchange(&mesh.ca.credentials(&id("web")), &mesh.db, &db).await, Ok((false, false)));
    assert_eq!(exchange(&mesh.web, &mesh.ca.credentials(&id("db")), &db).await, Ok((false, false)));
    // Another root: db's old ticket does not open the door.
    let other = TestCa::new("other root");
    let distrusting = Credentials::new(mesh.db.svid().clone(), other.trust());
    assert_eq!(exchange(&mesh.web, &mesh.db, &db).await.map(drop), Ok(()));
    assert_eq!(exchange(&mesh.web, &distrusting, &db).await, Err("tls_unknown_issuer"));
}

#[tokio::test]
async fn bundles_with_both_roots_bridge_a_rotation() {
    let mesh = Mesh::new();
    let new = TestCa::new("new root");
    let both = format!("{}{}", mesh.ca.root_pem(), new.root_pem());
    let both = Arc::new(mesh_net::svid::TrustBundle::from_pem(&both).unwrap());
    let db = Credentials::new(new.issue(&id("db")), both.clone());
    let web = Credentials::new(mesh.ca.issue(&id("web")), both);
    assert_eq!(exchange(&web, &db, &[id("db")]).await, Ok((false, false)));
}
