//! Objects as YAML to resources as text.

mod endpoints;
mod enrolment;
mod incremental;
mod layer7;
mod policies;
mod serviceentries;
mod traffic;
mod waypoints;
mod workloads;

use std::collections::BTreeMap;
use std::fmt::Write;

use expect_test::Expect;
use mesh_core::policy::{Action, Match, Scope as PolicyScope, StringMatch};
use mesh_core::service::{LoadBalancing, Service};
use mesh_core::workload::{Health, Tunnel, Workload};

use super::*;
use crate::source::manifest;

/// What an index has published, by name.
#[derive(Default)]
struct Published {
    addresses: BTreeMap<Arc<str>, Address>,
    policies: BTreeMap<Arc<str>, Policy>,
    layer7: BTreeMap<Arc<str>, Layer7>,
}

impl Published {
    fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.resource {
                Resource::Address(Some(address)) => drop(self.addresses.insert(change.name, address)),
                Resource::Address(None) => drop(self.addresses.remove(&change.name).expect("only what was there goes")),
                Resource::Authorization(Some(policy)) => drop(self.policies.insert(change.name, policy)),
                Resource::Authorization(None) => {
                    drop(self.policies.remove(&change.name).expect("only what was there goes"));
                }
                Resource::Layer7(Some(model)) => drop(self.layer7.insert(change.name, model)),
                Resource::Layer7(None) => drop(self.layer7.remove(&change.name).expect("only what was there goes")),
            }
        }
    }
}

fn config() -> Config {
    Config { cluster_id: "c1".into(), network: "n1".into(), ..Config::default() }
}

fn built(yaml: &str) -> (Index, Published) {
    let mut index = Index::new(config());
    let mut published = Published::default();
    published.take(index.apply(manifest("t.yaml", yaml)));
    (index, published)
}

/// Compares all that `yaml` comes to, findings included, the always-present strict policy left out.
fn check(yaml: &str, expect: Expect) {
    let (index, published) = built(yaml);
    expect.assert_eq(&text(&index, &published));
}

fn text(index: &Index, published: &Published) -> String {
    let mut out = String::new();
    for address in published.addresses.values() {
        match address {
            Address::Workload(w) => workload(&mut out, w),
            Address::Service(s) => service(&mut out, s),
        }
    }
    for policy in published.policies.values().filter(|p| &*p.key.name != "istio_converted_static_strict") {
        out.push_str(&policy_text(policy));
    }
    for finding in index.findings() {
        writeln!(out, "! {finding}").unwrap();
    }
    out
}

fn workload(out: &mut String, w: &Workload) {
    write!(out, "{}", w.uid).unwrap();
    let mut say = |name: &str, value: String, default: &str| {
        if value != default {
            let space = if name.is_empty() { "" } else { "=" };
            write!(out, " {name}{space}{value}").unwrap();
        }
    };
    say("ip", w.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), "");
    say("host", w.hostname.to_string(), "");
    say("network", w.network.to_string(), "n1");
    say("", if w.tunnel == Tunnel::Hbone { "hbone" } else { "" }.into(), "");
    say("sa", w.identity.service_account().into(), "default");
    say("node", w.node.to_string(), "");
    let kind = format!("{}/{}", w.kind.as_str(), w.workload_name);
    say("as", kind, &format!("pod/{}", w.name));
    say("canonical", format!("{}@{}", w.canonical_name, w.canonical_revision), &format!("{}@latest", w.workload_name));
    say("policies", w.policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), "");
    say("", if w.health == Health::Unhealthy { "unhealthy" } else { "" }.into(), "");
    say("", if w.host_network { "host-network" } else { "" }.into(), "");
    say("capacity", w.capacity.to_string(), "1");
    say("at", format!("{}/{}/{}", w.locality.region, w.locality.zone, w.locality.subzone), "//");
    let plain = &w.plaintext;
    match (plain.all, plain.ports.is_empty()) {
        (true, _) => say("plaintext", format!("all except {:?}", plain.except), ""),
        (false, false) => say("plaintext", format!("{:?}", plain.ports), ""),
        (false, true) => {}
    }
    say("waypoint", gateway(&w.waypoint), "");
    say("", if w.native_tunnel { "native-tunnel" } else { "" }.into(), "");
    say("", if w.encrypt_always { "encrypt-always" } else { "" }.into(), "");
    out.push('\n');
    for (key, ports) in &w.services {
        let ports: Vec<String> = ports.iter().map(|p| format!("{}->{}", p.service_port, p.target_port)).collect();
        writeln!(out, "  in {key} {}", ports.join(" ")).unwrap();
    }
}

