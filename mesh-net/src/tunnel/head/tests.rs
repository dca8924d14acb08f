use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn check(authority: &str, fields: &[(&'static str, &str)], expect: Expect) {
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let seen = match Head::from_fields(authority, fields) {
        Ok((head, ignored)) => {
            let mut text = head.authority.clone();
            for (name, value) in head.fields() {
                write!(text, " | {}: {value}", String::from_utf8_lossy(name)).unwrap();
            }
            if ignored > 0 {
                write!(text, " | ignored {ignored}").unwrap();
            }
            text
        }
        Err(e) => e.to_string(),
    };
    expect.assert_eq(&seen);
}

#[test]
fn authorities_are_host_and_port_and_nothing_else() {
    for good in ["10.0.0.1:80", "[2001:db8::1]:65535", "web.shop.svc.cluster.local:8080", "a:1", "a_b.c.:53", "1a:9"] {
        assert_eq!(check_authority(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        ":",
        ":80",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:+80",
        "10.0.0.1:080080",
        "2001:db8::1:80",
        "[2001:db8::1]",
        "[2001:db8::1%eth0]:80",
        "[10.0.0.1]:80",
        "user@10.0.0.1:80",
        "a b:80",
        "-a:80",
        "a-:80",
        "a..b:80",
        ".a:80",
        "10.0.0.256:80",
        "010.0.0.1.5:80",
        "*.example.com:80",
        "a/b:80",
        "é:80",
        "1:80",
        "0x7f.1:80",
    ] {
        assert_eq!(check_authority(bad), Err(InvalidHead::Authority), "{bad}");
    }
    assert!(check_authority(&format!("{}:80", "a.".repeat(130))).is_err());
}

#[test]
fn optional_fields_are_read_and_bad_ones_left_out() {
    check("10.0.0.1:80", &[], expect!["10.0.0.1:80"]);
    check("10.0.0.1:0", &[], expect!["the authority is not host:port"]);
    check(
        "10.0.0.1:80",
        &[(
            "baggage",
            "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1",
        )],
        expect![
            "10.0.0.1:80 | baggage: k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1"
        ],
    );
    check(
        "10.0.0.1:80",
        &[("baggage", " k8s.job.name = x%20y ; p=1 , unknown=%zz, service.name=, k8s.pod.name=second")],
        expect!["10.0.0.1:80 | baggage: k8s.job.name=x%20y"],
    );
    for bad in ["service.name", "service.name=%0a", "service.name=%e9", "service.name=%4", "service.name=a\"b"] {
        check("10.0.0.1:80", &[("baggage", bad)], expect!["10.0.0.1:80 | ignored 1"]);
    }
    check(
        "10.0.0.1:80",
        &[("baggage", "service.name=a"), ("baggage", "service.name=b")],
        expect!["10.0.0.1:80 | ignored 1"],
    );
    check(
        "10.0.0.1:80",
        &[("forwarded", r#"For="[2001:db8::7]:4711";Host=web.shop:80;proto=http"#)],
        expect![[r#"10.0.0.1:80 | forwarded: for="[2001:db8::7]:4711";host="web.shop:80""#]],
    );
    check("10.0.0.1:80", &[("forwarded", "for=10.1.2.3:4")], expect![[r#"10.0.0.1:80 | forwarded: for="10.1.2.3:4""#]]);
    for bad in [
        "",
        "for=10.1.2.3",
        "for=unknown",
        r#"for="10.1.2.3:4"#,
        "for=10.1.2.3:4, for=10.1.2.4:5",
        "host=a",
        "for=10.1.2.3:4;for=10.1.2.3:4",
        "for=10.1.2.3:4;host=\"a b\"",
        "for=10.1.2.3:4;=x",
    ] {
        check("10.0.0.1:80", &[("forwarded", bad)], expect!["10.0.0.1:80 | ignored 1"]);
    }
    check(
        "a:1",
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        expect!["a:1 | traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    );
    for bad in [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        "x",
    ] {
        check("a:1", &[("traceparent", bad)], expect!["a:1 | ignored 1"]);
    }
}

fn name() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[^\\p{C}]{1,40}")
}

fn baggage() -> impl Strategy<Value = Baggage> {
    let kind = prop_oneof![
        Just(WorkloadKind::Deployment),
        Just(WorkloadKind::CronJob),
        Just(WorkloadKind::Pod),
        Just(WorkloadKind::Job)
    ];
    let workload = proptest::option::of((kind, "[^\\p{C}]{1,40}"));
    (name(), name(), workload, name(), name()).prop_map(
        |(cluster, namespace, workload, service_name, service_version)| Baggage {
            cluster,
            namespace,
            workload,
            service_name,
            service_version,
        },
    )
}

proptest! {
    #[test]
    fn baggage_survives_the_wire(baggage in baggage()) {
        prop_assert_eq!(Baggage::parse(&baggage.encode()), Ok(baggage));
    }

    #[test]
    fn forwarded_survives_the_wire(ip: std::net::IpAddr, port: u16, host in proptest::option::of("[a-z][a-z0-9]{0,9}(\\.[a-z][a-z0-9]{0,9}){0,3}(:[1-9][0-9]{0,3})?")) {
        let forwarded = Forwarded { for_: SocketAddr::new(ip, port), host };
        prop_assert_eq!(Forwarded::parse(&forwarded.encode()), Ok(forwarded));
    }

    #[test]
    fn arbitrary_text_never_panics(text: String) {
        let _ = check_authority(&text);
        let _ = Baggage::parse(&text);
        let _ = Forwarded::parse(&text);
        let _ = check_traceparent(&text);
    }

    #[test]
    fn nearly_right_text_never_panics(text in "(for|host|by|k8s.pod.name|service.name|[a-z]{0,3})[=;,\"\\\\%:\\[\\]0-9a-f.]{0,40}") {
        let _ = check_authority(&text);
        let _ = Forwarded::parse(&text);
        if let Ok(baggage) = Baggage::parse(&text) {
            prop_assert_eq!(Baggage::parse(&baggage.encode()), Ok(baggage));
        }
    }

    #[test]
    fn arbitrary_field_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Head::from_fields("10.0.0.1:80", [BAGGAGE, FORWARDED, TRACEPARENT].map(|name| (name, &bytes[..])));
    }
}
