//! How connections to a service are made: of DestinationRule and Sidecar.

use super::port;
use crate::finding::Code;
use crate::node::Node;
use crate::report::Report;
use crate::syntax::address::is_port;
use crate::syntax::host::{domain, is_ip};

pub(super) fn check(policy: &Node, report: &mut Report) {
    const FIELDS: [&str; 8] = [
        "outlierDetection",
        "connectionPool",
        "loadBalancer",
        "tls",
        "portLevelSettings",
        "tunnel",
        "proxyProtocol",
        "retryBudget",
    ];
    if policy.present(&FIELDS).is_empty() {
        report.add(Code::EmptySetting, policy, "a traffic policy needs one field at least");
    }
    if policy.has("tunnel") && policy.has("proxyProtocol") {
        report.add(Code::ConflictingSettings, policy, "tunnel and proxyProtocol exclude each other");
    }
    check_parts(policy, report);
    for settings in policy.list("portLevelSettings") {
        if settings.present(&FIELDS[..4]).is_empty() {
            report.add(Code::EmptySetting, &settings, "settings of a port need one field besides the port");
        }
        match settings.get("port") {
            None => report.add(Code::MissingSetting, &settings, "settings of a port need the port"),
            Some(selector) if !is_port(selector.int("number").unwrap_or(0)) => {
                let number = selector.int("number").unwrap_or(0);
                report.add(Code::BadPort, &selector, format!("{number} is no port"));
            }
            Some(_) => {}
        }
        check_parts(&settings, report);
    }
    if let Some(tunnel) = policy.get("tunnel") {
        check_tunnel(&tunnel, report);
    }
}

fn check_parts(policy: &Node, report: &mut Report) {
    let outliers = policy.get("outlierDetection");
    if let Some(outliers) = &outliers {
        check_outliers(outliers, report);
    }
    if let Some(pool) = policy.get("connectionPool") {
        check_connection_pool(&pool, report);
    }
    if let Some(balancer) = policy.get("loadBalancer") {
        check_load_balancer(&balancer, outliers.is_some(), report);
    }
    if let Some(tls) = policy.get("tls") {
        check_client_tls(&tls, report);
    }
}

fn check_outliers(outliers: &Node, report: &mut Report) {
    if outliers.int("consecutiveLocalOriginFailures").unwrap_or(0) > 0
        && !outliers.is_true("splitExternalLocalOriginErrors")
    {
        let message = "consecutiveLocalOriginFailures needs splitExternalLocalOriginErrors: true";
        report.add(Code::ConflictingSettings, outliers, message);
    }
    for field in ["maxEjectionPercent", "minHealthPercent"] {
        if let Some(percent) = outliers.int(field).filter(|percent| !(0..=100).contains(percent)) {
            report.add_at(Code::BadPercentage, outliers.child(field), format!("{percent} is not from 0 to 100"));
        }
    }
}

pub(super) fn check_connection_pool(pool: &Node, report: &mut Report) {
    if pool.present(&["tcp", "http"]).is_empty() {
        report.add(Code::EmptySetting, pool, "tcp or http is needed");
    }
    for (part, fields) in [
        ("tcp", &["maxConnections"][..]),
        (
            "http",
            &[
                "http1MaxPendingRequests",
                "http2MaxRequests",
                "maxRequestsPerConnection",
                "maxRetries",
                "maxConcurrentStreams",
            ],
        ),
    ] {
        let Some(part) = pool.get(part) else { continue };
        for field in fields {
            if let Some(number) = part.int(field).filter(|number| *number < 0) {
                report.add_at(Code::OutOfRange, part.child(field), format!("{number} is negative"));
            }
        }
    }
    if let Some(http) = pool.get("http")
        && http.text("h2UpgradePolicy") == "UPGRADE"
        && http.is_true("useClientProtocol")
    {
        report.add(
            Code::ConflictingSettings,
            &http,
            "useClientProtocol and h2UpgradePolicy: UPGRADE exclude each other",
        );
    }
}

