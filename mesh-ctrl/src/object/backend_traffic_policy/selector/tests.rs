use serde_json::json;

use super::*;

/// What selectors come to, as JSON of the model.
fn shown(yaml: serde_json::Value) -> String {
    let selectors: Vec<Selector> = serde_json::from_value(yaml).expect("selectors");
    match read(&selectors, "s") {
        Ok(selected) => {
            let mut rules = serde_json::to_value(&selected.rules).expect("JSON");
            prune(&mut rules);
            format!("{rules} by {}", serde_json::to_value(&selected.by).expect("JSON"))
        }
        Err(mistake) => format!("{}: {}", mistake.field, mistake.message),
    }
}

fn prune(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

#[test]
fn conditions_are_those_of_policies() {
    let header = |name: &str, rest: serde_json::Value| {
        let mut header = json!({"name": name});
        header.as_object_mut().expect("an object").extend(rest.as_object().cloned().unwrap_or_default());
        json!([{"headers": [header]}])
    };
    for (selectors, expected) in [
        (json!([]), "[] by []"),
        (
            header("X-User", json!({"value": "Ann"})),
            r#"[{"when":[{"key":{"request_header":"x-user"},"values":[{"exact":"Ann"}]}]}] by []"#,
        ),
        (
            header("x", json!({"value": "a|b", "type": "RegularExpression", "invert": true})),
            r#"[{"when":[{"key":{"request_header":"x"},"not_values":[{"regex":"a|b"}]}]}] by []"#,
        ),
        (
            header("x", json!({"type": "Distinct"})),
            r#"[{"when":[{"key":{"request_header":"x"},"values":["present"]}]}] by [{"header":"x"}]"#,
        ),
        (header(":identity", json!({"type": "Distinct"})), r#"[] by ["identity"]"#),
        (
            header(":identity", json!({"value": "spiffe://td/ns/a/sa/b"})),
            r#"[{"when":[{"key":"source_principal","values":[{"exact":"td/ns/a/sa/b"}]}]}] by []"#,
        ),
        (header(":Namespace", json!({"type": "Distinct"})), r#"[] by ["namespace"]"#),
        (
            header(":request-principal", json!({"type": "Distinct"})),
            r#"[{"when":[{"key":"request_principal","values":["present"]}]}] by ["request_principal"]"#,
        ),
        (header("host", json!({"type": "Distinct"})), r#"[] by ["host"]"#),
        (header(":path", json!({"type": "Distinct"})), r#"[] by ["path"]"#),
        (
            header(":remote-ip", json!({"value": "10.1.2.3"})),
            r#"[{"when":[{"key":"remote_ip","values":[{"exact":"10.1.2.3/32"}]}]}] by []"#,
        ),
        (
            json!([{"sourceCIDR": {"value": "10.1.2.3/8", "type": "Distinct"}}]),
            r#"[{"when":[{"key":"source_ip","values":[{"exact":"10.0.0.0/8"}]}]}] by ["source_ip"]"#,
        ),
        (
            json!([{"methods": [{"value": "GET"}, {"value": "HEAD"}]}]),
            r#"[{"when":[{"key":{"request_header":":method"},"values":[{"exact":"GET"},{"exact":"HEAD"}]}]}] by []"#,
        ),
        (
            json!([{"methods": [{"value": "PUT"}, {"value": "GET", "invert": true}]}]),
            r#"[{"when":[{"key":{"request_header":":method"},"not_values":[{"exact":"GET"}]}]}] by []"#,
        ),
        (json!([{"methods": [{"value": "GET"}, {"value": "GET", "invert": true}]}]), "[] by []"),
        (json!([{"methods": [{"value": "PUT", "invert": true}, {"value": "GET", "invert": true}]}]), "[] by []"),
        (
            json!([{"path": {"value": "/a/"}}, {"path": {"value": "/a/b", "type": "Exact", "invert": true}}]),
            r#"[{"to":[{"not_paths":[{"text":{"exact":"/a/b"}}],"paths":[{"text":{"exact":"/a"}},{"text":{"prefix":"/a/"}}]}]}] by []"#,
        ),
        (json!([{"path": {}}]), "[] by []"),
    ] {
        assert_eq!(shown(selectors.clone()), expected, "{selectors}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (selectors, expected) in [
        (json!([{}]), "s[0]: one of headers, methods, path and sourceCIDR is needed"),
        (json!([{"headers": [{"name": "x"}]}]), "s[0].headers[0]: a value is needed"),
        (json!([{"headers": [{"name": "a b", "value": "x"}]}]), r#"s[0].headers[0]: "a b" is no header"#),
        (json!([{"headers": [{"name": ":account", "value": "x"}]}]), r#"s[0].headers[0]: ":account" is no header"#),
        (
            json!([{"headers": [{"name": "x", "type": "Distinct", "value": "y"}]}]),
            "s[0].headers[0]: with Distinct there is neither value nor invert",
        ),
        (
            json!([{"headers": [{"name": ":source-ip", "type": "RegularExpression", "value": "y"}]}]),
            "s[0].headers[0]: an address has no regular expression",
        ),
        (json!([{"path": {"value": "a"}}]), r#"s[0].path: "a" does not begin with '/'"#),
        (json!([{"path": {"invert": true}}]), "s[0].path: every path begins with '/': this is for no request"),
        (
            json!([{"path": {"value": "/a"}}, {"path": {"value": "/a/b"}}]),
            "s[1].path: only one selector of a rule can have a path that is not inverted",
        ),
    ] {
        assert_eq!(shown(selectors.clone()), expected, "{selectors}");
    }
    let bad = json!([{"headers": [{"name": "x", "type": "RegularExpression", "value": "("}]}]);
    assert!(shown(bad).starts_with("s[0].headers[0]: \"(\" cannot be read"));
    for unknown in [
        json!([{"queryParams": []}]),
        json!([{"headers": [{"name": "x", "value": "y", "exact": true}]}]),
        json!([{"sourceCIDR": {"value": "10.0.0.0/33"}}]),
    ] {
        assert!(serde_json::from_value::<Vec<Selector>>(unknown.clone()).is_err(), "{unknown}");
    }
}
