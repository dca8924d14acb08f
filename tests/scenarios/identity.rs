//! Certificates: renewed under traffic, good until they expire, issued to the right node, and forgotten.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_core::identity::SpiffeId;
use mesh_net::ca::{CaClient, CaError, Config};
use mesh_net::grpc::Target;
use mesh_net::svid::{KeyPair, Svid};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::{self, Mesh, Setup};
use weft_tests::needs;
use weft_tests::objects;
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::{ask, prove};
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

/// `web` on node a and `db` on node b, whose certificates last [`LIFETIME`].
struct Shop {
    web: Pod,
    db: Pod,
    _echo: Program,
    mesh: Mesh,
}

impl Shop {
    fn open(name: &str) -> Result<Shop> {
        let setup = Setup::default().agent("SECRET_TTL", &LIFETIME.as_secs().to_string());
        let mesh = Mesh::with_setup(name, &["a", "b"], setup)?;
        mesh.namespace("shop", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("shop"), "b")?;
        let echo = apps::probe(&db, "echo", ECHO, &[])?;
        for pod in [&web, &db] {
            mesh.until_captured(pod)?;
        }
        Ok(Shop { web, db, _echo: echo, mesh })
    }

    /// Connections from web to db that live through what is to come.
    fn hold(&self) -> Result<Vec<TcpStream>> {
        let both = self.db.everywhere(ECHO);
        both.into_iter()
            .cycle()
            .take(10)
            .map(|to| {
                let stream = self.web.dial(to)?;
                prove(&stream)?;
                Ok(stream)
            })
            .collect()
    }

