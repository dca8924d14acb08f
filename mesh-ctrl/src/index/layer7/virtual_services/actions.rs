//! What a VirtualService's rule does with a request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use mesh_analysis::parse_grpc_status;
use mesh_core::l7::route::{
    Abort, AbortWith, Action, Backend, Cors, Delay, Fault, Forward, GrpcStatus, HeaderOps, Mirror, PathRewrite,
    Redirect, RedirectPort, Respond, Retries, RetryOn, Rewrite, Rule, SessionPersistence, Share,
};
use mesh_core::l7::text::TextMatch;

use super::delegates::Written;
use crate::index::layer7::Compiler;
use crate::index::layer7::assembly::rule;
use crate::object::ObjectKey;
use crate::object::virtual_service as written;
use crate::object::virtual_service::{
    CorsPolicy, DirectResponse, HeaderOperations, HttpRule, Percent, UnmatchedPreflights,
};

impl Compiler<'_> {
    pub(super) fn http_rule(&mut self, written: &Written<'_>, port: u16) -> Rule {
        let Written { rule: from, object, field, label } = written;
        let action = if let Some(to) = &from.redirect {
            Action::Redirect(redirect(to))
        } else if let Some(response) = &from.direct_response {
            Action::Respond(respond(response))
        } else {
            Action::Forward(self.forward(from, object, field, port))
        };
        let origin = format!("VirtualService/{}/{}#{label}", object.namespace, object.name);
        Rule {
            request_headers: header_ops(&from.headers.request),
            response_headers: header_ops(&from.headers.response),
            timeout: from.timeout.filter(|timeout| !timeout.is_zero()),
            retries: from.retries.as_ref().map(retries).unwrap_or_default(),
            fault: from.fault.as_ref().map(fault).unwrap_or_default(),
            cors: from.cors_policy.as_ref().map(cors),
            mirrors: self.mirrors(from, object, field, port),
            session: None::<SessionPersistence>,
            ..rule(origin.into(), action)
        }
    }

    fn forward(&mut self, from: &HttpRule, object: &ObjectKey, field: &str, port: u16) -> Forward {
        let is_only = from.route.len() == 1;
        let backends = from.route.iter().enumerate().map(|(i, route)| {
            let field = format!("{field}.route[{i}].destination");
            Backend {
                weight: if is_only { 1 } else { route.weight },
                to: self.led_to(&route.destination, port, object, &field),
                request_headers: header_ops(&route.headers.request),
                response_headers: header_ops(&route.headers.response),
                rewrite: None,
            }
        });
        let backends = backends.collect();
        Forward { backends, rewrite: from.rewrite.as_ref().map(rewrite).unwrap_or_default(), otherwise: 503 }
    }

    fn mirrors(&mut self, from: &HttpRule, object: &ObjectKey, field: &str, port: u16) -> Vec<Mirror> {
        let mut mirrors = Vec::new();
        let old = from.mirror_percent.map(|percent| Share::percent(f64::from(percent)));
        let share = |given: Option<Percent>| given.map(|percent| Share::percent(percent.value));
        if let Some(to) = &from.mirror {
            let share = share(from.mirror_percentage).or(old).unwrap_or(Share::ALL);
            mirrors.push((to, share, format!("{field}.mirror")));
        }
        for (i, mirror) in from.mirrors.iter().enumerate() {
            let share = share(mirror.percentage).unwrap_or(Share::ALL);
            mirrors.push((&mirror.destination, share, format!("{field}.mirrors[{i}].destination")));
        }
        let drawn = mirrors.into_iter().filter(|(_, share, _)| share.0 > 0);
        drawn.map(|(to, share, field)| Mirror { to: self.led_to(to, port, object, &field), share }).collect()
    }
}

fn some(text: &Arc<str>) -> Option<Arc<str>> {
    Some(text.clone()).filter(|text| !text.is_empty())
}

/// The Host's port stays whatever `derivePort` says; an authority brings its own.
fn redirect(from: &written::Redirect) -> Redirect {
    Redirect {
        status: if from.redirect_code == 0 { 301 } else { from.redirect_code },
        scheme: some(&from.scheme),
        authority: some(&from.authority),
        port: match from.port {
            Some(port) if port > 0 => RedirectPort::Number(port),
            _ => RedirectPort::Keep,
        },
        path: some(&from.uri).map(PathRewrite::Full),
    }
}

