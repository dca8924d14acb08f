use expect_test::{Expect, expect};

use super::{check, pod};

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

fn rules(spec: &str, expect: Expect) {
    check(&policy("shop", spec), expect);
}

#[test]
fn actions_and_empty_rules() {
    rules(
        "",
        expect![[r#"
        shop/p namespace ALLOW
    "#]],
    );
    rules(
        "action: ALLOW",
        expect![[r#"
        shop/p namespace ALLOW
    "#]],
    );
    rules(
        "rules: [{}]",
        expect![[r#"
        shop/p namespace ALLOW
          if anything
    "#]],
    );
    rules(
        "action: DENY, rules: []",
        expect![[r#"
        shop/p namespace DENY
    "#]],
    );
    rules(
        "action: DENY, rules: [{}]",
        expect![[r#"
        shop/p namespace DENY
          if anything
    "#]],
    );
    rules(
        "action: AUDIT, rules: [{}]",
        expect![[r#"
        shop/p namespace AUDIT
          if anything
    "#]],
    );
    rules(
        "action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {ports: ['80']}}]}]",
        expect![[r#"
            shop/p namespace DENY
              if {port=80}
            ! warning fails_closed: AuthorizationPolicy shop/p: spec.action: no external authorizer is asked at L4; what it would be asked about is denied
            ! warning fails_closed: AuthorizationPolicy shop/p: spec.provider.name: the mesh's configuration has no provider "x"; what it would be asked about is denied
        "#]],
    );
    rules(
        "action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/admin]}}]}]",
        expect![[r#"
            shop/p namespace DENY
              if anything
            ! warning fails_closed: AuthorizationPolicy shop/p: spec.action: no external authorizer is asked at L4; what it would be asked about is denied
            ! warning fails_closed: AuthorizationPolicy shop/p: spec.provider.name: the mesh's configuration has no provider "x"; what it would be asked about is denied
            ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.paths: not known at L4; the rule denies without regard to it
        "#]],
    );
    check(
        &policy("shop", "").replace("spec: {}", "status: {}"),
        expect![[r#"
        shop/p namespace ALLOW
    "#]],
    );
    check(
        &policy("shop", "").replace("/v1,", "/v1beta1,"),
        expect![[r#"
        shop/p namespace ALLOW
    "#]],
    );
    check(
        &policy("shop", "").replace("name: p,", "name: p, annotations: {istio.io/dry-run: 'true'},"),
        expect![[r#"
        shop/p namespace ALLOW dry-run
    "#]],
    );
    check(
        &policy("shop", "").replace("name: p,", "name: p, annotations: {istio.io/dry-run: 'false'},"),
        expect![[r#"
        shop/p namespace ALLOW
    "#]],
    );
}

#[test]
fn scopes_and_selected_workloads() {
    let web = pod("web", "10.0.0.1", "app: web");
    let db = pod("db", "10.0.0.2", "app: db");
    let select = "selector: {matchLabels: {app: web}}";
    check(
        &[policy("istio-system", ""), web.clone()].concat(),
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 node=a
        istio-system/p global ALLOW
    "#]],
    );
    check(
        &[policy("shop", ""), web.clone()].concat(),
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 node=a
        shop/p namespace ALLOW
    "#]],
    );
    check(
        &[policy("shop", select), web.clone(), db.clone()].concat(),
        expect![[r#"
        c1//Pod/shop/db ip=10.0.0.2 node=a
        c1//Pod/shop/web ip=10.0.0.1 node=a policies=shop/p
        shop/p selector ALLOW
    "#]],
    );
    check(
        &[policy("bank", select), web.clone()].concat(),
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 node=a
        bank/p selector ALLOW
    "#]],
    );
    check(
        &[policy("istio-system", select), web.clone(), db.clone()].concat(),
        expect![[r#"
        c1//Pod/shop/db ip=10.0.0.2 node=a
        c1//Pod/shop/web ip=10.0.0.1 node=a policies=istio-system/p
        istio-system/p selector ALLOW
    "#]],
    );
    check(
        &[policy("shop", "selector: {}"), web.clone()].concat(),
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 node=a
        shop/p namespace ALLOW
    "#]],
    );
    check(
        &[policy("shop", "targetRefs: [{kind: Service, group: '', name: web}]"), web].concat(),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 node=a
            ! warning unresolved: AuthorizationPolicy shop/p: spec.targetRefs[0]: there is no Service web; the policy is not in force for it
        "#]],
    );
}

#[test]
fn every_field_of_sources() {
    let from = |source: &str, expect: Expect| rules(&format!("rules: [{{from: [{{source: {{{source}}}}}]}}]"), expect);
    from(
        "principals: [cluster.local/ns/a/sa/b, 'cluster.local/*', '*/sa/b', '*']",
        expect![[r#"
        shop/p namespace ALLOW
          if {principal=cluster.local/ns/a/sa/b,cluster.local/*,*/sa/b,*}
    "#]],
    );
    from(
        "notPrincipals: ['*', td/ns/x/sa/y]",
        expect![[r#"
        shop/p namespace ALLOW
          if {not-principal=*,td/ns/x/sa/y}
    "#]],
    );
    from(
        "namespaces: [a, 'b*', '*c'], notNamespaces: [bad]",
        expect![[r#"
        shop/p namespace ALLOW
          if {ns=a,b*,*c not-ns=bad}
    "#]],
    );
    from(
        "serviceAccounts: [sa, other/sa], notServiceAccounts: [bad]",
        expect![[r#"
        shop/p namespace ALLOW
          if {sa=shop/sa,other/sa not-sa=shop/bad}
    "#]],
    );
    from(
        "ipBlocks: [10.0.0.1, 10.1.2.3/16, 'fd00::/8'], notIpBlocks: [10.1.0.0/24]",
        expect![[r#"
        shop/p namespace ALLOW
          if {src=10.0.0.1/32,10.1.0.0/16,fd00::/8 not-src=10.1.0.0/24}
    "#]],
    );
    from(
        "remoteIpBlocks: [10.0.0.1], notRemoteIpBlocks: [10.0.0.2]",
        expect![[r#"
        shop/p namespace ALLOW
          if {src=10.0.0.1/32 not-src=10.0.0.2/32}
    "#]],
    );
    from(
        "ipBlocks: [10.0.0.0/8, 192.0.2.1], remoteIpBlocks: [10.1.0.0/16]",
        expect![[r#"
        shop/p namespace ALLOW
          if {src=10.1.0.0/16}
    "#]],
    );
    from(
        "ipBlocks: [10.0.0.0/8], remoteIpBlocks: [192.0.2.1]",
        expect![[r#"
        shop/p namespace ALLOW
    "#]],
    );
    rules(
        "rules: [{from: [{source: {namespaces: [a]}}, {source: {principals: ['*']}}]}]",
        expect![[r#"
        shop/p namespace ALLOW
          if {ns=a} or {principal=*}
    "#]],
    );
}

#[test]
fn every_field_of_operations() {
    let to =
        |operation: &str, expect: Expect| rules(&format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]"), expect);
    to(
        "ports: ['80', '443']",
        expect![[r#"
        shop/p namespace ALLOW
          if {port=80,443}
    "#]],
    );
    to(
        "ports: ['80'], notPorts: ['81']",
        expect![[r#"
        shop/p namespace ALLOW
          if {port=80 not-port=81}
    "#]],
    );
    rules(
        "rules: [{to: [{operation: {ports: ['80']}}, {operation: {ports: ['81']}}]}, {to: [{operation: {notPorts: ['1']}}]}]",
        expect![[r#"
            shop/p namespace ALLOW
              if {port=80} or {port=81}
              if {not-port=1}
        "#]],
    );
}

#[test]
fn every_condition_that_l4_knows() {
    let when = |condition: &str, expect: Expect| rules(&format!("rules: [{{when: [{condition}]}}]"), expect);
    when(
        "{key: source.ip, values: [10.0.0.0/8], notValues: [10.0.0.1]}",
        expect![[r#"
        shop/p namespace ALLOW
          if {src=10.0.0.0/8 not-src=10.0.0.1/32}
    "#]],
    );
    when(
        "{key: remote.ip, values: [10.0.0.0/8]}",
        expect![[r#"
        shop/p namespace ALLOW
          if {src=10.0.0.0/8}
    "#]],
    );
    when(
        "{key: source.namespace, values: ['a*'], notValues: [ab]}",
        expect![[r#"
        shop/p namespace ALLOW
          if {ns=a* not-ns=ab}
    "#]],
    );
    when(
        "{key: source.principal, notValues: ['*']}",
        expect![[r#"
        shop/p namespace ALLOW
          if {not-principal=*}
    "#]],
    );
    when(
        "{key: source.serviceAccount, values: [sa, x/y]}",
        expect![[r#"
        shop/p namespace ALLOW
          if {sa=shop/sa,x/y}
    "#]],
    );
    when(
        "{key: destination.ip, values: [10.0.0.1], notValues: [10.0.0.2]}",
        expect![[r#"
        shop/p namespace ALLOW
          if {dst=10.0.0.1/32 not-dst=10.0.0.2/32}
    "#]],
    );
    when(
        "{key: destination.port, values: ['80', '81'], notValues: ['82']}",
        expect![[r#"
        shop/p namespace ALLOW
          if {port=80,81 not-port=82}
    "#]],
    );
    when(
        "{key: source.namespace, values: [a]}, {key: destination.port, values: ['80']}",
        expect![[r#"
        shop/p namespace ALLOW
          if {ns=a} AND {port=80}
    "#]],
    );
}

#[test]
fn from_to_and_when_are_anded() {
    rules(
        "rules: [{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}], to: [{operation: {ports: ['80']}}], when: [{key: source.ip, values: [10.0.0.1]}]}]",
        expect![[r#"
            shop/p namespace ALLOW
              if {ns=a} or {ns=b} AND {port=80} AND {src=10.0.0.1/32}
        "#]],
    );
}

#[test]
fn what_only_l7_knows_never_widens() {
    let l7 = "rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET], paths: [/x], ports: ['80']}}]}, {to: [{operation: {ports: ['9']}}]}]";
    rules(
        l7,
        expect![[r#"
        shop/p namespace ALLOW
          if {port=9}
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.methods: not known at L4; the rule allows nothing
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.paths: not known at L4; the rule allows nothing
    "#]],
    );
    rules(
        &format!("action: DENY, {l7}"),
        expect![[r#"
        shop/p namespace DENY
          if {ns=a} AND {port=80}
          if {port=9}
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.methods: not known at L4; the rule denies without regard to it
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.paths: not known at L4; the rule denies without regard to it
    "#]],
    );
    rules(
        &format!("action: AUDIT, {l7}"),
        expect![[r#"
        shop/p namespace AUDIT
          if {port=9}
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.methods: not known at L4; the rule records nothing
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.paths: not known at L4; the rule records nothing
    "#]],
    );
    rules(
        "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
        expect![[r#"
        shop/p namespace ALLOW
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.requestPrincipals: not known at L4; the rule allows nothing
    "#]],
    );
    rules(
        "action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]",
        expect![[r#"
        shop/p namespace DENY
          if anything
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.notRequestPrincipals: not known at L4; the rule denies without regard to it
    "#]],
    );
    rules(
        "action: DENY, rules: [{to: [{operation: {hosts: [a]}}, {operation: {ports: ['80']}}]}]",
        expect![[r#"
        shop/p namespace DENY
          if anything
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.hosts: not known at L4; the rule denies without regard to it
    "#]],
    );
    rules(
        "rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]",
        expect![[r#"
        shop/p namespace ALLOW
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].when[0].key request.headers[x]: not known at L4; the rule allows nothing
    "#]],
    );
    rules(
        "action: DENY, rules: [{from: [{source: {namespaces: [a]}}], when: [{key: 'request.auth.claims[iss]', values: [y]}]}]",
        expect![[r#"
            shop/p namespace DENY
              if {ns=a}
            ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].when[0].key request.auth.claims[iss]: not known at L4; the rule denies without regard to it
        "#]],
    );
    rules(
        "rules: [{when: [{key: connection.sni, values: [y]}]}]",
        expect![[r#"
        shop/p namespace ALLOW
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].when[0].key connection.sni: not known at L4; the rule allows nothing
    "#]],
    );
    rules(
        "rules: [{when: [{key: 'experimental.envoy.filters.x[z]', values: [y]}]}]",
        expect![[r#"
        shop/p namespace ALLOW
        ! warning fails_closed: AuthorizationPolicy shop/p: spec.rules[0].when[0].key experimental.envoy.filters.x[z]: not known at L4; the rule allows nothing
    "#]],
    );
}

#[test]
fn mistakes_are_refused_with_their_field() {
    rules(
        "rule: []",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rule: there is no field "rule" here; did you mean "rules"?
        "#]],
    );
    rules(
        "action: deny",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.action: "deny" is none of ALLOW, DENY, AUDIT, CUSTOM; did you mean "DENY"?
        "#]],
    );
    rules(
        "rules: [{form: []}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].form: there is no field "form" here; did you mean "from"?
        "#]],
    );
    rules(
        "rules: [{from: []}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from: from is an empty list; leave it out for all
        "#]],
    );
    rules(
        "rules: [{from: [{source: {}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from[0].source: the source has no fields; leave from out for all
        "#]],
    );
    rules(
        "rules: [{from: [{principals: [x]}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from[0].principals: there is no field "principals" here; known: source
        "#]],
    );
    rules(
        "rules: [{from: [{source: {principal: [x]}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.principal: there is no field "principal" here; did you mean "principals"?
        "#]],
    );
    rules(
        "rules: [{from: [{source: {principals: ['']}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.principals[0]: an empty value in principals
        "#]],
    );
    rules(
        "rules: [{from: [{source: {ipBlocks: [10.0.0.300]}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.300" is neither an address nor a block
        "#]],
    );
    rules(
        "rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.serviceAccounts[0]: "a/*" is neither a name nor namespace/name
        "#]],
    );
    rules(
        "rules: [{to: [{operation: {ports: [http]}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.ports[0]: "http" is no port
        "#]],
    );
    rules(
        "rules: [{to: [{operation: {}}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation: the operation has no fields; leave to out for all
        "#]],
    );
    rules(
        "rules: [{when: [{key: source.port, values: [x]}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].when[0]: "source.port" is no attribute
        "#]],
    );
    rules(
        "rules: [{when: [{key: source.ip, values: [x]}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].when[0].values[0]: "x" is neither an address nor a block
        "#]],
    );
    rules(
        "rules: [{when: [{key: source.ip}]}]",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.rules[0].when[0]: source.ip has neither values nor notValues
        "#]],
    );
    rules(
        "selector: {matchLabels: {app: 'w*'}}",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.selector.matchLabels[app]: "w*" does not match ^[^*]*$
        "#]],
    );
    rules(
        "selector: {matchLabel: {app: web}}",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.selector.matchLabel: there is no field "matchLabel" here; did you mean "matchLabels"?
        "#]],
    );
    rules(
        "provider: {name: x}",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec.provider: a provider goes with CUSTOM, and this is ALLOW
        "#]],
    );
    rules(
        "selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: x}",
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: spec: selector and targetRef exclude each other
        "#]],
    );
    check(
        &policy("shop", "").replace("spec:", "sepc:"),
        expect![[r#"
            ! error refused: t.yaml:2: AuthorizationPolicy shop/p: sepc: an object has no "sepc"; did you mean "spec"?
        "#]],
    );
    check(
        &policy("shop", "").replace("security.istio.io/v1,", "security.istio.io/v1alpha1,"),
        expect![[r#"
        ! error refused: t.yaml:2: AuthorizationPolicy shop/p: apiVersion: security.istio.io/v1alpha1 of AuthorizationPolicy is not served
    "#]],
    );
    check(
        &policy("shop", "").replace("AuthorizationPolicy", "AuthorisationPolicy"),
        expect![[r#"
            ! error refused: t.yaml:2: kind: security.istio.io/v1 has no kind AuthorisationPolicy
        "#]],
    );
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

/// A pod with the label app=web under the given PeerAuthentications, as (namespace, spec).
fn under(peers: &[(&str, &str)], expect: Expect) {
    let mut yaml = pod("web", "10.0.0.1", "app: web, istio.io/dataplane-mode: weft");
    for (i, (namespace, spec)) in peers.iter().enumerate() {
        let spec = spec.replace("web:", "selector: {matchLabels: {app: web}}, mtls:");
        yaml.push_str(&peer(namespace, &format!("p{i}"), &spec));
    }
    check(&yaml, expect);
}

#[test]
fn the_narrowest_mode_that_is_set_holds() {
    under(
        &[],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: STRICT}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: STRICT}"), ("shop", "mtls: {mode: PERMISSIVE}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: STRICT}"), ("shop", "mtls: {mode: UNSET}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: STRICT}"), ("shop", "mtls: null")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
    under(
        &[("shop", "mtls: {mode: STRICT}"), ("shop", "web: {mode: PERMISSIVE}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a
    "#]],
    );
    under(
        &[("shop", "mtls: {mode: PERMISSIVE}"), ("shop", "web: {mode: STRICT}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: STRICT}"), ("shop", "mtls: {}"), ("shop", "web: {}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
    under(
        &[("bank", "mtls: {mode: STRICT}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a
    "#]],
    );
    under(
        &[("istio-system", "web: {mode: STRICT}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a
        ! warning no_effect: PeerAuthentication istio-system/p0: spec.selector: a selector in the root namespace picks nothing
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: DISABLE}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a plaintext=all except {}
    "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: DISABLE}"), ("shop", "mtls: {mode: STRICT}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
}

#[test]
fn ports_differ_from_the_rest() {
    under(
        &[(
            "shop",
            "web: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}, 9090: {mode: DISABLE}, 1: {mode: STRICT}, 2: {}}",
        )],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=shop/converted_peer_authentication_p0 plaintext={9090}
            shop/converted_peer_authentication_p0 selector DENY
              if {not-principal=* not-port=8080,9090}
        "#]],
    );
    under(
        &[("shop", "web: {mode: STRICT}, portLevelMtls: {8080: {mode: STRICT}}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
    "#]],
    );
    under(
        &[("shop", "web: {mode: PERMISSIVE}, portLevelMtls: {8080: {mode: STRICT}}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=shop/converted_peer_authentication_p0
        shop/converted_peer_authentication_p0 selector DENY
          if {not-principal=* port=8080}
    "#]],
    );
    under(
        &[("shop", "web: {mode: PERMISSIVE}, portLevelMtls: {8080: {mode: DISABLE}}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a plaintext={8080}
    "#]],
    );
    under(
        &[("shop", "web: {mode: DISABLE}, portLevelMtls: {8080: {mode: STRICT}, 8081: {mode: PERMISSIVE}}")],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=shop/converted_peer_authentication_p0 plaintext=all except {8080, 8081}
            shop/converted_peer_authentication_p0 selector DENY
              if {not-principal=* port=8080}
        "#]],
    );
    under(
        &[("istio-system", "mtls: {mode: STRICT}"), ("shop", "web: {}, portLevelMtls: {8080: {mode: DISABLE}}")],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=shop/converted_peer_authentication_p1 plaintext={8080}
            shop/converted_peer_authentication_p1 selector DENY
              if {not-principal=* not-port=8080}
        "#]],
    );
    under(
        &[("shop", "web: {}, portLevelMtls: {'8080': {mode: STRICT}}")],
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=shop/converted_peer_authentication_p0
        shop/converted_peer_authentication_p0 selector DENY
          if {not-principal=* port=8080}
    "#]],
    );
    under(
        &[("shop", "web: {}, portLevelMtls: {http: {mode: STRICT}}")],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a
            ! error refused: t.yaml:8: PeerAuthentication shop/p0: spec.portLevelMtls[http]: "http" is no port
        "#]],
    );
    under(
        &[("shop", "portLevelMtls: {8080: {mode: STRICT}}")],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a
            ! error refused: t.yaml:8: PeerAuthentication shop/p0: spec.portLevelMtls: portLevelMtls needs a selector with labels
        "#]],
    );
    under(
        &[("shop", "mtls: {mode: strict}")],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a
            ! error refused: t.yaml:8: PeerAuthentication shop/p0: spec.mtls.mode: "strict" is none of UNSET, DISABLE, PERMISSIVE, STRICT; did you mean "STRICT"?
        "#]],
    );
    under(
        &[("shop", "mtls: {mod: STRICT}")],
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a
            ! error refused: t.yaml:8: PeerAuthentication shop/p0: spec.mtls.mod: there is no field "mod" here; did you mean "mode"?
        "#]],
    );
}

#[test]
fn the_oldest_of_several_wins() {
    let at = |name: &str, time: &str, spec: &str| {
        peer("shop", name, spec).replace("namespace:", &format!("creationTimestamp: '{time}', namespace:"))
    };
    let web = pod("web", "10.0.0.1", "app: web, istio.io/dataplane-mode: weft");
    let (strict, permissive) = ("mtls: {mode: STRICT}", "mtls: {mode: PERMISSIVE}");
    check(
        &[&*web, &at("a", "2026-02-01T00:00:00Z", strict), &at("b", "2026-01-01T00:00:00Z", permissive)].concat(),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a
            ! warning conflict: PeerAuthentication shop/a: b is older and the one in force
        "#]],
    );
    // Without times, by name.
    check(
        &[&*web, &peer("shop", "b", strict), &peer("shop", "a", permissive)].concat(),
        expect![[r#"
        c1//Pod/shop/web ip=10.0.0.1 hbone node=a
        ! warning conflict: PeerAuthentication shop/b: a is older and the one in force
    "#]],
    );
    let selecting = |mode: &str| format!("selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {mode}}}");
    check(
        &[
            &*web,
            &at("a", "2026-02-01T00:00:00Z", &selecting("PERMISSIVE")),
            &at("b", "2026-01-01T00:00:00Z", &selecting("STRICT")),
        ]
        .concat(),
        expect![[r#"
            c1//Pod/shop/web ip=10.0.0.1 hbone node=a policies=istio-system/istio_converted_static_strict
        "#]],
    );
}

#[test]
fn the_strict_policy_is_always_there() {
    let (_, published) = super::built("");
    let all: String = published.policies.values().map(super::policy_text).collect();
    expect![[r#"
        istio-system/istio_converted_static_strict selector DENY
          if {not-principal=*}
    "#]]
    .assert_eq(&all);
}