    /// Waits until both nodes have other certificates than `before`, while new connections and those of `held` must not
    /// fail once; yields how many were made.
    fn under_traffic(&self, held: &[TcpStream], before: &Serials) -> Result<usize> {
        let mut made = 0;
        let renewed = until("other certificates at both nodes", 2 * LIFETIME, || {
            for to in self.db.everywhere(ECHO) {
                let outcome = ask(&self.web, to);
                if outcome != Answered {
                    return Some(Err(anyhow::anyhow!("connection {made}, to {to}: {outcome:?}")));
                }
                made += 1;
            }
            for stream in held {
                if let Err(error) = prove(stream) {
                    return Some(Err(anyhow::Error::from(error).context("a connection that was held")));
                }
            }
            match self.serials() {
                Ok(now) => now.iter().all(|(who, serial)| before.get(who) != Some(serial)).then_some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        });
        renewed.and_then(|renewed| renewed)?;
        Ok(made)
    }

    /// The serial numbers of the certificates in use, by node and identity.
    fn serials(&self) -> Result<Serials> {
        let mut serials = Serials::new();
        for node in ["a", "b"] {
            for certificate in certificates(&self.mesh, node)? {
                let text = |field: &str| certificate[field].as_str().unwrap_or("none").to_owned();
                serials.insert((node.to_owned(), text("identity")), text("serial"));
            }
        }
        ensure!(serials.len() == 2, "{serials:?}");
        Ok(serials)
    }
}

type Serials = BTreeMap<(String, String), String>;

#[test]
fn certificates_are_renewed_under_traffic_without_a_lost_connection() -> Result<()> {
    needs!();
    let shop = Shop::open("renewed")?;
    let held = shop.hold()?;
    let mut made = 0;
    for _ in 0..3 {
        let before = shop.serials()?;
        made += shop.under_traffic(&held, &before)?;
    }
    println!("figure: three renewals at both nodes under {made} new and {} live connections, none lost", held.len());
    Ok(())
}

#[test]
fn a_certificate_holds_until_it_expires_while_the_authority_is_down() -> Result<()> {
    needs!();
    let mut shop = Shop::open("no_authority")?;
    let held = shop.hold()?;
    shop.mesh.controller.kill()?;
    let to = shop.db.everywhere(ECHO);
    let expired = |mesh: &Mesh, node: &str| -> Result<bool> {
        Ok(certificates(mesh, node)?.iter().all(|certificate| certificate["state"] == "expired"))
    };
    // Whatever is asked while every certificate is good is answered.
    let mut answered = 0;
    until("certificates that have expired at both nodes", 3 * LIFETIME, || {
        let outcomes = to.map(|to| ask(&shop.web, to));
        let gone = ["a", "b"].map(|node| expired(&shop.mesh, node));
        if gone.iter().all(|gone| matches!(gone, Ok(false))) {
            assert_eq!(outcomes, [Answered; 2], "before the certificates have expired");
            answered += 1;
        }
        gone.iter().all(|gone| matches!(gone, Ok(true))).then_some(())
    })?;
    ensure!(answered > 0, "nothing was asked in time");
    // Neither on a new tunnel nor on one that is up.
    for to in to {
        assert_eq!(ask(&shop.web, to), Reset, "{to} after the certificates have expired");
    }
    for stream in &held {
        prove(stream).context("a connection that was permitted lives on")?;
    }
    shop.mesh.agent("a").until_access(&["no_certificate", "expired"])?;
    for node in ["a", "b"] {
        let certificate = &certificates(&shop.mesh, node)?[0];
        ensure!(certificate["last_error"].as_str().is_some_and(|error| !error.is_empty()), "{certificate}");
        let metrics = shop.mesh.admin(node, "/metrics")?;
        ensure!(metrics.contains("weft_certificates{state=\"expired\"} 1"), "{metrics}");
    }
    shop.mesh.restart_controller()?;
    until("certificates again", 4 * LIFETIME, || {
        let good =
            |node| certificates(&shop.mesh, node).ok().map(|list| list.iter().all(|c| c["state"] == "available"));
        (good("a")? && good("b")?).then_some(())
    })?;
    for to in to {
        assert_eq!(ask(&shop.web, to), Answered, "{to} after the authority is back");
    }
    for stream in &held {
        prove(stream).context("a connection that was held through all of it")?;
    }
    Ok(())
}

/// The order of a rotation: everybody trusts the next root, then it signs, then nobody needs the old one.
#[test]
fn the_root_is_exchanged_without_a_lost_connection() -> Result<()> {
    needs!();
    let mut shop = Shop::open("rotated")?;
    let held = shop.hold()?;
    let dir = shop.mesh.world.run().dir().join("next-root");
    fs::create_dir_all(&dir)?;
    let (cert, key, both) = (dir.join("cert.pem"), dir.join("key.pem"), dir.join("both.pem"));
    next_root(&cert, &key)?;
    let old = fs::read_to_string(shop.mesh.world.wire().dir().join("ctrl/ca-cert.pem"))?;
    fs::write(&both, fs::read_to_string(&cert)? + &old)?;
    let [cert, key, both] = [&cert, &key, &both].map(|path| path.display().to_string());
    let plugged_in = ["--ca-cert", &cert, "--ca-key", &key, "--root-cert"];
    let steps = [
        ("the next root is trusted", vec!["--root-cert", &cert]),
        ("the next root signs", [&plugged_in[..], &[&both]].concat()),
        ("the old root is gone", [&plugged_in[..], &[&cert]].concat()),
    ];
    let old_fingerprint = fingerprint(&shop.mesh, "a")?;
    for (what, arguments) in &steps {
        // Certificates that were asked for before the restart are not of this step.
        shop.mesh.controller.terminate()?;
        let before = shop.serials()?;
        shop.mesh.setup.controller = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        shop.mesh.restart_controller()?;
        shop.under_traffic(&held, &before).with_context(|| (*what).to_owned())?;
    }
    ensure!(fingerprint(&shop.mesh, "a")? != old_fingerprint, "the roots that agents trust did not change");
    // Made by the next root, and so are the connections of now.
    let before = shop.serials()?;
    shop.under_traffic(&held, &before).context("afterwards")?;
    Ok(())
}

#[test]
fn a_node_gets_certificates_for_its_own_pods_only() -> Result<()> {
    needs!();
    let shop = Shop::open("residents")?;
    let mesh = &shop.mesh;
    let sign = |token: Option<&str>, identity: &str| sign(mesh, token, identity);
    let (web, db) = (shop.web.identity("cluster.local"), shop.db.identity("cluster.local"));
    let (a, b) = (mesh::token("a"), mesh::token("b"));
    for (token, own) in [(&a, &web), (&b, &db)] {
        let svid = sign(Some(token), own)?.context("the control: a pod of the node itself")?;
        assert_eq!(svid.identity.uri(), own);
    }
    for (what, token, identity) in [
        ("a pod of another node", Some(&*b), &*web),
        ("a pod of another node", Some(&*a), &*db),
        ("a pod that is nowhere", Some(&*a), "spiffe://cluster.local/ns/shop/sa/nobody"),
        ("a pod of another namespace", Some(&*a), "spiffe://cluster.local/ns/prod/sa/web"),
        ("a pod of another trust domain", Some(&*a), "spiffe://evil.example/ns/shop/sa/web"),
    ] {
        match sign(token, identity)? {
            Err(CaError::Denied { .. }) => {}
            other => bail!("{what}: {other:?}"),
        }
    }
    let nearly = format!("{a}x");
    for (what, token) in [
        ("another token", Some("some-token-that-nobody-has-given-out")),
        ("nearly the token", Some(&*nearly)),
        ("no token", None),
    ] {
        match sign(token, &web)? {
            Err(CaError::Unauthenticated { .. }) => {}
            other => bail!("{what}: {other:?}"),
        }
    }
    let seen: Value = serde_json::from_str(&mesh.controller_admin("/debug/certificates")?)?;
    ensure!(seen["nodes"]["b"]["refused"] == 1 && seen["nodes"]["a"]["refused"] == 4, "{seen}");
    Ok(())
}

/// A host's process group that no Pod object describes.
#[test]
fn a_workload_entry_alone_makes_a_process_group_a_member_of_the_mesh() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("entry", &["a", "b"])?;
    mesh.namespace("shop", true)?;
    let web = mesh.enrolled(mesh.pod("web").namespace("shop"), "a")?;
    let vm = mesh.pod("vm").namespace("shop").on(mesh.world.node("b"))?;
    let _echoes = [apps::probe(&web, "echo", ECHO, &[])?, apps::probe(&vm, "echo", ECHO, &[])?];
    mesh.apply("entry", &objects::workload_entry(&vm, "no node"))?;
    until("the mistake to be told", PATIENCE, || {
        let findings = mesh.controller_admin("/debug/findings").ok()?;
        ["\"vm\"", "weft.io/node"].iter().all(|word| findings.contains(word)).then_some(())
    })?;
    mesh.apply("entry", &objects::workload_entry(&vm, "b"))?;
    mesh.settle()?;
    mesh.enrol(&vm)?;
    for pod in [&web, &vm] {
        mesh.until_captured(pod)?;
    }
    // Under STRICT, so that neither way is plain.
    mesh.apply("peers", &objects::peer_authentication("shop", "STRICT"))?;
    mesh.settle()?;
    let own = vm.identity("cluster.local");
    for (client, server) in [(&web, &vm), (&vm, &web)] {
        // An entry has one address.
        assert_eq!(ask(client, server.at(ECHO)), Answered, "from {}", client.name);
        let (from, to) = (client.identity("cluster.local"), server.identity("cluster.local"));
        for node in ["a", "b"] {
            mesh.agent(node).until_access(&[&from, &to, "mutual_tls", "\"complete\""])?;
        }
    }
    assert_eq!(ask(mesh.world.outside(), vm.at(ECHO)), Reset);
    ensure!(certificates(&mesh, "b")?.iter().any(|certificate| certificate["identity"] == *own));
    let [ours, others] = ["b", "a"].map(|node| sign(&mesh, Some(&mesh::token(node)), &own));
    assert_eq!(ours?.context("the control: the node that the entry names")?.identity.uri(), own);
    match others? {
        Err(CaError::Denied { .. }) => Ok(()),
        other => bail!("another node's agent: {other:?}"),
    }
}

