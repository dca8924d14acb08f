use std::fmt::Write;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// Plays a history: `== path` begins a file's new content, `== path gone` takes it away. Each step is one update.
fn check(history: &str, expect: Expect) {
    let mut folder = Folder::new(Limits::default());
    let mut out = String::new();
    for step in history.split("== ").skip(1) {
        let (head, body) = step.split_once('\n').unwrap_or((step, ""));
        let (path, content) = match head.trim().split_once(' ') {
            Some((path, "gone")) => (path, Content::Gone),
            Some((path, "unreadable")) => (path, Content::Unreadable("permission denied".into())),
            _ => (head.trim(), Content::Bytes(body.as_bytes().to_vec())),
        };
        writeln!(out, "== {head}").unwrap();
        out.push_str(&events(folder.update(&[(path.into(), content)])));
    }
    expect.assert_eq(&out);
}

fn events(events: Vec<Event>) -> String {
    let mut out = String::new();
    for event in events {
        match event {
            Event::Apply(object) => writeln!(out, "apply {}", object.key()).unwrap(),
            Event::Delete(key) => writeln!(out, "delete {key}").unwrap(),
            Event::Standing(key, _) => panic!("a folder knows no status of {key}"),
            Event::InitialSynced => out.push_str("synced\n"),
            Event::Findings(findings) if findings.is_empty() => out.push_str("all well\n"),
            Event::Findings(findings) => findings.iter().for_each(|f| writeln!(out, "! {f}").unwrap()),
        }
    }
    out
}

