//! Fields of VirtualServices and DestinationRules that do nothing: each is named with its path.

use super::{WORLD, models};

fn findings(kind: &str, spec: &str) -> Vec<String> {
    let object = format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: r, namespace: shop}}, spec: {{{spec}}}}}\n"
    );
    let start = format!("! info no_effect: {kind} shop/r: ");
    let said = models(&[WORLD, &object].concat());
    let found = said.lines().filter(|line| line.starts_with('!')).map(|line| {
        let place = line.strip_prefix(&start).unwrap_or_else(|| panic!("{spec}: {said}"));
        place.split(": ").next().unwrap_or_default().to_owned()
    });
    found.collect()
}

#[test]
fn fields_of_a_destination_rule() {
    for (written, place) in [
        ("tunnel: {targetHost: a.example, targetPort: 80}", "tunnel"),
        ("proxyProtocol: {version: V1}", "proxyProtocol"),
        ("tls: {mode: SIMPLE, caCrl: /crl}", "tls.caCrl"),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s, attributes: [{name: SameSite, value: Lax}]}}}",
            "loadBalancer.consistentHash.httpCookie.attributes",
        ),
        ("outlierDetection: {consecutiveErrors: 3}", "outlierDetection.consecutiveErrors"),
    ] {
        let whole = format!("host: web, trafficPolicy: {{{written}}}");
        assert_eq!(findings("DestinationRule", &whole), [format!("spec.trafficPolicy.{place}")]);
        let subset = format!("host: web, subsets: [{{name: a}}, {{name: b, trafficPolicy: {{{written}}}}}]");
        assert_eq!(findings("DestinationRule", &subset), [format!("spec.subsets[1].trafficPolicy.{place}")]);
        if !["tunnel", "proxyProtocol"].contains(&place) {
            let port =
                format!("host: web, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {written}}}]}}");
            let place = format!("spec.trafficPolicy.portLevelSettings[0].{place}");
            assert_eq!(findings("DestinationRule", &port), [place]);
        }
    }
    assert_eq!(
        findings("DestinationRule", "host: web, workloadSelector: {matchLabels: {a: b}}"),
        ["spec.workloadSelector"]
    );
}

#[test]
fn fields_of_a_virtual_service() {
    let to = "route: [{destination: {host: web}}]";
    for (rules, place) in [
        (format!("http: [{{match: [{{uri: {{prefix: /}}, statPrefix: s}}], {to}}}]"), "http[0].match[0].statPrefix"),
        (
            format!("http: [{{retries: {{attempts: 1, retryOn: 'retriable-headers,5xx'}}, {to}}}]"),
            "http[0].retries.retryOn",
        ),
        (
            format!("http: [{{retries: {{attempts: 1, retryOn: 'http3-post-connect-failure'}}, {to}}}]"),
            "http[0].retries.retryOn",
        ),
        (
            format!("http: [{{retries: {{attempts: 1, retryOn: 'envoy-ratelimited'}}, {to}}}]"),
            "http[0].retries.retryOn",
        ),
        (
            format!("http: [{{retries: {{attempts: 1, retryRemoteLocalities: true}}, {to}}}]"),
            "http[0].retries.retryRemoteLocalities",
        ),
        ("http: [{redirect: {uri: /x, derivePort: FROM_PROTOCOL_DEFAULT}}]".to_owned(), "http[0].redirect.derivePort"),
        (format!("tcp: [{{match: [{{sourceSubnet: 10.0.0.0/8}}], {to}}}]"), "tcp[0].match[0].sourceSubnet"),
    ] {
        assert_eq!(findings("VirtualService", &format!("hosts: [web], {rules}")), [format!("spec.{place}")]);
    }
}
