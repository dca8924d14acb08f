//! Values drawn from small alphabets, so that what is drawn twice meets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_core::addr::NetworkAddress;
use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Clause, Connection, Match, Policy, Rule, Scope, ServiceAccount, StringMatch};
use mesh_core::service::{IpFamilies, LoadBalancing, Mode, Service};
use mesh_core::traffic::{
    Balance, ConnectionPool, Distribution, Keepalive, LocalityPolicy, OutlierDetection, Place, Rule as TrafficRule,
    Traffic, TrafficPolicy,
};
use mesh_core::workload::{
    GatewayAddress, GatewayDestination, Health, Locality, PlaintextPorts, PolicyKey, Port, Scope as WorkloadScope,
    ServiceKey, Tunnel, Uid, Workload, WorkloadKind,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// A connection that owns its identity.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) source: Option<SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) destination_port: u16,
}

impl End {
    pub(crate) fn connection(&self) -> Connection<'_> {
        Connection {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
            from_node: false,
            way: mesh_core::policy::Way::Direct,
        }
    }
}

pub(crate) fn end() -> impl Strategy<Value = End> {
    (option::weighted(0.7, identity()), any_ip(), any_ip(), port_number()).prop_map(
        |(source, source_ip, destination_ip, destination_port)| End {
            source,
            source_ip,
            destination_ip,
            destination_port,
        },
    )
}

pub(crate) fn policies() -> impl Strategy<Value = Vec<Policy>> {
    vec(policy(), 0..6)
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let action = select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Audit]);
    (policy_key(), scope(), action, any::<bool>(), vec(rule(), 0..3)).prop_map(
        |(key, scope, action, dry_run, rules)| Policy {
            key,
            scope,
            action,
            // An AUDIT is never in force, so the wire has no word for one on trial.
            dry_run: dry_run && action != Action::Audit,
            rules,
        },
    )
}

fn scope() -> impl Strategy<Value = Scope> {
    select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector])
}

fn rule() -> impl Strategy<Value = Rule> {
    vec(vec(a_match(), 1..3).prop_map(|matches| Clause { matches }), 0..3).prop_map(|clauses| Rule { clauses })
}

/// Most fields are left empty, else hardly a match would hold.
fn a_match() -> impl Strategy<Value = Match> {
    let few = |strategy: BoxedStrategy<StringMatch>| prop_oneof![3 => Just(vec![]), 1 => vec(strategy, 1..3)];
    let accounts = || prop_oneof![3 => Just(vec![]), 1 => vec(account(), 1..3)];
    let nets = || prop_oneof![3 => Just(vec![]), 1 => vec(net(), 1..3)];
    let ports = || prop_oneof![3 => Just(vec![]), 1 => vec(port_number(), 1..3)];
    (
        (few(namespace_match()), few(namespace_match()), few(principal_match()), few(principal_match())),
        (accounts(), accounts(), nets(), nets(), nets(), nets(), ports(), ports()),
    )
        .prop_map(|(strings, rest)| Match {
            namespaces: strings.0,
            not_namespaces: strings.1,
            principals: strings.2,
            not_principals: strings.3,
            service_accounts: rest.0,
            not_service_accounts: rest.1,
            source_ips: rest.2,
            not_source_ips: rest.3,
            destination_ips: rest.4,
            not_destination_ips: rest.5,
            destination_ports: rest.6,
            not_destination_ports: rest.7,
        })
}

fn namespace_match() -> BoxedStrategy<StringMatch> {
    prop_oneof![
        select(vec!["dev", "dev2", "prod", ""]).prop_map(|v| StringMatch::Exact(v.into())),
        select(vec!["dev", "pr", ""]).prop_map(|v| StringMatch::Prefix(v.into())),
        select(vec!["2", "od", ""]).prop_map(|v| StringMatch::Suffix(v.into())),
        Just(StringMatch::Presence),
    ]
    .boxed()
}

fn principal_match() -> BoxedStrategy<StringMatch> {
    prop_oneof![
        select(vec!["td/ns/dev/sa/web", "td2/ns/prod/sa/db", "spiffe://td/ns/dev/sa/web", ""])
            .prop_map(|v| StringMatch::Exact(v.into())),
        select(vec!["td/", "td", "td/ns/dev/", ""]).prop_map(|v| StringMatch::Prefix(v.into())),
        select(vec!["/sa/web", "db", ""]).prop_map(|v| StringMatch::Suffix(v.into())),
        Just(StringMatch::Presence),
    ]
    .boxed()
}

