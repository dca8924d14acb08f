//! Objects and how they stand, to what is written.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::index::Config;
use crate::instances::Outcome;
use crate::source::{Event, manifest};

const GATEWAY: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: shop, uid: g1}, \
                       spec: {gatewayClassName: weft-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n---\n";
const FRONT: &str = "{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: shop}, \
                       spec: {clusterIP: 10.96.0.5, ports: [{port: 15008}]}}\n---\n";
const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: wp}}, \
                   spec: {clusterIP: 10.96.0.6, ports: [{name: http, port: 80}]}}\n---\n";

/// An index of `yaml`, in which each object has a standing: generation 3, and what `said` has as its status.
fn index(yaml: &str, said: &BTreeMap<ObjectKey, Value>) -> Index {
    let mut index = Index::new(Config::default());
    let mut events = manifest("t.yaml", yaml);
    let mut standings = Vec::new();
    for event in &events {
        let keys = match event {
            Event::Apply(object) => vec![object.key()],
            Event::Findings(findings) => findings.iter().filter_map(|finding| finding.object.clone()).collect(),
            _ => Vec::new(),
        };
        for key in keys {
            let object = json!({
                "apiVersion": "example/v1", "metadata": {"resourceVersion": "7", "generation": 3},
                "status": said.get(&key).cloned().unwrap_or_default(),
            });
            standings.extend(Standing::of(key.kind, &object).map(|standing| Event::Standing(key, standing)));
        }
    }
    events.extend(standings);
    events.push(Event::InitialSynced);
    index.apply(events);
    index
}

/// One line for each condition that is written, and for what else a Gateway's status has.
fn text(writes: &[Write]) -> String {
    let mut out = String::new();
    for Write { key, status, .. } in writes {
        let mut conditions = |about: &str, list: &Value| {
            for condition in list.as_array().into_iter().flatten() {
                let word = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
                out += &format!(
                    "{key}{about}: {}={} {} {}: {}\n",
                    word("type"),
                    word("status"),
                    word("reason"),
                    condition["observedGeneration"],
                    word("message")
                );
            }
        };
        conditions("", &status.get("conditions").cloned().unwrap_or_default());
        for parent in status.get("parents").and_then(Value::as_array).into_iter().flatten() {
            conditions(&format!(" at {}", parent["parentRef"]["name"]), &parent["conditions"]);
        }
        for listener in status.get("listeners").and_then(Value::as_array).into_iter().flatten() {
            conditions(&format!(" {} {}", listener["name"], listener["attachedRoutes"]), &listener["conditions"]);
        }
        if let Some(addresses) = status.get("addresses") {
            out += &format!("{key} addresses {addresses}\n");
        }
    }
    out
}

fn outcomes(outcome: Option<Outcome>) -> Outcomes {
    Arc::new(outcome.map(|outcome| (("shop".into(), "wp".into()), outcome)).into_iter().collect())
}

/// What is written of the objects of `yaml`, those of the usual waypoint left out, which is up.
fn check(yaml: &str, expect: Expect) {
    let index = index(&[GATEWAY, FRONT, yaml].concat(), &BTreeMap::new());
    let mut writes = writes(&index, &outcomes(Some(Outcome::Done)), &Told::default(), "now");
    writes.retain(|write| write.key.kind != Kind::Gateway);
    expect.assert_eq(&text(&writes));
}