fn respond(from: &DirectResponse) -> Respond {
    // Protobuf's JSON takes both alphabets, with or without padding.
    let any = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = from.body.bytes.replace('-', "+").replace('_', "/");
    let bytes = GeneralPurpose::new(&STANDARD, any).decode(bytes).unwrap_or_default();
    let body = if from.body.string.is_empty() { bytes } else { from.body.string.clone().into_bytes() };
    Respond { status: from.status, body }
}

fn rewrite(from: &written::Rewrite) -> Rewrite {
    let regex = from.uri_regex_rewrite.as_ref();
    let regex =
        regex.map(|regex| PathRewrite::Regex { pattern: regex.pattern.clone(), substitution: regex.rewrite.clone() });
    Rewrite { path: regex.or_else(|| some(&from.uri).map(PathRewrite::Prefix)), authority: some(&from.authority) }
}

fn header_ops(from: &HeaderOperations) -> HeaderOps {
    let pairs = |map: &BTreeMap<Arc<str>, Arc<str>>| {
        map.iter().map(|(name, value)| (name.to_lowercase().into(), value.clone())).collect()
    };
    HeaderOps {
        remove: from.remove.iter().map(|name| name.to_lowercase().into()).collect(),
        set: pairs(&from.set),
        add: pairs(&from.add),
    }
}

fn retries(from: &written::Retries) -> Retries {
    let default = Retries::default();
    Retries {
        attempts: from.attempts,
        on: if from.retry_on.is_empty() { default.on } else { retry_on(&from.retry_on) },
        per_try_timeout: from.per_try_timeout.filter(|timeout| !timeout.is_zero()),
        backoff: from.backoff.filter(|wait| !wait.is_zero()).unwrap_or(default.backoff),
        other_host: from.retry_ignore_previous_hosts.unwrap_or(true),
    }
}

/// Names and bare status codes, by commas.
fn retry_on(text: &str) -> RetryOn {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim) {
        match word {
            "5xx" => on.any_5xx = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "refused-stream" => on.refused_stream = true,
            "cancelled" => drop(on.grpc.insert(GrpcStatus::CANCELLED)),
            "deadline-exceeded" => drop(on.grpc.insert(GrpcStatus::DEADLINE_EXCEEDED)),
            "internal" => drop(on.grpc.insert(GrpcStatus::INTERNAL)),
            "resource-exhausted" => drop(on.grpc.insert(GrpcStatus::RESOURCE_EXHAUSTED)),
            "unavailable" => drop(on.grpc.insert(GrpcStatus::UNAVAILABLE)),
            // Of the names that are left none says anything by itself.
            number => on.statuses.extend(number.parse::<u16>()),
        }
    }
    on
}

/// Without a percentage a fault meets nobody.
fn fault(from: &written::Fault) -> Fault {
    let share = |given: Option<Percent>| given.map(|percent| Share::percent(percent.value)).filter(|share| share.0 > 0);
    let delay = from.delay.as_ref().and_then(|delay| {
        let old = Some(Share::percent(f64::from(delay.percent))).filter(|share| share.0 > 0);
        let share = if delay.percentage.is_some() { share(delay.percentage) } else { old };
        Some(Delay { share: share?, time: delay.fixed_delay? })
    });
    let abort = from.abort.as_ref().and_then(|abort| {
        let http = abort.http_status.map(AbortWith::Http);
        let grpc = || {
            abort.grpc_status.as_deref().and_then(parse_grpc_status).map(|status| AbortWith::Grpc(GrpcStatus(status)))
        };
        Some(Abort { share: share(abort.percentage)?, with: http.or_else(grpc)? })
    });
    Fault { delay, abort }
}

fn cors(from: &CorsPolicy) -> Cors {
    let any = |text: TextMatch| match &text {
        TextMatch::Exact(origin) if &**origin == "*" => TextMatch::Present,
        _ => text,
    };
    let old = from.allow_origin.iter().cloned().map(TextMatch::Exact);
    let new = from.allow_origins.iter().map(|origin| origin.0.clone());
    Cors {
        origins: if from.allow_origins.is_empty() { old.map(any).collect() } else { new.map(any).collect() },
        methods: from.allow_methods.clone(),
        headers: from.allow_headers.clone(),
        expose: from.expose_headers.clone(),
        max_age: from.max_age.filter(|age| *age > Duration::ZERO),
        credentials: from.allow_credentials == Some(true),
        forward_unmatched: from.unmatched_preflights != UnmatchedPreflights::Ignore,
    }
}