fn account() -> impl Strategy<Value = ServiceAccount> {
    (namespace(), text(&["web", "db"])).prop_map(|(namespace, name)| ServiceAccount { namespace, name })
}

fn net() -> impl Strategy<Value = IpNet> {
    (any_ip(), any::<u8>(), 0..4u8).prop_map(|(ip, prefix, edge)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match edge {
            0 => 0,
            1 => longest,
            _ => prefix % (longest + 1),
        };
        IpNet::new(ip, prefix).expect("the prefix is at most the longest")
    })
}

pub(crate) fn identity() -> impl Strategy<Value = SpiffeId> {
    (select(vec!["td", "td2"]), namespace(), select(vec!["web", "db"]))
        .prop_map(|(domain, namespace, account)| SpiffeId::new(domain, &namespace, account).expect("valid parts"))
}

/// As a socket may report it: IPv4-mapped ones too.
fn any_ip() -> impl Strategy<Value = IpAddr> {
    let seen = [
        "10.0.0.1",
        "10.0.0.2",
        "10.1.0.1",
        "192.0.2.1",
        "::ffff:10.0.0.1",
        "::ffff:192.0.2.1",
        "fd00::1",
        "fd01::1",
        "::",
    ];
    select(seen.to_vec()).prop_map(|text| text.parse().expect("an address"))
}

/// As the model holds it: never IPv4-mapped.
fn ip() -> impl Strategy<Value = IpAddr> {
    any_ip().prop_map(|ip| ip.to_canonical())
}

fn port_number() -> impl Strategy<Value = u16> {
    select(vec![0, 80, 443, 5432, 65535])
}

pub(crate) fn network_address() -> impl Strategy<Value = NetworkAddress> {
    (text(&["", "net2"]), ip()).prop_map(|(network, ip)| NetworkAddress { network, ip })
}

pub(crate) fn namespace() -> impl Strategy<Value = Arc<str>> {
    text(&["dev", "dev2", "prod"])
}

pub(crate) fn policy_key() -> impl Strategy<Value = PolicyKey> {
    (namespace(), text(&["a", "b", "c"])).prop_map(|(namespace, name)| PolicyKey { namespace, name })
}

pub(crate) fn service_key() -> impl Strategy<Value = ServiceKey> {
    (namespace(), text(&["web.local", "db.local"])).prop_map(|(namespace, hostname)| ServiceKey { namespace, hostname })
}

pub(crate) fn uid() -> impl Strategy<Value = Uid> {
    select(vec!["one", "two", "three", "four"]).prop_map(|name| Uid::pod("c", "dev", name))
}

pub(crate) fn workload() -> impl Strategy<Value = Workload> {
    let names = (uid(), word(), word(), text(&["", "net2"]), word(), word(), word(), word(), word());
    let places =
        (vec(ip(), 0..3), option::of(gateway()), option::of(gateway()), locality(), any::<(bool, bool)>(), word());
    let lists = (vec(policy_key(), 0..4), btree_map(service_key(), vec(port(), 0..3), 0..3), plaintext());
    let kinds = (
        select(vec![Tunnel::None, Tunnel::Hbone]),
        select(vec![WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job]),
        select(vec![Health::Healthy, Health::Unhealthy]),
        any::<bool>(),
        select(vec![0, 1, 7, u32::MAX]),
    );
    (identity(), names, places, lists, kinds).prop_map(|(identity, names, places, lists, kinds)| Workload {
        uid: names.0,
        name: names.1,
        namespace: identity.namespace().into(),
        addresses: places.0,
        hostname: names.2,
        network: names.3,
        tunnel: kinds.0,
        identity,
        waypoint: places.1,
        network_gateway: places.2,
        node: names.4,
        canonical_name: names.5,
        canonical_revision: names.6,
        kind: kinds.1,
        workload_name: names.7,
        native_tunnel: kinds.3,
        policies: lists.0,
        health: kinds.2,
        cluster: names.8,
        services: lists.1,
        locality: places.3,
        host_network: places.4.0,
        capacity: kinds.4,
        plaintext: lists.2,
        encrypt_always: places.4.1,
        pod_uid: places.5,
    })
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let lists = (vec(network_address(), 0..3), vec(port(), 0..3), vec(word(), 0..3));
    let families = select(vec![IpFamilies::Automatic, IpFamilies::Ipv4Only, IpFamilies::Ipv6Only, IpFamilies::Dual]);
    let flags = any::<(bool, bool)>();
    (service_key(), word(), lists, option::of(gateway()), load_balancing(), families, flags, traffic()).prop_map(
        |(key, name, lists, waypoint, load_balancing, ip_families, (canonical, ingress_use_waypoint), traffic)| {
            Service {
                key,
                name,
                addresses: lists.0,
                ports: lists.1,
                subject_alt_names: lists.2,
                waypoint,
                load_balancing,
                ip_families,
                canonical,
                ingress_use_waypoint,
                traffic,
            }
        },
    )
}