fn gateway(address: &Option<mesh_core::workload::GatewayAddress>) -> String {
    use mesh_core::workload::GatewayDestination;
    match address {
        None => String::new(),
        Some(address) => match &address.destination {
            GatewayDestination::Hostname(key) => format!("{key}:{}", address.hbone_port),
            GatewayDestination::Address(address) => panic!("{address}"),
        },
    }
}

fn service(out: &mut String, s: &Service) {
    let addresses: Vec<String> = s.addresses.iter().map(ToString::to_string).collect();
    let port = |p: &mesh_core::workload::Port| match p.app_protocol {
        0 => format!("{}->{}", p.service_port, p.target_port),
        app => format!("{}->{}(app {app})", p.service_port, p.target_port),
    };
    let ports: Vec<String> = s.ports.iter().map(port).collect();
    write!(out, "{} [{}]", s.key, addresses.join(" ")).unwrap();
    ports.iter().for_each(|port| write!(out, " {port}").unwrap());
    if s.load_balancing != LoadBalancing::default() {
        let lb = &s.load_balancing;
        write!(out, " {:?}{:?}", lb.mode, lb.routing_preference).unwrap();
        if lb.allow_unhealthy {
            out.push_str(" allow-unhealthy");
        }
    }
    if s.ip_families != mesh_core::service::IpFamilies::Automatic {
        write!(out, " {:?}", s.ip_families).unwrap();
    }
    if !s.subject_alt_names.is_empty() {
        write!(out, " sans={}", s.subject_alt_names.join(",")).unwrap();
    }
    if s.waypoint.is_some() {
        write!(out, " waypoint={}", gateway(&s.waypoint)).unwrap();
    }
    out.push_str(if s.canonical { "\n" } else { " not-canonical\n" });
    for (namespace, rule) in &s.traffic.rules {
        let whose = if namespace.is_empty() { "others" } else { namespace };
        writeln!(out, "  for {whose}: {:?}", rule.general).unwrap();
        for (port, policy) in &rule.ports {
            writeln!(out, "  for {whose} at {port}: {policy:?}").unwrap();
        }
    }
}

fn policy_text(p: &Policy) -> String {
    let scope = match p.scope {
        PolicyScope::Global => "global",
        PolicyScope::Namespace => "namespace",
        PolicyScope::WorkloadSelector => "selector",
    };
    let action = match p.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
    };
    let dry = if p.dry_run { " dry-run" } else { "" };
    let mut out = format!("{} {scope} {action}{dry}\n", p.key);
    for rule in &p.rules {
        let clauses: Vec<String> =
            rule.clauses.iter().map(|c| c.matches.iter().map(match_text).collect::<Vec<_>>().join(" or ")).collect();
        writeln!(out, "  if {}", if clauses.is_empty() { "anything".to_owned() } else { clauses.join(" AND ") })
            .unwrap();
    }
    out
}

fn match_text(m: &Match) -> String {
    let strings = |values: &[StringMatch]| {
        let one = |v: &StringMatch| match v {
            StringMatch::Exact(v) => v.to_string(),
            StringMatch::Prefix(v) => format!("{v}*"),
            StringMatch::Suffix(v) => format!("*{v}"),
            StringMatch::Presence => "*".to_owned(),
        };
        values.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let accounts = |values: &[mesh_core::policy::ServiceAccount]| {
        values.iter().map(|a| format!("{}/{}", a.namespace, a.name)).collect::<Vec<_>>().join(",")
    };
    fn list<T: ToString>(values: &[T]) -> String {
        values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
    let fields = [
        ("principal", strings(&m.principals)),
        ("not-principal", strings(&m.not_principals)),
        ("ns", strings(&m.namespaces)),
        ("not-ns", strings(&m.not_namespaces)),
        ("sa", accounts(&m.service_accounts)),
        ("not-sa", accounts(&m.not_service_accounts)),
        ("src", list(&m.source_ips)),
        ("not-src", list(&m.not_source_ips)),
        ("dst", list(&m.destination_ips)),
        ("not-dst", list(&m.not_destination_ips)),
        ("port", list(&m.destination_ports)),
        ("not-port", list(&m.not_destination_ports)),
    ];
    let set: Vec<String> = fields.into_iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| format!("{n}={v}")).collect();
    format!("{{{}}}", set.join(" "))
}

/// A running pod in the namespace `shop`, with what else is said of it.
fn pod(name: &str, ip: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\n\
         spec: {{nodeName: a, containers: [{{ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
         status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}
