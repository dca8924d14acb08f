//! AuthorizationPolicy at L4, field by field: each with somebody whom it lets in and somebody whom it keeps out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::apps;
use weft_tests::mesh::Mesh;
use weft_tests::needs;
use weft_tests::objects::security;
use weft_tests::outcome::Outcome::{Answered, Reset};
use weft_tests::outcome::{ask, prove};
use weft_tests::place::Place;
use weft_tests::pod::Pod;
use weft_tests::program::Program;
use weft_tests::wait::{PATIENCE, until};

/// `db` in `prod` on node b; `web` in `prod` and `shell` in `dev` on node a, all enrolled; and the outside.
struct World {
    web: Pod,
    shell: Pod,
    db: Pod,
    _echoes: [Program; 2],
    mesh: Mesh,
}

impl World {
    fn open(name: &str) -> Result<World> {
        let mesh = Mesh::with_nodes(name, &["a", "b"])?;
        mesh.namespace("prod", true)?;
        mesh.namespace("dev", true)?;
        let web = mesh.enrolled(mesh.pod("web").namespace("prod").service_account("front"), "a")?;
        let shell = mesh.enrolled(mesh.pod("shell").namespace("dev").service_account("ops"), "a")?;
        let db = mesh.enrolled(mesh.pod("db").namespace("prod"), "b")?;
        let echoes = [apps::probe(&db, "echo", ECHO, &[])?, apps::probe(&db, "echo", OTHER, &[])?];
        for pod in [&web, &shell, &db] {
            mesh.until_captured(pod)?;
        }
        Ok(World { web, shell, db, _echoes: echoes, mesh })
    }

    /// Puts `yaml` in force alone.
    fn policy(&self, yaml: &str) -> Result<()> {
        self.mesh.apply("policy", yaml)?;
        self.mesh.settle()
    }

    /// Who gets in: by whom, IP family, and port where it is not [`ECHO`].
    fn inside(&self) -> String {
        let callers: [(&str, &Place); 3] =
            [("web", &self.web), ("shell", &self.shell), ("out", self.mesh.world.outside())];
        let mut inside = Vec::new();
        for (name, place) in callers {
            for (to, mark) in [(self.db.at(ECHO), "4"), (self.db.at6(ECHO), "6"), (self.db.at(OTHER), "/other")] {
                match ask(place, to) {
                    Answered => inside.push(format!("{name}{mark}")),
                    Reset => {}
                    other => panic!("{name} to {to}: {other:?}"),
                }
            }
        }
        inside.join(" ")
    }
}

/// Everybody, by every way.
const ALL: &str = "web4 web6 web/other shell4 shell6 shell/other out4 out6 out/other";
const WEB: &str = "web4 web6 web/other";
const SHELL: &str = "shell4 shell6 shell/other";
const OUT: &str = "out4 out6 out/other";
const MESH: &str = "web4 web6 web/other shell4 shell6 shell/other";

fn authorization(name: &str, spec: &str) -> String {
    security("AuthorizationPolicy", "prod", name, spec)
}