fn scopes() -> impl Strategy<Value = Vec<WorkloadScope>> {
    use WorkloadScope::*;
    vec(select(vec![Region, Zone, Subzone, Node, Cluster, Network]), 0..4)
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let rule = (traffic_policy(), btree_map(port_number(), traffic_policy(), 0..2))
        .prop_map(|(general, ports)| Arc::new(TrafficRule { general, ports }));
    btree_map(text(&["", "dev", "prod"]), rule, 0..3).prop_map(|rules| Traffic { rules })
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    use Balance::*;
    let duration = || option::of(any::<(u32, u16)>().prop_map(|(s, ms)| Duration::new(s.into(), u32::from(ms) * 1000)));
    let keepalive = (option::of(any::<u32>()), duration(), duration()).prop_map(|(probes, time, interval)| Keepalive {
        probes,
        time,
        interval,
    });
    let pool = (option::of(any::<u32>()), duration(), option::of(keepalive), duration(), duration()).prop_map(
        |(max_connections, connect_timeout, keepalive, idle_timeout, max_duration)| ConnectionPool {
            max_connections,
            connect_timeout,
            keepalive,
            idle_timeout,
            max_duration,
        },
    );
    let outliers =
        (any::<u32>(), any::<(u16, u16)>(), 0..=100u8, 0..=100u8).prop_map(|(failures, times, most, least)| {
            OutlierDetection {
                consecutive_failures: failures,
                interval: Duration::from_millis(times.0.into()),
                base_ejection: Duration::from_millis(times.1.into()),
                max_ejection_percent: most,
                min_health_percent: least,
            }
        });
    let place = || text(&["*", "eu", "eu/a", "eu/a/*"]).prop_map(Place);
    let distribution = (place(), vec((place(), any::<u32>()), 0..3)).prop_map(|(from, to)| Distribution { from, to });
    let locality = prop_oneof![
        (scopes(), btree_map(word(), word(), 0..2))
            .prop_map(|(scopes, regions)| LocalityPolicy::Failover { scopes, regions }),
        vec(distribution, 0..3).prop_map(LocalityPolicy::Distribute),
    ];
    let balance = select(vec![LeastConnections, RoundRobin, Random, SourceIp]);
    (balance, pool, option::of(outliers), option::of(locality))
        .prop_map(|(balance, pool, outliers, locality)| TrafficPolicy { balance, pool, outliers, locality })
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    let modes = select(vec![Mode::Any, Mode::Strict, Mode::Failover, Mode::Passthrough]);
    (scopes(), modes, any::<bool>()).prop_map(|(routing_preference, mode, allow_unhealthy)| LoadBalancing {
        routing_preference,
        mode,
        allow_unhealthy,
    })
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let destination = prop_oneof![
        service_key().prop_map(GatewayDestination::Hostname),
        network_address().prop_map(GatewayDestination::Address),
    ];
    // 0 on the wire means 15008.
    (destination, 1..=u16::MAX).prop_map(|(destination, hbone_port)| GatewayAddress { destination, hbone_port })
}

fn locality() -> impl Strategy<Value = Locality> {
    (word(), word(), word()).prop_map(|(region, zone, subzone)| Locality { region, zone, subzone })
}

fn port() -> impl Strategy<Value = Port> {
    (any::<u16>(), any::<u16>(), any::<u32>()).prop_map(|(service_port, target_port, app_protocol)| Port {
        service_port,
        target_port,
        app_protocol,
    })
}

fn plaintext() -> impl Strategy<Value = PlaintextPorts> {
    let ports = || btree_set(any::<u16>(), 0..3);
    prop_oneof![
        ports().prop_map(|ports| PlaintextPorts { all: false, ports, except: Default::default() }),
        ports().prop_map(|except| PlaintextPorts { all: true, ports: Default::default(), except }),
    ]
}

fn word() -> impl Strategy<Value = Arc<str>> {
    text(&["", "a", "b-1", "ü/x y"])
}

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(choices).prop_map(Arc::from)
}
