use proptest::prelude::*;

use super::{Index, Published, config, pod, text};
use crate::object::{Object, ObjectKey};
use crate::source::{Event, manifest};

/// Applies in one order, object by object, with edits and deletions in between; another index gets only what is left.
pub(super) fn objects(yaml: &str) -> Vec<Object> {
    let events = manifest("t", yaml).into_iter();
    events
        .map(|event| match event {
            Event::Apply(object) => object,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Small worlds in which everything touches everything: few names, few labels, all kinds.
fn any_object() -> impl Strategy<Value = Object> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let namespace = || prop::sample::select(vec!["shop", "bank", "istio-system"]);
    let label = || prop::sample::select(vec!["app: x", "app: y", "app: x, tier: t", "tier: t", ""]);
    let mode = || prop::sample::select(vec!["STRICT", "PERMISSIVE", "DISABLE", "UNSET"]);
    let time = || {
        prop::sample::select(vec![
            "",
            "creationTimestamp: '2026-01-01T00:00:00Z', ",
            "creationTimestamp: '2026-02-01T00:00:00Z', ",
        ])
    };
    let yaml = prop_oneof![
        4 => (name(), namespace(), label(), prop::bool::ANY, prop::bool::ANY, 1u8..9).prop_map(|(n, ns, l, ready, owned, ip)| {
            let owner = if owned { "ownerReferences: [{controller: true, kind: ReplicaSet, name: rs}], " } else { "" };
            pod(n, &format!("10.0.0.{ip}"), l)
                .replace("namespace: shop", &format!("{owner}namespace: {ns}"))
                .replace("'True'", if ready { "'True'" } else { "'False'" })
        }),
        1 => (namespace(), prop::bool::ANY).prop_map(|(ns, on)| {
            let mode = if on { "weft" } else { "none" };
            format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {ns}, labels: {{istio.io/dataplane-mode: {mode}}}}}}}")
        }),
        1 => (prop::bool::ANY).prop_map(|z| format!("{{apiVersion: v1, kind: Node, metadata: {{name: a, labels: {{topology.kubernetes.io/zone: z{z}}}}}}}")),
        1 => (namespace(), name()).prop_map(|(ns, n)| {
            format!("{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: rs, namespace: {ns}, ownerReferences: [{{controller: true, kind: Deployment, name: {n}}}]}}}}")
        }),
        3 => (name(), namespace(), label(), 1u8..4).prop_map(|(n, ns, l, port)| {
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: {n}, namespace: {ns}}}, spec: {{clusterIP: 10.96.0.{port}, selector: {{{l}}}, ports: [{{port: {port}, targetPort: web, name: web}}]}}}}")
        }),
        3 => (name(), name(), namespace(), prop::collection::vec((name(), prop::bool::ANY, prop::bool::ANY), 0..4), 1u8..4).prop_map(|(n, service, ns, pods, port)| {
            let endpoints: Vec<String> = pods.iter().map(|(p, ready, is_pod)| {
                let target = if *is_pod { format!(", targetRef: {{kind: Pod, name: {p}}}") } else { String::new() };
                format!("{{addresses: [192.0.2.{}], conditions: {{ready: {ready}}}{target}}}", p.len())
            }).collect();
            format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {n}, namespace: {ns}, labels: {{kubernetes.io/service-name: {service}}}}}, endpoints: [{}], ports: [{{name: web, port: {port}}}]}}", endpoints.join(", "))
        }),
        2 => (name(), namespace(), label()).prop_map(|(n, ns, l)| {
            format!("{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {n}, namespace: {ns}}}, spec: {{selector: {{matchLabels: {{{l}}}}}}}}}")
        }),
        3 => (name(), namespace(), label(), mode(), mode(), time()).prop_map(|(n, ns, l, m, port, t)| {
            let ports = if l.is_empty() { String::new() } else { format!(", portLevelMtls: {{8080: {{mode: {port}}}}}") };
            format!("{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{{t}name: {n}, namespace: {ns}}}, spec: {{selector: {{matchLabels: {{{l}}}}}, mtls: {{mode: {m}}}{ports}}}}}")
        }),
        3 => (name(), namespace(), label(), name(), time(), prop::bool::ANY).prop_map(|(n, ns, l, host, t, select)| {
            let host = if host == "c" { "a.shop.svc.cluster.local" } else { host };
            let rest = match select {
                true => format!("workloadSelector: {{labels: {{{l}}}}}"),
                false => "endpoints: [{address: 192.0.2.9}]".to_owned(),
            };
            format!("{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{{t}name: {n}, namespace: {ns}}}, spec: {{hosts: [{host}], ports: [{{number: 80, name: web}}], resolution: STATIC, {rest}}}}}")
        }),
        3 => (name(), namespace(), 0..5usize, time(), 1u8..3).prop_map(|(n, ns, host, t, most)| {
            let host = ["a", "a.shop.svc.cluster.local", "'*.shop.svc.cluster.local'", "b", "'*'"][host];
            let to = ["", ", exportTo: [bank]", ", exportTo: ['.']"][usize::from(most)];
            format!("{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{{t}name: {n}, namespace: {ns}}}, spec: {{host: {host}, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {most}}}}}}}{to}}}}}")
        }),
        2 => (name(), namespace(), label(), name()).prop_map(|(n, ns, l, node)| {
            format!("{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: {n}, namespace: {ns}, annotations: {{weft.io/node: {node}}}}}, spec: {{address: 192.0.2.1, labels: {{{l}}}}}}}")
        }),
    ];
    prop_oneof![2 => yaml, 1 => at_waypoints()].prop_map(|yaml| objects(&yaml).remove(0))
}