fn check_load_balancer(balancer: &Node, outliers: bool, report: &mut Report) {
    if balancer.has("warmup") && balancer.has("warmupDurationSecs") {
        report.add(Code::ConflictingSettings, balancer, "warmup and warmupDurationSecs exclude each other");
    }
    if let Some(hash) = balancer.get("consistentHash") {
        if hash.int("minimumRingSize").unwrap_or(0) > 0 && !hash.present(&["ringHash", "maglev"]).is_empty() {
            report.add(Code::ConflictingSettings, &hash, "minimumRingSize excludes ringHash and maglev");
        }
        if let Some(cookie) = hash.get("httpCookie")
            && cookie.get("name").is_some_and(|name| name.str() == Some(""))
        {
            report.add(Code::EmptyValue, &cookie, "the cookie has no name");
        }
        if let Some(maglev) = hash.get("maglev") {
            let size = maglev.int("tableSize").unwrap_or(0);
            if !(1..5_000_011).contains(&size) || !is_prime(size) {
                report.add(Code::OutOfRange, &maglev, format!("tableSize {size} is no prime below 5000011"));
            }
        }
    }
    if let Some(locality) = balancer.get("localityLbSetting") {
        check_locality(&locality, outliers, report);
    }
}

fn is_prime(number: i64) -> bool {
    number > 1 && (2..).take_while(|factor| factor * factor <= number).all(|factor| number % factor != 0)
}

fn check_locality(locality: &Node, outliers: bool, report: &mut Report) {
    let (distribute, failover) = (locality.list("distribute"), locality.list("failover"));
    if !distribute.is_empty() && (!failover.is_empty() || !locality.list("failoverPriority").is_empty()) {
        report.add(Code::ConflictingSettings, locality, "distribute excludes failover and failoverPriority");
    }
    for entry in &distribute {
        let shares: Vec<i64> = entry.map("to").iter().filter_map(|(_, share)| share.value.as_i64()).collect();
        let sum: i64 = shares.iter().sum();
        if sum != 100 {
            report.add(Code::BadWeight, entry, format!("the shares add up to {sum}, not to 100"));
        }
        if shares.contains(&0) {
            report.add(Code::BadWeight, entry, "a share of 0 is no share");
        }
    }
    for entry in &failover {
        let (from, to) = (entry.text("from"), entry.text("to"));
        if from == to {
            report.add(Code::ConflictingSettings, entry, format!("{from:?} cannot take over from itself"));
        }
        if [from, to].iter().any(|region| region.contains(['/', '*'])) {
            report.add(Code::ConflictingSettings, entry, "failover is between regions, without zones and wildcards");
        }
    }
    if (!failover.is_empty() || !locality.list("failoverPriority").is_empty()) && !outliers {
        report.add(Code::IgnoredSetting, locality, "nothing fails over without outlierDetection");
    }
}

fn check_client_tls(tls: &Node, report: &mut Report) {
    let mode = tls.text("mode");
    if tls.is_true("insecureSkipVerify") {
        let verifies: &[&str] = match mode {
            "SIMPLE" => &["caCertificates", "credentialName", "subjectAltNames"],
            "MUTUAL" => &["caCertificates", "subjectAltNames"],
            _ => &[],
        };
        let present = tls.present(verifies);
        if !present.is_empty() {
            let message = format!("insecureSkipVerify excludes {}", present.join(" and "));
            report.add(Code::BadTlsSettings, tls, message);
        }
    }
    if ["SIMPLE", "MUTUAL"].contains(&mode) && !tls.text("credentialName").is_empty() {
        let files = tls.present(&["clientCertificate", "caCertificates", "privateKey", "caCrl"]);
        if !files.is_empty() {
            report.add(Code::BadTlsSettings, tls, format!("credentialName excludes {}", files.join(" and ")));
        }
    } else if mode == "MUTUAL" {
        for field in ["clientCertificate", "privateKey"] {
            if tls.text(field).is_empty() {
                report.add(Code::BadTlsSettings, tls, format!("MUTUAL needs {field}, or credentialName"));
            }
        }
    } else if mode == "ISTIO_MUTUAL" {
        let own = tls.present(&["clientCertificate", "privateKey", "caCertificates", "credentialName"]);
        if !own.is_empty() {
            let message = format!("ISTIO_MUTUAL uses the mesh's certificates: {} is ignored", own.join(" and "));
            report.add(Code::IgnoredSetting, tls, message);
        }
    }
}

fn check_tunnel(tunnel: &Node, report: &mut Report) {
    if !["", "CONNECT", "POST"].contains(&tunnel.text("protocol")) {
        let message = format!("{:?} is neither CONNECT nor POST", tunnel.text("protocol"));
        report.add_at(Code::UnknownValue, tunnel.child("protocol"), message);
    }
    if let Some(host) = tunnel.get("targetHost")
        && host.str().is_some_and(|name| domain(name).is_err() && !is_ip(name))
    {
        port::check_domain(&host, report);
    }
    if let Some(number) = tunnel.get("targetPort") {
        port::check_number(&number, report);
    }
}