#[test]
fn every_field_lets_in_whom_it_names_and_nobody_else() -> Result<()> {
    needs!();
    let world = World::open("fields")?;
    assert_eq!(world.inside(), ALL, "without a policy");
    let web4 = world.web.v4;
    let shell6 = world.shell.v6;
    let db6 = world.db.v6;
    // An ALLOW with the one rule, and who comes in by it; a DENY with the same rule keeps out exactly those.
    let cases = [
        ("from: [{source: {principals: [cluster.local/ns/prod/sa/front]}}]".to_owned(), WEB),
        ("from: [{source: {principals: [\"cluster.local/ns/dev/*\"]}}]".to_owned(), SHELL),
        ("from: [{source: {principals: [\"*/sa/front\"]}}]".to_owned(), WEB),
        ("from: [{source: {principals: [\"*\"]}}]".to_owned(), MESH),
        ("from: [{source: {notPrincipals: [cluster.local/ns/prod/sa/front]}}]".to_owned(), "shell4 shell6 shell/other out4 out6 out/other"),
        ("from: [{source: {notPrincipals: [\"*\"]}}]".to_owned(), OUT),
        ("from: [{source: {namespaces: [dev]}}]".to_owned(), SHELL),
        ("from: [{source: {namespaces: [\"pr*\"]}}]".to_owned(), WEB),
        ("from: [{source: {notNamespaces: [dev]}}]".to_owned(), "web4 web6 web/other out4 out6 out/other"),
        ("from: [{source: {serviceAccounts: [front]}}]".to_owned(), WEB),
        ("from: [{source: {serviceAccounts: [dev/ops]}}]".to_owned(), SHELL),
        ("from: [{source: {notServiceAccounts: [dev/ops]}}]".to_owned(), "web4 web6 web/other out4 out6 out/other"),
        (format!("from: [{{source: {{ipBlocks: [{web4}]}}}}]"), "web4 web/other"),
        ("from: [{source: {ipBlocks: [10.42.0.0/16, \"fd31::/16\"]}}]".to_owned(), "web4 web/other shell4 shell/other out6"),
        (format!("from: [{{source: {{notIpBlocks: [{web4}/32, \"fd42::/16\"]}}}}]"), "shell4 shell/other out4 out6 out/other"),
        (format!("from: [{{source: {{remoteIpBlocks: [\"{shell6}\"]}}}}]"), "shell6"),
        ("from: [{source: {notRemoteIpBlocks: [172.31.0.0/16, \"::/0\"]}}]".to_owned(), "web4 web/other shell4 shell/other"),
        ("to: [{operation: {ports: [\"7001\"]}}]".to_owned(), "web/other shell/other out/other"),
        ("to: [{operation: {notPorts: [\"7001\"]}}]".to_owned(), "web4 web6 shell4 shell6 out4 out6"),
        ("when: [{key: source.ip, values: [10.42.0.0/16]}]".to_owned(), "web4 web/other shell4 shell/other"),
        ("when: [{key: source.ip, notValues: [10.42.0.0/16]}]".to_owned(), "web6 shell6 out4 out6 out/other"),
        ("when: [{key: remote.ip, values: [172.31.0.77]}]".to_owned(), "out4 out/other"),
        ("when: [{key: source.namespace, values: [prod]}]".to_owned(), WEB),
        ("when: [{key: source.namespace, notValues: [prod]}]".to_owned(), "shell4 shell6 shell/other out4 out6 out/other"),
        ("when: [{key: source.principal, values: [\"*/sa/ops\"]}]".to_owned(), SHELL),
        ("when: [{key: source.principal, notValues: [\"*/sa/ops\"]}]".to_owned(), "web4 web6 web/other out4 out6 out/other"),
        ("when: [{key: source.serviceAccount, values: [prod/front]}]".to_owned(), WEB),
        (format!("when: [{{key: destination.ip, values: [\"{db6}\"]}}]"), "web6 shell6 out6"),
        (format!("when: [{{key: destination.ip, notValues: [\"{db6}\"]}}]"), "web4 web/other shell4 shell/other out4 out/other"),
        ("when: [{key: destination.port, values: [\"7001\"]}]".to_owned(), "web/other shell/other out/other"),
        ("when: [{key: destination.port, notValues: [\"7001\"]}]".to_owned(), "web4 web6 shell4 shell6 out4 out6"),
        // Fields of a source are ANDed, sources and values ORed, from, to and when ANDed.
        (format!("from: [{{source: {{namespaces: [prod, dev], ipBlocks: [{web4}]}}}}]"), "web4 web/other"),
        ("from: [{source: {namespaces: [prod]}}, {source: {ipBlocks: [172.31.0.77]}}]".to_owned(), "web4 web6 web/other out4 out/other"),
        ("from: [{source: {namespaces: [prod]}}], to: [{operation: {ports: [\"7001\"]}}], when: [{key: source.ip, values: [0.0.0.0/0]}]".to_owned(), "web/other"),
    ];
    let mut wrong = Vec::new();
    for (number, (rule, inside)) in cases.iter().enumerate() {
        let complement: Vec<&str> = ALL.split(' ').filter(|way| !inside.split(' ').any(|i| i == *way)).collect();
        for (action, expected) in [("ALLOW", (*inside).to_owned()), ("DENY", complement.join(" "))] {
            ensure!(!expected.is_empty() && expected != ALL, "{rule}: nobody to tell apart");
            world.policy(&authorization(
                &format!("case-{number}"),
                &format!("{{action: {action}, rules: [{{{rule}}}]}}"),
            ))?;
            let seen = world.inside();
            if seen != expected {
                wrong.push(format!("{action} {rule}\n  expected: {expected}\n  seen:     {seen}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len() * 2, wrong.join("\n"));
    Ok(())
}

#[test]
fn deny_beats_allow_an_allow_denies_the_rest_and_an_empty_one_all() -> Result<()> {
    needs!();
    let world = World::open("verdicts")?;
    let check = |what: &str, policies: &[(&str, &str)], expected: &str| -> Result<()> {
        let yaml: Vec<String> = policies.iter().map(|(name, spec)| authorization(name, spec)).collect();
        world.policy(&yaml.join("---\n"))?;
        assert_eq!(world.inside(), expected, "{what}");
        Ok(())
    };
    let web = "{action: ALLOW, rules: [{from: [{source: {namespaces: [prod]}}]}]}";
    let shell = "{action: ALLOW, rules: [{from: [{source: {namespaces: [dev]}}]}]}";
    check("no policy", &[], ALL)?;
    check("an ALLOW denies the rest", &[("web", web)], WEB)?;
    world.mesh.agent("b").until_access(&["no_allow_matched", &world.shell.identity("cluster.local")])?;
    world.mesh.agent("b").until_access(&["\"policy\":\"prod/web\"", "\"reason\":\"complete\""])?;
    check("two ALLOWs", &[("web", web), ("shell", shell)], MESH)?;
    check(
        "DENY beats ALLOW",
        &[("web", web), ("shell", shell), ("no", "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}")],
        WEB,
    )?;
    world.mesh.agent("b").until_access(&[
        "policy_denied",
        "\"policy\":\"prod/no\"",
        &world.shell.identity("cluster.local"),
    ])?;
    check("an ALLOW of nothing", &[("none", "{}")], "")?;
    check("an ALLOW of everything", &[("every", "{rules: [{}]}")], ALL)?;
    check("a DENY of nothing", &[("none", "{action: DENY}")], ALL)?;
    check("a DENY of everything", &[("every", "{action: DENY, rules: [{}]}")], "")?;
    check(
        "for another workload",
        &[("other", "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]}")],
        ALL,
    )?;
    check("for this workload", &[("db", "{selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]}")], "")?;
    // The same policy in the root namespace is for all, in a third namespace for nobody here.
    world.policy(&security(
        "AuthorizationPolicy",
        "istio-system",
        "mesh",
        "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}",
    ))?;
    assert_eq!(world.inside(), "web4 web6 web/other out4 out6 out/other", "for the mesh");
    world.policy(&security("AuthorizationPolicy", "dev", "there", "{action: DENY, rules: [{}]}"))?;
    assert_eq!(world.inside(), ALL, "for another namespace");
    Ok(())
}

#[test]
fn audit_and_dry_run_are_recorded_and_change_no_verdict() -> Result<()> {
    needs!();
    let world = World::open("recorded")?;
    let recorded = |kind: &str, policy: &str| -> Result<u64> {
        let metrics = world.mesh.admin("b", "/metrics")?;
        let series = format!("weft_policy_recorded_total{{kind=\"{kind}\",policy=\"{policy}\"}} ");
        Ok(metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0))
    };
    let of_shell = "[{from: [{source: {namespaces: [dev]}}]}]";
    world.policy(&authorization("watch", &format!("{{action: AUDIT, rules: {of_shell}}}")))?;
    assert_eq!(world.inside(), ALL, "AUDIT changes nothing");
    assert_eq!(recorded("audit", "prod/watch")?, 3, "three connections of the shell, and none of the others");
    world.mesh.agent("b").until_audit(&["audited", "prod/watch", &world.shell.identity("cluster.local")])?;

    let dry = |name: &str, spec: &str| {
        authorization(name, spec).replacen("metadata:\n", "metadata:\n  annotations: {istio.io/dry-run: \"true\"}\n", 1)
    };
    world.policy(&dry("trial", &format!("{{action: DENY, rules: {of_shell}}}")))?;
    assert_eq!(world.inside(), ALL, "a DENY on trial changes nothing");
    assert_eq!(recorded("dry_run_deny", "prod/trial")?, 3);
    world.mesh.agent("b").until_audit(&["would be denied by prod/trial", &world.shell.identity("cluster.local")])?;
    // The control: the same without the annotation.
    world.policy(&authorization("trial", &format!("{{action: DENY, rules: {of_shell}}}")))?;
    assert_eq!(world.inside(), "web4 web6 web/other out4 out6 out/other");
    assert_eq!(recorded("dry_run_deny", "prod/trial")?, 3, "in force it is no trial");

    world.policy(&dry("open", &format!("{{action: ALLOW, rules: {of_shell}}}")))?;
    assert_eq!(world.inside(), ALL, "an ALLOW on trial denies nobody");
    assert_eq!(recorded("dry_run_deny", "none")?, 6, "and says whom it would: six of the others");
    Ok(())
}

#[test]
fn what_only_l7_knows_never_widens_and_is_reported() -> Result<()> {
    needs!();
    let world = World::open("l7")?;
    let check = |spec: &str, expected: &str, field: &str| -> Result<()> {
        world.policy(&authorization("l7", spec))?;
        assert_eq!(world.inside(), expected, "{spec}");
        let findings = world.mesh.controller_admin("/debug/findings")?;
        let list: Value = serde_json::from_str(&findings)?;
        let named = list.as_array().context("a list")?.iter().any(|finding| {
            finding["code"] == "fails_closed"
                && finding["field"] == *field
                && finding["object"].to_string().contains("l7")
        });
        ensure!(named, "{spec}: {findings}");
        Ok(())
    };
    check(
        "{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}",
        "",
        "spec.rules[0].to[0].operation.methods",
    )?;
    check(
        "{action: ALLOW, rules: [{to: [{operation: {hosts: [db]}}]}, {from: [{source: {namespaces: [prod]}}]}]}",
        WEB,
        "spec.rules[0].to[0].operation.hosts",
    )?;
    check(
        "{action: ALLOW, rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]}",
        "",
        "spec.rules[0].from[0].source.requestPrincipals",
    )?;
    check(
        "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}], to: [{operation: {paths: [/admin]}}]}]}",
        "web4 web6 web/other out4 out6 out/other",
        "spec.rules[0].to[0].operation.paths",
    )?;
    check(
        "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
        "",
        "spec.rules[0].to[0].operation.paths",
    )?;
    check(
        "{action: DENY, rules: [{when: [{key: \"request.headers[x]\", values: [y]}]}]}",
        "",
        "spec.rules[0].when[0].key request.headers[x]",
    )?;
    check(
        "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
        "",
        "spec.action",
    )?;
    world.policy("")?;
    assert_eq!(world.inside(), ALL, "the control: all of it gone");
    Ok(())
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_policy() -> Result<()> {
    needs!();
    let world = World::open("syntax")?;
    let deny = authorization("no", "{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}]}]}");
    let denied = "web4 web6 web/other out4 out6 out/other";
    world.policy(&deny)?;
    assert_eq!(world.inside(), denied);
    let finding = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        let mut last = String::new();
        let found = until(what, PATIENCE, || {
            last = world.mesh.controller_admin("/debug/findings").ok()?;
            let list: Value = serde_json::from_str(&last).ok()?;
            list.as_array()?.iter().find(|finding| holds(finding)).cloned()
        });
        found.with_context(|| last)
    };
    // Line 6 ends in the middle of a list.
    world.policy("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: no\n  namespace: prod\nspec: {rules: [\n")?;
    finding("a syntax error with file and line", &|f| {
        f["code"] == "syntax"
            && f["file"].as_str().is_some_and(|file| file.ends_with("policy.yaml"))
            && f["line"].as_u64() >= Some(6)
    })?;
    assert_eq!(world.inside(), denied, "no YAML");
    // A field that does not exist: good YAML, no policy.
    world.policy(&deny.replace("namespaces", "nmaespaces"))?;
    finding("a refused object with file, line and field", &|f| {
        f["code"] == "refused"
            && f["file"].as_str().is_some_and(|file| file.ends_with("policy.yaml"))
            && f["line"].as_u64().is_some()
            && f.to_string().contains("nmaespaces")
    })?;
    assert_eq!(world.inside(), denied, "a misspelt field");
    // The control: once it is good again, the edit counts, and nothing is reported any more.
    world.policy(&authorization("no", "{action: DENY, rules: [{from: [{source: {namespaces: [prod]}}]}]}"))?;
    assert_eq!(world.inside(), "shell4 shell6 shell/other out4 out6 out/other");
    let findings = world.mesh.controller_admin("/debug/findings")?;
    ensure!(!findings.contains("policy.yaml"), "{findings}");
    Ok(())
}

/// From the file's replacement to the moment at which live connections at both nodes have been ended by it: the edit is in
/// force everywhere, and has done its work.
#[test]
fn an_edit_is_in_force_everywhere_within_a_tenth_of_a_second() -> Result<()> {
    needs!();
    let world = World::open("edit")?;
    let _echo = apps::probe(&world.web, "echo", ECHO, &[])?;
    let outside = world.mesh.world.outside();
    let to: [SocketAddr; 2] = [world.db.at(ECHO), world.web.at(ECHO)];
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let live = to.map(|to| outside.dial(to).and_then(|stream| prove(&stream).map(|()| stream)));
        let name = format!("edit-{round}");
        let deny = security("AuthorizationPolicy", "prod", &name, "{action: DENY, rules: [{}]}");
        let mut watched = Vec::new();
        for stream in live {
            let stream = stream.context("a connection before the edit")?;
            stream.set_read_timeout(Some(PATIENCE))?;
            watched.push(std::thread::spawn(move || {
                use std::io::Read;
                let ended = (&stream).read(&mut [0; 1]);
                (Instant::now(), ended)
            }));
        }
        let written = Instant::now();
        world.mesh.apply("policy", &deny)?;
        let mut last = Duration::ZERO;
        for thread in watched {
            let (at, ended) = thread.join().expect("it only reads");
            let error = ended.err().context("an end instead of a reset")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "round {round}: {error}");
            last = last.max(at - written);
        }
        took.push(last);
        world.mesh.apply("policy", "")?;
        world.mesh.settle()?;
    }
    took.sort();
    let [p50, p99] = [took.len() / 2, took.len() * 99 / 100].map(|at| took[at]);
    println!(
        "figure: an edit is in force at both agents after {p50:?} (p50), {p99:?} (p99), {:?} (worst of {ROUNDS})",
        took[took.len() - 1]
    );
    ensure!(p50 < Duration::from_millis(100), "{took:?}");
    ensure!(p99 < Duration::from_secs(1), "{took:?}");
    Ok(())
}

const ROUNDS: usize = 60;
const ECHO: u16 = 7000;
const OTHER: u16 = 7001;
