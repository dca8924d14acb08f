use expect_test::{Expect, expect};

use super::*;

const OURS: &str = r#"{"type":"weft-cni","timeoutSeconds":20}"#;

fn check(text: &str, expect: Expect) {
    expect.assert_eq(&insert(text, OURS).unwrap_or_else(|why| format!("! {why}")));
}

#[test]
fn the_plugin_comes_last_and_nothing_else_changes() {
    check(
        "{\"cniVersion\": \"1.0.0\", \"name\": \"bridge\", \"plugins\": [\n  {\"type\": \"bridge\", \"mtu\": 1e3},\n  {\"type\": \"portmap\"}\n], \"somebodys\": [1,  2.50]}\n",
        expect![[r#"
            {"cniVersion": "1.0.0", "name": "bridge", "plugins": [
              {"type": "bridge", "mtu": 1e3},
              {"type": "portmap"},
              {"type":"weft-cni","timeoutSeconds":20}
            ], "somebodys": [1,  2.50]}
        "#]],
    );
    check(
        r#"{"plugins":[{"type":"ptp"}],"cniVersions":["0.2.0","1.1.0"]}"#,
        expect![[
            r#"{"plugins":[{"type":"ptp"},{"type":"weft-cni","timeoutSeconds":20}],"cniVersions":["0.2.0","1.1.0"]}"#
        ]],
    );
}

#[test]
fn an_entry_of_ours_is_left_replaced_or_taken_out_if_there_are_two() {
    let there = r#"{"cniVersion": "1.0.0", "plugins": [{"type": "ptp"}, {"timeoutSeconds": 20, "type": "weft-cni"}, {"type": "bandwidth"}]}"#;
    assert_eq!(insert(there, OURS).unwrap(), there);
    check(
        &there.replace("20", "5"),
        expect![[
            r#"{"cniVersion": "1.0.0", "plugins": [{"type": "ptp"}, {"type": "bandwidth"}, {"type":"weft-cni","timeoutSeconds":20}]}"#
        ]],
    );
    check(
        r#"{"cniVersion": "1.0.0", "plugins": [{"type": "weft-cni"}, {"type": "weft-cni"}, {"type": "ptp"}, {"type": "weft-cni"}]}"#,
        expect![[r#"{"cniVersion": "1.0.0", "plugins": [{"type": "ptp"},{"type":"weft-cni","timeoutSeconds":20}]}"#]],
    );
}

#[test]
fn what_the_plugin_cannot_be_chained_into_is_refused_with_the_reason() {
    check(r#"{"cniVersion": "1.0.0", "plugins": []}"#, expect!["! it has no plugin that makes a network"]);
    check(
        r#"{"cniVersion": "1.0.0", "plugins": [{"type": "weft-cni"}]}"#,
        expect!["! it has no plugin that makes a network"],
    );
    check(r#"{"cniVersion": "1.0.0", "type": "bridge"}"#, expect!["! it has no plugin that makes a network"]);
    check(
        r#"{"cniVersion": "0.2.0", "plugins": [{"type": "ptp"}]}"#,
        expect![[
            r#"! cniVersion "0.2.0", in which plugins cannot be chained; it takes one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"#
        ]],
    );
    check(
        r#"{"cniVersion": "1.0.0", "plugins": [{"type": "ptp"}"#,
        expect!["! not a network configuration: EOF while parsing a list at line 1 column 51"],
    );
    check("", expect!["! not a network configuration: EOF while parsing a value at line 1 column 0"]);
}

#[test]
fn taking_it_out_again_leaves_the_bytes_of_before() {
    for text in [
        "{\"cniVersion\": \"1.0.0\", \"plugins\": [ {\"type\": \"ptp\"} ] }",
        "{\n\t\"plugins\": [\n\t\t{\"type\": \"ptp\"},\n\t\t{\"type\": \"x\", \"y\": \"ü\\u00fc\"}\n\t],\n\t\"cniVersion\": \"0.4.0\"\n}\n",
    ] {
        let with = insert(text, OURS).unwrap();
        assert!(has_plugin(&with) && !has_plugin(text));
        assert_eq!(remove(&with).unwrap(), text);
        assert_eq!(remove(text).unwrap(), text);
    }
}

#[test]
fn a_single_configuration_becomes_a_list_of_itself() {
    let single = "{\"cniVersion\": \"0.3.1\", \"name\": \"net\", \"type\": \"ptp\", \"ipam\": {}}\n";
    let list = list_of(single).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&list).unwrap()["plugins"][0],
        serde_json::from_str::<Value>(single).unwrap()
    );
    check(
        &list,
        expect![[r#"
        {
          "cniVersion": "0.3.1",
          "name": "net",
          "plugins": [
            {"cniVersion": "0.3.1", "name": "net", "type": "ptp", "ipam": {}},
            {"type":"weft-cni","timeoutSeconds":20}
          ]
        }
    "#]],
    );
    assert_eq!(
        list_of(r#"{"cniVersion": "1.0.0", "name": "net"}"#).unwrap_err().to_string(),
        "a configuration without a type"
    );
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_is_edited_without_a_panic(text in r#"(\{|\}|\[|\]|"plugins":|"type":|"weft-cni"|"cniVersion":"1.0.0"|,|ü| ){0,40}"#) {
        let _ = (insert(&text, OURS), remove(&text), list_of(&text));
    }
}