#[test]
fn an_identity_is_forgotten_with_its_last_pod() -> Result<()> {
    needs!();
    let mesh = Mesh::with_nodes("forgotten", &["a"])?;
    mesh.namespace("shop", true)?;
    let pod = |name: &str, account: &str| {
        let pod = mesh.enrolled(mesh.pod(name).namespace("shop").service_account(account), "a")?;
        mesh.until_captured(&pod)?;
        anyhow::Ok(pod)
    };
    let (first, second, other) = (pod("first", "shared")?, pod("second", "shared")?, pod("other", "other")?);
    let kept = |account: &str| -> Result<bool> {
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        Ok(certificates(&mesh, "a")?.iter().any(|certificate| certificate["identity"] == *identity))
    };
    ensure!(kept("shared")? && kept("other")?);
    mesh.withdraw(&first)?;
    mesh.until_config("a", "one pod less", |config| !config["pods"].to_string().contains("\"first\""))?;
    // The other pod of the identity still speaks for it, however long one waits: it is asked again below.
    ensure!(kept("shared")?, "forgotten while a pod has it");
    mesh.withdraw(&second)?;
    let begun = std::time::Instant::now();
    until("the identity forgotten", Duration::from_secs(40), || {
        kept("shared").ok().and_then(|kept| (!kept).then_some(()))
    })?;
    println!("figure: an identity is forgotten {:?} after its last pod has left", begun.elapsed());
    ensure!(kept("other")?, "the control: the identity of a pod that is there");
    drop(other);
    Ok(())
}