#[test]
fn documents_lists_and_json_are_read_alike() {
    check(
        r#"== a.yaml
# a comment
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: one}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: two, namespace: shop}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, namespace: ignored}}
- {apiVersion: v1, kind: Endpoints, metadata: {name: s}}
...
== b.json
{
	"apiVersion": "v1",
	"kind": "PodList",
	"items": [
		{"metadata": {"name": "p", "namespace": "shop"}, "spec": {}}
	]
}
== c.yaml
apiVersion: v1
kind: ConfigMapList
items: [{metadata: {name: x}}, {metadata: {name: y}}]
== empty.yaml
"#,
        expect![[r#"
            == a.yaml
            apply Namespace shop
            apply ServiceAccount default/one
            apply ServiceAccount shop/two
            ! info skipped: a.yaml:13: v1 Endpoints is not read
            == b.json
            apply Pod shop/p
            == c.yaml
            ! info skipped: a.yaml:13: v1 Endpoints is not read
            ! info skipped: c.yaml:3: 2 of v1 ConfigMap are not read
            == empty.yaml
        "#]],
    );
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_content() {
    check(
        "== a.yaml\n{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
         == a.yaml\napiVersion: v1\nkind: Namespace\nmetadata: {name: a\n\
         == a.yaml\n{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
         == a.yaml unreadable\n\
         == a.yaml gone\n",
        expect![[r#"
            == a.yaml
            apply Namespace a
            == a.yaml
            ! error syntax: a.yaml:3: unclosed bracket '{'
            == a.yaml
            all well
            == a.yaml unreadable
            ! error unreadable: a.yaml: permission denied
            == a.yaml gone
            delete Namespace a
            all well
        "#]],
    );
    check(
        "== a.yaml\n{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: b}}\n\
         == a.yaml\n{apiVersion: v1, kind: Namespace, metadata: {name: b}}\n",
        expect![[r#"
            == a.yaml
            apply Namespace a
            apply Namespace b
            == a.yaml
            delete Namespace a
        "#]],
    );
}

#[test]
fn a_wrong_object_is_refused_alone_and_its_last_version_stays() {
    check(
        r#"== a.yaml
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.1}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: DENY
  rules:
  - from:
    - source:
        namespaces: [bad]
== a.yaml
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.2}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: DENY
  rules:
  - from:
    - source:
        namespaces: [bad]
    - source:
        namespace: [worse]
== a.yaml
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: P}
spec: {}
== a.yaml
apiVersion: security.istio.io/v1
kind: AuthorisationPolicy
metadata: {name: p}
spec: {}
== a.yaml
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec: {}
spec: {action: DENY}
== a.yaml
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: p}
"#,
        expect![[r#"
            == a.yaml
            apply Service default/web
            apply AuthorizationPolicy default/p
            == a.yaml
            apply Service default/web
            ! error refused: a.yaml:16: AuthorizationPolicy default/p: spec.rules[0].from[1].source.namespace: there is no field "namespace" here; did you mean "namespaces"?
            == a.yaml
            ! error refused: a.yaml:3: metadata: "P" is no object name
            == a.yaml
            ! error refused: a.yaml:2: kind: security.istio.io/v1 has no kind AuthorisationPolicy
            == a.yaml
            delete Service default/web
            ! error refused: a.yaml:5: AuthorizationPolicy default/p: key "spec" stands twice
            == a.yaml
            delete AuthorizationPolicy default/p
            apply RequestAuthentication default/p
            all well
        "#]],
    );
}

#[test]
fn lines_point_at_the_field_in_the_right_document() {
    check(
        r#"== a.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: a
---
# two
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  ports:
  - port: 80
  - name: x
    port: 99999
---
apiVersion: v1
kind: Pod
metadata:
  name: p
  labels:
    app.kubernetes.io/name:
      - x
---
kind: Pod
---
[1, 2]
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: q}
  status:
    podIP: nonsense
"#,
        expect![[r#"
            == a.yaml
            apply Namespace a
            ! error refused: a.yaml:25: apiVersion and kind are needed
            ! error refused: a.yaml:27: not a Kubernetes object
            ! error refused: a.yaml:22: Pod default/p: metadata.labels.app.kubernetes.io/name: invalid type: sequence, expected a string
            ! error refused: a.yaml:36: Pod default/q: status.podIP: "nonsense" is no IP address
            ! error refused: a.yaml:15: Service default/web: spec.ports[1].port: invalid value: integer `99999`, expected a port from 1 to 65535
        "#]],
    );
}

#[test]
fn the_first_file_by_path_has_the_object_and_the_next_takes_over() {
    let one = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.0.0.1}}\n";
    let two = one.replace("0.1", "0.2");
    check(
        &format!("== b.yaml\n{one}== a.yaml\n{two}== a.yaml gone\n== b.yaml gone\n"),
        expect![[r#"
        == b.yaml
        apply Service default/s
        == a.yaml
        apply Service default/s
        ! warning duplicate: b.yaml:1: Service default/s: stands in a.yaml too, which is the one in force
        == a.yaml gone
        apply Service default/s
        all well
        == b.yaml gone
        delete Service default/s
    "#]],
    );
    check(
        &format!("== a.yaml\n{one}---\n{two}"),
        expect![[r#"
        == a.yaml
        apply Service default/s
        ! warning duplicate: a.yaml:3: Service default/s: stands on line 1 too, which is the one in force
    "#]],
    );
}

#[test]
fn an_object_that_moves_between_files_in_one_batch_is_no_change() {
    let mut folder = Folder::new(Limits::default());
    let text = || Content::Bytes(b"{apiVersion: v1, kind: Namespace, metadata: {name: a}}".to_vec());
    folder.update(&[("a.yaml".into(), text())]);
    let moved = folder.update(&[("a.yaml".into(), Content::Gone), ("b.yaml".into(), text())]);
    assert_eq!(events(moved), "");
    let back = folder.update(&[("a.yaml".into(), text()), ("b.yaml".into(), Content::Gone)]);
    assert_eq!(events(back), "");
}

#[test]
fn aliases_and_merges_work_and_bombs_do_not() {
    check(
        "== a.yaml\nbase: &base {app: x}\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {<<: *base, tier: t}\n\
         == loop.yaml\na: &a [*a]\n\
         == unknown.yaml\na: *nope\n",
        expect![[r#"
            == a.yaml
            apply Namespace a
            == loop.yaml
            ! error syntax: loop.yaml:1: an alias inside the value that it stands for
            == unknown.yaml
            ! error syntax: loop.yaml:1: an alias inside the value that it stands for
            ! error syntax: unknown.yaml:1: while parsing node, found unknown anchor
        "#]],
    );
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(bomb, "a{i}: &a{i} [{list}]").unwrap();
    }
    let limits = Limits::default();
    let said = |text: &str| yaml::documents(text, &limits).err().map(|m| m.message);
    assert_eq!(said(&bomb).as_deref(), Some("aliases make more than 100000 values"));
    assert!(said(&"[".repeat(10_000)).is_some());
    assert!(said(&"- ".repeat(10_000)).is_some());
    assert!(said(&"{a: ".repeat(10_000)).is_some());
    let mut nested = "a0: &a0 [x]\n".to_owned();
    (1..150).for_each(|i| writeln!(nested, "a{i}: &a{i} [*a{}]", i - 1).unwrap());
    assert_eq!(said(&nested).as_deref(), Some("nested deeper than 100"));
}

#[test]
fn only_manifests_are_read() {
    for (path, is) in [
        ("a.yaml", true),
        ("d/a.yml", true),
        ("a.json", true),
        (".a.yaml", false),
        ("a.yaml~", false),
        ("a.txt", false),
    ] {
        assert_eq!(is_manifest(&PathBuf::from(path)), is, "{path}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_objects_or_findings(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        Folder::new(Limits::default()).update(&[("a.yaml".into(), Content::Bytes(bytes))]);
    }

    #[test]
    fn arbitrary_yaml_is_objects_or_findings(
        parts in prop::collection::vec(prop::sample::select(vec![
            "apiVersion: ", "v1", "kind: ", "Pod", "List", "items:", "metadata:", "{name: a}", "\n", "\n  ", "\n- ", "---\n", "&a ", "*a", "<<: ",
            "[", "]", "{", "}", ": ", ", ", "? ", "|\n", ">\n", "'", "\"", "!!str ", "# c\n", "spec:", "status:", "1e999", "0x", "\t", "...\n", "%YAML 1.2\n",
            "security.istio.io/v1", "AuthorizationPolicy", "rules:", "from:", "é", "\u{feff}", "null", "~",
        ]), 0..60)
    ) {
        let text = parts.concat();
        Folder::new(Limits::default()).update(&[("a.yaml".into(), Content::Bytes(text.into_bytes()))]);
    }

    #[test]
    fn half_a_file_takes_nothing_of_what_was_there(cut in 0usize..200) {
        let whole = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - port: 80\n";
        let mut folder = Folder::new(Limits::default());
        folder.update(&[("a.yaml".into(), Content::Bytes(whole.as_bytes().to_vec()))]);
        let half = &whole.as_bytes()[..cut.min(whole.len())];
        folder.update(&[("a.yaml".into(), Content::Bytes(half.to_vec()))]);
        folder.update(&[("a.yaml".into(), Content::Bytes(whole.as_bytes().to_vec()))]);
        let key = folder.holders.keys().next().cloned().expect("the object is back");
        prop_assert_eq!(key.to_string(), "Service default/web");
        prop_assert!(folder.reported.is_empty());
    }
}
