use expect_test::{Expect, expect};

use super::{Config, Index, Published, check, config, pod, text};
use crate::source::manifest;

fn namespace(labels: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{{labels}}}}}}}\n")
}

#[test]
fn the_pods_label_wins_over_its_namespaces() {
    let both =
        |ns: &str, labels: &str, expect: Expect| check(&[namespace(ns), pod("p", "10.0.0.1", labels)].concat(), expect);
    both(
        "",
        "",
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a
    "#]],
    );
    both(
        "istio.io/dataplane-mode: weft",
        "",
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 hbone node=a
    "#]],
    );
    both(
        "istio.io/dataplane-mode: weft",
        "istio.io/dataplane-mode: none",
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a
    "#]],
    );
    both(
        "istio.io/dataplane-mode: none",
        "istio.io/dataplane-mode: weft",
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 hbone node=a
    "#]],
    );
    both(
        "istio.io/dataplane-mode: ambient",
        "",
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a
    "#]],
    );
    both(
        "istio-injection: enabled",
        "",
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a
    "#]],
    );
}

#[test]
fn pods_on_the_nodes_network_are_never_enrolled() {
    let pod =
        pod("p", "10.0.0.1", "istio.io/dataplane-mode: weft").replace("nodeName: a", "nodeName: a, hostNetwork: true");
    check(
        &pod,
        expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a host-network
    "#]],
    );
}

#[test]
fn other_labels_enrol_where_they_are_honoured() {
    let modes = ["ambient".into(), "istio-injection=enabled".into()];
    let mut index = Index::new(Config { dataplane_modes: modes.into(), ..config() });
    let mut published = Published::default();
    published
        .take(index.apply(manifest("t", &[namespace("istio-injection: enabled"), pod("p", "10.0.0.1", "")].concat())));
    expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 hbone node=a
    "#]]
    .assert_eq(&text(&index, &published));
    let out = pod("p", "10.0.0.1", "istio-injection: disabled");
    published.take(index.apply(manifest("t", &out)));
    expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 node=a
    "#]]
    .assert_eq(&text(&index, &published));
    published.take(
        index.apply(manifest("t", &[namespace("istio.io/dataplane-mode: ambient"), pod("p", "10.0.0.1", "")].concat())),
    );
    expect![[r#"
        c1//Pod/shop/p ip=10.0.0.1 hbone node=a
    "#]]
    .assert_eq(&text(&index, &published));
}

#[test]
fn an_entrys_namespace_enrols_it() {
    let entry = "---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 192.0.2.1}}\n";
    check(
        &[namespace("istio.io/dataplane-mode: weft").as_str(), entry].concat(),
        expect![[r#"
        c1/networking.istio.io/WorkloadEntry/shop/vm ip=192.0.2.1 hbone
    "#]],
    );
}