/// Objects that only waypoints carry out, of few names that they have in common with the others.
fn at_waypoints() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b"]);
    let namespace = || prop::sample::select(vec!["shop", "bank", "istio-system"]);
    let label = || prop::sample::select(vec!["app: x", "app: y", "tier: t", ""]);
    let host = || prop::sample::select(vec!["a", "b", "a.shop.svc.cluster.local", "'*.shop.svc.cluster.local'"]);
    let to = || prop::sample::select(vec!["a", "b", "a.shop.svc.cluster.local", "b.bank.svc.cluster.local"]);
    let target = || {
        prop::sample::select(vec![
            "",
            "targetRefs: [{kind: Service, name: a}], ",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}], ",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: weft-waypoint}], ",
        ])
    };
    let time = || prop::sample::select(vec!["", "creationTimestamp: '2026-01-01T00:00:00Z', "]);
    let gateway_api = "gateway.networking.k8s.io";
    prop_oneof![
        2 => (namespace(), name(), prop::bool::ANY).prop_map(|(ns, wp, far)| {
            let far = if far { ", istio.io/use-waypoint-namespace: shop" } else { "" };
            format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {ns}, labels: {{istio.io/use-waypoint: {wp}{far}}}}}}}")
        }),
        2 => (name(), namespace(), label(), prop::sample::select(vec!["a", "none"])).prop_map(|(n, ns, l, wp)| {
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: {n}, namespace: {ns}, labels: {{istio.io/use-waypoint: {wp}}}}}, spec: {{selector: {{{l}}}, ports: [{{port: 80, name: http}}, {{port: 81, name: tcp}}]}}}}")
        }),
        2 => (name(), namespace(), prop::sample::select(vec!["service", "workload", "all"]), prop::sample::select(vec!["weft-waypoint", "other"]), prop::bool::ANY).prop_map(move |(n, ns, what, class, all)| {
            let from = if all { "All" } else { "Same" };
            format!("{{apiVersion: {gateway_api}/v1, kind: Gateway, metadata: {{name: {n}, namespace: {ns}, labels: {{istio.io/waypoint-for: {what}}}}}, spec: {{gatewayClassName: {class}, listeners: [{{name: m, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}}}")
        }),
        1 => (name(), namespace(), name(), label()).prop_map(|(n, ns, wp, l)| {
            let more = if l.is_empty() { String::new() } else { format!(", {l}") };
            pod(n, "10.0.0.1", &format!("gateway.networking.k8s.io/gateway-name: {wp}{more}")).replace("namespace: shop", &format!("namespace: {ns}"))
        }),
        4 => (name(), namespace(), host(), to(), time(), label(), 0..3usize).prop_map(|(n, ns, host, to, t, l, more)| {
            let rest = ["", ", exportTo: ['.']", ", tcp: [{route: [{destination: {host: a}}]}]"][more];
            let labels = if l.is_empty() { String::new() } else { format!("match: [{{sourceLabels: {{{l}}}}}], ") };
            format!("{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{{t}name: {n}, namespace: {ns}}}, spec: {{hosts: [{host}], http: [{{{labels}route: [{{destination: {{host: {to}, subset: v}}}}]}}]{rest}}}}}")
        }),
        1 => (name(), namespace(), to(), name()).prop_map(|(n, ns, to, d)| {
            let spec = match d {
                "a" => format!("http: [{{route: [{{destination: {{host: {to}}}}}]}}]"),
                _ => format!("hosts: [{to}], http: [{{delegate: {{name: a}}}}]"),
            };
            format!("{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {n}, namespace: {ns}}}, spec: {{{spec}}}}}")
        }),
        3 => (name(), namespace(), host(), label(), time(), label()).prop_map(|(n, ns, host, l, t, policy)| {
            let policy = if policy.is_empty() { "" } else { ", trafficPolicy: {loadBalancer: {simple: RANDOM}}" };
            format!("{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{{t}name: {n}, namespace: {ns}}}, spec: {{host: {host}, subsets: [{{name: v, labels: {{{l}}}}}]{policy}}}}}")
        }),
        3 => (name(), namespace(), name(), namespace(), name(), prop::sample::select(vec!["kind: Service, group: ''", "kind: Gateway"]), prop::sample::select(vec!["HTTPRoute", "GRPCRoute", "TCPRoute"])).prop_map(move |(n, ns, parent, of, to, kind, route)| {
            format!("{{apiVersion: {gateway_api}/v1, kind: {route}, metadata: {{name: {n}, namespace: {ns}}}, spec: {{parentRefs: [{{{kind}, name: {parent}, namespace: {of}}}], rules: [{{backendRefs: [{{name: {to}, namespace: shop, port: 80}}]}}]}}}}")
        }),
        2 => (name(), namespace(), namespace()).prop_map(move |(n, ns, from)| {
            format!("{{apiVersion: {gateway_api}/v1, kind: ReferenceGrant, metadata: {{name: {n}, namespace: {ns}}}, spec: {{from: [{{group: {gateway_api}, kind: HTTPRoute, namespace: {from}}}], to: [{{group: '', kind: Service}}]}}}}")
        }),
        3 => (name(), namespace(), target(), label(), prop::sample::select(vec!["ALLOW", "DENY"])).prop_map(|(n, ns, target, l, action)| {
            let select = if target.is_empty() && !l.is_empty() { format!("selector: {{matchLabels: {{{l}}}}}, ") } else { target.to_owned() };
            format!("{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {n}, namespace: {ns}}}, spec: {{{select}action: {action}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}}}")
        }),
        2 => (name(), namespace(), target(), label()).prop_map(|(n, ns, target, l)| {
            let select = if target.is_empty() && !l.is_empty() { format!("selector: {{matchLabels: {{{l}}}}}, ") } else { target.to_owned() };
            format!("{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: {n}, namespace: {ns}}}, spec: {{{select}jwtRules: [{{issuer: i}}]}}}}")
        }),
        1 => (name(), namespace(), target(), time()).prop_map(|(n, ns, target, t)| {
            format!("{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{{t}name: {n}, namespace: {ns}}}, spec: {{{target}accessLogging: [{{disabled: true}}]}}}}")
        }),
    ]
}

