use expect_test::{Expect, expect};

use super::*;

const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "bridge", "type": "weft-cni", "socket": "/run/weft/cni.sock",
    "meshed": "/etc/cni/net.d/weft.d/mesh.json", "runtimeConfig": {"somebodys": 1},
    "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}],  "unknown": 1.50e7 }}"#;
const ARGS: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u1";

fn call(command: &str, args: &str) -> Environment {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Environment { command: text(command), netns: text("/var/run/netns/cni-1"), args: text(args) }
}

fn check(environment: &Environment, stdin: &str, expect: Expect) {
    let seen = match read(environment, stdin) {
        Ok(call) => format!("{call:?}"),
        Err(failure) => failure.to_json(&version(stdin)),
    };
    expect.assert_eq(&seen);
}

#[test]
fn the_result_before_is_passed_on_byte_by_byte() {
    let environment = call("ADD", ARGS);
    let Ok(Call::Add { result, pod, .. }) = read(&environment, NETWORK) else { panic!("an ADD") };
    assert_eq!(result, r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}],  "unknown": 1.50e7 }"#);
    assert_eq!(pod, Some(Pod { namespace: "shop".into(), name: "web".into(), uid: "u1".into() }));
}

#[test]
fn calls_are_read_or_refused_with_the_specifications_numbers() {
    check(&call("VERSION", ""), "", expect!["Version"]);
    for command in ["CHECK", "STATUS", "GC"] {
        check(&call(command, ARGS), "{}", expect!["Nothing"]);
    }
    check(
        &call("", ""),
        "",
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"CNI_COMMAND is not set: container runtimes call this program, not people"}"#
        ]],
    );
    check(
        &call("PAT", ""),
        "",
        expect![[r#"{"cniVersion":"1.1.0","code":4,"msg":"CNI_COMMAND \"PAT\" is not known"}"#]],
    );
    check(
        &call("ADD", ARGS),
        &NETWORK.replace("1.0.0", "0.2.0"),
        expect![[
            r#"{"cniVersion":"0.2.0","code":1,"msg":"cniVersion \"0.2.0\" is none of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"}"#
        ]],
    );
    check(
        &call("ADD", ARGS),
        &NETWORK.replace("socket", "sock"),
        expect![[
            r#"{"cniVersion":"1.0.0","code":6,"msg":"the network configuration of ADD: missing field `socket` at line 3 column 100"}"#
        ]],
    );
    check(
        &call("ADD", ARGS),
        &NETWORK.replace("prevResult", "result"),
        expect![[
            r#"{"cniVersion":"1.0.0","code":7,"msg":"there is no prevResult: weft-cni makes no network and has to stand behind a plugin that does"}"#
        ]],
    );
    check(
        &call("ADD", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"),
        NETWORK,
        expect![[
            r#"{"cniVersion":"1.0.0","code":4,"msg":"CNI_ARGS has no K8S_POD_UID: the runtime is too old for this plugin"}"#
        ]],
    );
    let unset = Environment { netns: None, ..call("ADD", ARGS) };
    check(&unset, NETWORK, expect![[r#"{"cniVersion":"1.0.0","code":4,"msg":"CNI_NETNS is not set"}"#]]);
}

#[test]
fn what_is_no_pod_of_kubernetes_is_none() {
    assert!(matches!(read(&call("ADD", "IgnoreUnknown=1"), NETWORK), Ok(Call::Add { pod: None, .. })));
    assert!(matches!(read(&call("DEL", ""), NETWORK), Ok(Call::Delete { pod: None, .. })));
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_is_read_without_a_panic(args in ".*", stdin in ".*", command in "ADD|DEL|.*") {
        let _ = read(&call(&command, &args), &stdin);
    }
}