#[test]
fn a_service_is_told_which_waypoint_it_is_bound_to() {
    check(
        WEB,
        expect![[r#"
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted 3: bound to waypoint shop/wp
    "#]],
    );
    check(
        &WEB.replace("waypoint: wp", "waypoint: gone"),
        expect![[r#"
        Service shop/web: istio.io/WaypointBound=False WaypointMissing 3: there is no waypoint shop/gone; what goes through it fails
    "#]],
    );
    check(&WEB.replace("waypoint: wp", "waypoint: none"), expect![[""]]);
    // Another namespace, of which the Gateway takes nothing.
    let far = WEB.replace("namespace: shop", "namespace: bank");
    check(
        &far.replace("waypoint: wp", "waypoint: wp, istio.io/use-waypoint-namespace: shop"),
        expect![[r#"
        Service bank/web: istio.io/WaypointBound=False AttachmentDenied 3: waypoint shop/wp does not take services of this namespace; what goes through it fails
    "#]],
    );
}

#[test]
fn routes_say_for_each_parent_whether_they_are_in_force() {
    let route = |parents: &str, backend: &str| {
        format!(
            "{WEB}{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, spec: \
             {{parentRefs: [{parents}], rules: [{{backendRefs: [{backend}]}}]}}}}"
        )
    };
    let (web, port) = ("{group: '', kind: Service, name: web, port: 80}", "{name: web, port: 80}");
    check(
        &route(web, port),
        expect![[r#"
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted 3: bound to waypoint shop/wp
        HTTPRoute shop/r at "web": Accepted=True Accepted 3: in force
        HTTPRoute shop/r at "web": ResolvedRefs=True ResolvedRefs 3: all backends are there
    "#]],
    );
    check(
        &route("{group: '', kind: Service, name: gone}, {name: wp}, {name: of-another-class}", port),
        expect![[r#"
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted 3: bound to waypoint shop/wp
        HTTPRoute shop/r at "gone": Accepted=False NoMatchingParent 3: there is no Service shop/gone
        HTTPRoute shop/r at "gone": ResolvedRefs=True ResolvedRefs 3: all backends are there
        HTTPRoute shop/r at "wp": Accepted=True Accepted 3: in force
        HTTPRoute shop/r at "wp": ResolvedRefs=True ResolvedRefs 3: all backends are there
    "#]],
    );
    check(
        &route("{group: '', kind: Service, name: wp}", port),
        expect![[r#"
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted 3: bound to waypoint shop/wp
        HTTPRoute shop/r at "wp": Accepted=False Pending 3: no waypoint serves Service shop/wp; the route is not in force for it
        HTTPRoute shop/r at "wp": ResolvedRefs=True ResolvedRefs 3: all backends are there
    "#]],
    );
    for backend in
        ["{name: gone, port: 80}", "{name: web, namespace: bank, port: 80}", "{group: s.io, kind: Bucket, name: b}"]
    {
        let index = index(&[GATEWAY, FRONT, &route(web, backend)].concat(), &BTreeMap::new());
        let writes = writes(&index, &Outcomes::default(), &Told::default(), "now");
        let written = writes.iter().find(|write| write.key.kind == Kind::HttpRoute).unwrap();
        let resolved = &written.status["parents"][0]["conditions"][1];
        let reason = match backend {
            "{name: gone, port: 80}" => "BackendNotFound",
            "{group: s.io, kind: Bucket, name: b}" => "InvalidKind",
            _ => "RefNotPermitted",
        };
        assert_eq!((&resolved["status"], &resolved["reason"]), (&json!("False"), &json!(reason)), "{backend}");
    }
}

#[test]
fn istios_kinds_say_whether_they_are_in_force_and_what_is_wrong() {
    check(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: agents, namespace: shop}, spec: {}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: closed, namespace: shop}, spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: gate, namespace: shop}, spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: lost, namespace: shop}, spec: {targetRefs: [{kind: Service, name: gone}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: wrong, namespace: shop}, spec: {action: DENNY}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: out, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {hosts: [a.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: second, namespace: shop, creationTimestamp: '2026-01-02T00:00:00Z'}, spec: {hosts: [a.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: dr, namespace: shop}, spec: {host: web}}
",
        expect![[r#"
            AuthorizationPolicy shop/agents: Accepted=True Accepted 3: in force
            AuthorizationPolicy shop/agents: ZtunnelAccepted=True Accepted 3: attached to agents
            AuthorizationPolicy shop/closed: Accepted=True Accepted 3: in force
            AuthorizationPolicy shop/closed: PartiallyInvalid=True UnsupportedValue 3: spec.rules[0].to[0].operation.methods: not known at L4; the rule allows nothing
            AuthorizationPolicy shop/closed: ZtunnelAccepted=False UnsupportedValue 3: spec.rules[0].to[0].operation.methods: not known at L4; the rule allows nothing
            AuthorizationPolicy shop/gate: Accepted=True Accepted 3: in force
            AuthorizationPolicy shop/gate: WaypointAccepted=True Accepted 3: bound to waypoints of its targets
            AuthorizationPolicy shop/lost: Accepted=True Accepted 3: in force
            AuthorizationPolicy shop/lost: ResolvedRefs=False RefNotFound 3: spec.targetRefs[0]: there is no Service gone; the policy is not in force for it
            AuthorizationPolicy shop/lost: WaypointAccepted=False TargetNotFound 3: spec.targetRefs[0]: there is no Service gone; the policy is not in force for it
            AuthorizationPolicy shop/wrong: Accepted=False Invalid 3: spec.action: "DENNY" is none of ALLOW, DENY, AUDIT, CUSTOM; did you mean "DENY"?
            AuthorizationPolicy shop/wrong: ZtunnelAccepted=False UnsupportedValue 3: spec.action: "DENNY" is none of ALLOW, DENY, AUDIT, CUSTOM; did you mean "DENY"?
            ServiceEntry shop/out: Accepted=True Accepted 3: in force
            ServiceEntry shop/second: Accepted=True Accepted 3: in force
            ServiceEntry shop/second: Conflicted=True Conflict 3: spec.hosts: hostname a.example is taken by ServiceEntry shop/out
            DestinationRule shop/dr: Accepted=True Accepted 3: in force
        "#]],
    );
}

#[test]
fn a_gateway_says_its_address_and_whether_it_is_up() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}, \
               status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}}\n---\n";
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: \
                 {parentRefs: [{name: wp, sectionName: mesh}]}}\n---\n";
    let conditions = |yaml: &[&str], outcome| {
        let index = index(&yaml.concat(), &BTreeMap::new());
        let mut writes = writes(&index, &outcomes(outcome), &Told::default(), "now");
        writes.retain(|write| write.key.kind == Kind::Gateway);
        text(&writes)
    };
    assert_eq!(conditions(&[GATEWAY, FRONT], None), "", "nobody has looked at it yet");
    expect![[r#"
        Gateway shop/wp: Accepted=True Accepted 3: carried out by Weft
        Gateway shop/wp: Programmed=True Programmed 3: instances are ready
        Gateway shop/wp "mesh" 1: Accepted=True Accepted 3: in force
        Gateway shop/wp "mesh" 1: Programmed=True Programmed 3: instances are ready
        Gateway shop/wp "mesh" 1: ResolvedRefs=True ResolvedRefs 3: it names nothing
        Gateway shop/wp "mesh" 1: Conflicted=False NoConflicts 3: no other listener is in its way
        Gateway shop/wp addresses [{"type":"IPAddress","value":"10.96.0.5"}]
    "#]]
    .assert_eq(&conditions(&[GATEWAY, FRONT, pod, route], Some(Outcome::Done)));
    expect![[r#"
        Gateway shop/wp: Accepted=True ListenersNotValid 3: a waypoint listens for HBONE on port 15008 alone
        Gateway shop/wp: Programmed=True Programmed 3: instances are ready
        Gateway shop/wp "mesh" 0: Accepted=False PortUnavailable 3: a waypoint listens for HBONE on port 15008 alone
        Gateway shop/wp "mesh" 0: Programmed=False Invalid 3: a waypoint listens for HBONE on port 15008 alone
        Gateway shop/wp "mesh" 0: ResolvedRefs=True ResolvedRefs 3: it names nothing
        Gateway shop/wp "mesh" 0: Conflicted=False NoConflicts 3: no other listener is in its way
        Gateway shop/wp addresses [{"type":"IPAddress","value":"10.96.0.5"}]
    "#]]
    .assert_eq(&conditions(&[&GATEWAY.replace("15008", "80"), FRONT, pod], Some(Outcome::Done)));
    for (yaml, outcome, reasons) in [
        (&[GATEWAY][..], Outcome::Done, ["Accepted", "AddressNotAssigned"]),
        (&[GATEWAY, FRONT], Outcome::Done, ["Accepted", "Pending"]),
        (&[GATEWAY, FRONT, pod], Outcome::Conflict("Deployment".to_owned()), ["Accepted", "Invalid"]),
        (&[GATEWAY, FRONT, pod], Outcome::Failed("timeout".to_owned()), ["Accepted", "Pending"]),
        (
            &[GATEWAY, FRONT, pod],
            Outcome::Invalid(vec!["weft.io/replicas: no".to_owned()]),
            ["InvalidParameters", "Invalid"],
        ),
        (
            &[GATEWAY, FRONT, pod],
            Outcome::Invalid(vec!["spec.addresses: no".to_owned()]),
            ["UnsupportedAddress", "Invalid"],
        ),
    ] {
        let index = index(&yaml.concat(), &BTreeMap::new());
        let writes = writes(&index, &outcomes(Some(outcome.clone())), &Told::default(), "now");
        let found = [0, 1].map(|i| writes[0].status["conditions"][i]["reason"].as_str().unwrap().to_owned());
        assert_eq!(found, reasons, "{outcome:?}");
    }
}

#[test]
fn what_is_said_is_not_said_again_and_what_others_say_stays() {
    let yaml = format!(
        "{GATEWAY}{FRONT}{WEB}{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: \
         shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{}}]}}}}"
    );
    let outcomes = outcomes(Some(Outcome::Done));
    let key = |kind, name: &str| ObjectKey { kind, namespace: "shop".into(), name: name.into() };
    let theirs = json!({"controllerName": "else.example/x", "parentRef": {"name": "web"}, "conditions": []});
    let mut said = BTreeMap::from([
        (key(Kind::HttpRoute, "r"), json!({"parents": [theirs]})),
        (key(Kind::Service, "web"), json!({"conditions": [{"type": "Else", "status": "True"}], "loadBalancer": {}})),
    ]);
    let first = writes(&index(&yaml, &said), &outcomes, &Told::default(), "t1");
    assert_eq!(first.len(), 3, "{first:?}");
    for write in &first {
        let status = said.entry(write.key.clone()).or_insert_with(|| json!({}));
        for (field, value) in &write.status {
            status[field] = value.clone();
        }
    }
    assert_eq!(said[&key(Kind::HttpRoute, "r")]["parents"][0], theirs);
    assert_eq!(said[&key(Kind::Service, "web")]["conditions"][0]["type"], "Else");
    assert_eq!(writes(&index(&yaml, &said), &outcomes, &Told::default(), "t2"), []);

    // A route that leaves, and a service that is bound no longer, are said nothing of.
    let left = yaml
        .replace("labels: {istio.io/use-waypoint: wp}", "labels: {}")
        .replace("kind: Service, name: web}]", "kind: Pod, name: web}]");
    let last = writes(&index(&left, &said), &outcomes, &Told::default(), "t3");
    let route = last.iter().find(|write| write.key.kind == Kind::HttpRoute).unwrap();
    assert_eq!(route.status["parents"], json!([theirs]));
    let service = last.iter().find(|write| write.key.kind == Kind::Service).unwrap();
    assert_eq!(service.status["conditions"], json!([{"type": "Else", "status": "True"}]));
}

#[test]
fn only_what_can_change_a_status_stirs_and_ten_thousand_objects_are_a_moments_work() {
    let mut events = manifest("t.yaml", &[GATEWAY, FRONT].concat());
    for number in 0..10_000 {
        let name = format!("p{number}");
        let policy = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{}}}}"
        );
        events.extend(manifest("p.yaml", &policy).into_iter().filter(|event| matches!(event, Event::Apply(_))));
        let key = ObjectKey { kind: Kind::AuthorizationPolicy, namespace: "shop".into(), name: name.into() };
        let standing = Standing::of(key.kind, &json!({"metadata": {"resourceVersion": "1", "generation": 1}})).unwrap();
        events.push(Event::Standing(key, standing));
    }
    let mut index = Index::new(Config::default());
    index.apply(events);
    assert!(index.take_stirred());
    let begun = std::time::Instant::now();
    assert_eq!(writes(&index, &Outcomes::default(), &Told::default(), "now").len(), 10_000);
    println!("figure: ten thousand objects looked at in {:?}", begun.elapsed());
    for (yaml, expected) in [
        ("{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop}}", false),
        ("{apiVersion: v1, kind: Node, metadata: {name: a}}", false),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}}",
            true,
        ),
        (WEB, true),
        // A finding, of a pod that nobody speaks of.
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: shop, labels: {istio.io/use-waypoint: gone}}, status: {phase: Running, podIP: 10.0.0.7}}",
            true,
        ),
    ] {
        index.apply(manifest("t.yaml", yaml).into_iter().filter(|event| matches!(event, Event::Apply(_))).collect());
        assert_eq!(index.take_stirred(), expected, "{yaml}");
    }
}