#[test]
fn no_agent_ever_writes_a_private_key() -> Result<()> {
    needs!();
    let shop = Shop::open("no_keys")?;
    let before = shop.serials()?;
    shop.under_traffic(&shop.hold()?, &before)?;
    let mesh = &shop.mesh;
    for node in ["a", "b"] {
        let place = mesh.world.node(node);
        for dir in [place.dir(), mesh.agent(node).run_dir()] {
            let found = with_a_key(dir)?;
            ensure!(found.is_empty(), "{found:?}");
        }
        ensure!(!mesh.agent(node).program.log().contains("PRIVATE KEY"), "in the log of {node}");
        ensure!(!mesh.admin(node, "/config")?.contains("PRIVATE KEY"), "in what {node} shows");
    }
    // The control: the authority's own is on its disk, for nobody else to read, and this is how it is found.
    let state = mesh.world.wire().dir().join("ctrl");
    assert_eq!(with_a_key(&state)?, [state.join("ca-key.pem")]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(state.join("ca-key.pem"))?.permissions());
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}

/// What the authority answers a caller with `token` who asks for `identity`.
fn sign(mesh: &Mesh, token: Option<&str>, identity: &str) -> Result<Result<Svid, CaError>> {
    let file = mesh.world.wire().dir().join("asked-with");
    fs::write(&file, token.unwrap_or_default())?;
    let [controller, _] = mesh.world.controller_ips();
    let target = Target {
        address: format!("{controller}:{}", mesh::CONTROL),
        server_name: None,
        roots: mesh.world.wire().dir().join("ctrl/root-cert.pem"),
        token: token.map(|_| file),
    };
    let identity: SpiffeId = identity.parse()?;
    mesh.world.wire().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = CaClient::new(Config::new(target, "Kubernetes"))?;
            let pair = KeyPair::generate()?;
            match client.sign(pair.csr_pem(&identity)?, &identity, Duration::from_secs(60)).await {
                Ok(chain) => Ok(Ok(Svid::from_pem(chain.first().context("a chain")?, &pair)?)),
                Err(error) => Ok(Err(error)),
            }
        })
    })
}

fn certificates(mesh: &Mesh, node: &str) -> Result<Vec<Value>> {
    let config: Value = serde_json::from_str(&mesh.admin(node, "/config")?)?;
    let list = config["certificates"].as_array().context("a list of certificates")?.clone();
    ensure!(!list.is_empty(), "node {node} has no certificate");
    Ok(list)
}

/// Which roots the agent of `node` trusts, by its log.
fn fingerprint(mesh: &Mesh, node: &str) -> Result<String> {
    let log = mesh.agent(node).program.log();
    let line = log.lines().rev().find(|line| line.contains("trust bundle changed")).context("no trust bundle")?;
    let line: Value = serde_json::from_str(line)?;
    let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
    Ok(fields["fingerprint"].as_str().context("a fingerprint")?.to_owned())
}

fn next_root(cert: &Path, key: &Path) -> Result<()> {
    let pair = rcgen::KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "the next root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(cert, params.self_signed(&pair)?.pem())?;
    fs::write(key, pair.serialize_pem())?;
    fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}

/// Files below `dir` that hold a private key.
fn with_a_key(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            found.extend(with_a_key(&path)?);
        } else if kind.is_ok_and(|kind| kind.is_file()) {
            let bytes = fs::read(&path)?;
            if bytes.windows(11).any(|window| window == b"PRIVATE KEY") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

const LIFETIME: Duration = Duration::from_secs(12);
const ECHO: u16 = 7000;