fn step() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any_object().prop_map(Event::Apply),
        1 => any_object().prop_map(|object| Event::Delete(object.key())),
    ]
}

/// What a mesh needs for models to be there at all.
const AT_WAYPOINTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: a}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a, namespace: shop, labels: {istio.io/waypoint-for: all}}, spec: {gatewayClassName: weft-waypoint, listeners: [{name: m, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: shop}, spec: {selector: {app: x}, ports: [{port: 80, name: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: bank}, spec: {ports: [{port: 80, name: http}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: b, namespace: shop}, spec: {hosts: [b], http: [{match: [{sourceLabels: {app: y}}], route: [{destination: {host: b, subset: v}}]}, {delegate: {name: a}}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b, namespace: shop}, spec: {parentRefs: [{kind: Service, group: '', name: b}], rules: [{backendRefs: [{name: b, namespace: bank, port: 80}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: b, namespace: shop}, spec: {selector: {matchLabels: {app: x}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}
";

/// Applies `steps`, some at a time, to what is there already; another index gets only what is left at the end.
fn same_in_any_order(base: Vec<Object>, steps: &[Event], batch: usize) -> Result<(), TestCaseError> {
    let mut left: Vec<(ObjectKey, Object)> = base.into_iter().map(|object| (object.key(), object)).collect();
    let (mut index, mut published) = (Index::new(config()), Published::default());
    published.take(index.apply(left.iter().map(|(_, object)| Event::Apply(object.clone())).collect()));
    for events in steps.chunks(batch) {
        for event in events {
            let key = match event {
                Event::Apply(object) => object.key(),
                Event::Delete(key) => key.clone(),
                _ => continue,
            };
            left.retain(|(k, _)| *k != key);
            if let Event::Apply(object) = event {
                left.push((key, object.clone()));
            }
        }
        let changes = index.apply(events.to_vec());
        let kind = |resource: &super::Resource| std::mem::discriminant(resource);
        let names: std::collections::HashSet<_> = changes.iter().map(|c| (c.name.clone(), kind(&c.resource))).collect();
        prop_assert_eq!(names.len(), changes.len(), "each resource once");
        published.take(changes);
    }
    left.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut fresh, mut expected) = (Index::new(config()), Published::default());
    expected.take(fresh.apply(left.into_iter().map(|(_, object)| Event::Apply(object)).collect()));
    prop_assert_eq!(text(&index, &published), text(&fresh, &expected));
    prop_assert_eq!(&published.addresses, &expected.addresses);
    prop_assert_eq!(&published.policies, &expected.policies);
    prop_assert_eq!(&published.layer7, &expected.layer7);
    for node in ["a", "b"] {
        prop_assert_eq!(index.identities_on_node(node), fresh.identities_on_node(node));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_in_what_the_remaining_objects_come_to(
        steps in prop::collection::vec(step(), 1..60),
        batch in 1usize..8,
    ) {
        same_in_any_order(Vec::new(), &steps, batch)?;
    }

    /// Few steps, and each a batch: none hides that another should have touched something.
    #[test]
    fn models_end_in_what_the_remaining_objects_come_to(
        steps in prop::collection::vec(prop_oneof![
            6 => at_waypoints().prop_map(|yaml| Event::Apply(objects(&yaml).remove(0))),
            2 => any_object().prop_map(Event::Apply),
            2 => at_waypoints().prop_map(|yaml| Event::Delete(objects(&yaml)[0].key())),
        ], 1..7),
    ) {
        same_in_any_order(objects(AT_WAYPOINTS), &steps, 1)?;
    }
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let yaml =
        [pod("a", "10.0.0.1", "app: x"), "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n".into()]
            .concat();
    let (mut index, _) = super::built(&yaml);
    assert_eq!(index.apply(manifest("t", &yaml)), []);
}

#[test]
fn one_changed_pod_of_10_000_costs_one_build() {
    let mut yaml = String::new();
    for i in 0..10_000 {
        yaml.push_str(&pod(&format!("p{i}"), &format!("10.{}.{}.1", i / 250, i % 250), &format!("app: a{}", i % 100)));
    }
    for i in 0..100 {
        yaml.push_str(&format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: a{i}, namespace: shop}}, spec: {{selector: {{app: a{i}}}, ports: [{{port: 80}}]}}}}\n"));
    }
    let (mut index, _) = super::built(&yaml);
    let before = index.work();
    let changes = index.apply(manifest("t", &pod("p7", "10.0.7.1", "app: a7").replace("'True'", "'False'")));
    assert_eq!((changes.len(), index.work() - before), (1, 1));
    // One service: itself, what a waypoint would do for it, and the hundred pods behind it.
    let before = index.work();
    let service = "{apiVersion: v1, kind: Service, metadata: {name: a7, namespace: shop}, spec: {selector: {app: a7}, ports: [{port: 81}]}}";
    let changes = index.apply(manifest("t", service));
    assert_eq!((changes.len(), index.work() - before), (101, 102));
    // A policy that selects a hundred: those list it, nothing else is looked at.
    let before = index.work();
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {selector: {matchLabels: {app: a7}}}}";
    let changes = index.apply(manifest("t", policy));
    assert_eq!((changes.len(), index.work() - before), (101, 101));
    // Its rules changed: the policy alone.
    let before = index.work();
    let changes = index.apply(manifest("t", &policy.replace("spec: {", "spec: {action: DENY, rules: [{}], ")));
    assert_eq!((changes.len(), index.work() - before), (1, 1));
}
