//! The second act: a service with a waypoint, and Istio's own YAML.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use serde_json::json;

use super::screen::Screen;
use crate::answer::Answer;
use crate::objects::security;
use crate::reviews::{Reviews, subsets, virtual_service};
use crate::tokens::Issuer;
use crate::wait::{PATIENCE, until};

/// A mesh of its own: three versions of a service.
pub(super) struct Requests(Reviews);

const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
const COUNT: usize = 1000;

impl Requests {
    pub(super) fn set() -> Result<Requests> {
        Reviews::open("demo-l7", &VERSIONS).map(Requests)
    }

    /// 7
    pub(super) fn canary(&self, screen: &Screen) -> Result<String> {
        let rules = "[{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews, subset: v3}}]}, \
                     {route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v2}, \
                     weight: 10}]}]";
        self.apply(screen, "VirtualService", rules, &subsets(&VERSIONS))?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for answer in self.0.crowd("/", COUNT)? {
            *counts.entry(answer).or_default() += 1;
        }
        screen.say(&format!("{COUNT} requests by curl, each answered by:"));
        let bar = |count: usize| "#".repeat((count * 60).div_ceil(COUNT));
        let lines: Vec<String> =
            counts.iter().map(|(who, count)| format!("{who:<8} {:<60} {count}", bar(*count))).collect();
        screen.quote(lines.iter().map(String::as_str));
        let share = counts.get("v2 200").copied().unwrap_or_default();
        ensure!((62..=138).contains(&share), "v2 got {share} of {COUNT}, not about 100");
        ensure!(counts.values().sum::<usize>() == COUNT && counts.len() == 2, "not all were answered 200: {counts:?}");
        let jason = self.ask(screen, "/", &["end-user: jason"])?;
        ensure!(jason.by() == "v3", "jason got {}", jason.by());
        Ok(format!("v2 got {share} of {COUNT}, none failed, and jason sees v3"))
    }

    /// 8
    pub(super) fn fault(&self, screen: &Screen) -> Result<String> {
        let rules = "[{match: [{uri: {prefix: /slow}}], timeout: 300ms, route: [{destination: {host: reviews}}]}, \
                     {match: [{uri: {prefix: /abort}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: \
                     [{destination: {host: reviews}}]}, \
                     {retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: reviews, subset: v1}}]}]";
        self.apply(screen, "VirtualService", rules, &subsets(&VERSIONS))?;
        let begun = Instant::now();
        let slow = self.ask(screen, "/slow?delay=5000", &[])?;
        let took = begun.elapsed();
        ensure!(slow.status == 504 && took < Duration::from_secs(2), "{} after {took:?}", slow.status);
        ensure!(self.ask(screen, "/abort", &[])?.status == 418, "no fault");
        screen.say("v1 answers 503 twice, and then 200:");
        let again = self.ask(screen, "/flaky?status=503&first=2", &[])?;
        ensure!(again.status == 200, "the client saw {}", again.status);
        let lines = self.0.waypoint.accesses();
        let line = lines.iter().rev().find(|line| line["path"].as_str().is_some_and(|path| path.starts_with("/flaky")));
        let attempts = line.and_then(|line| line["attempts"].as_u64()).unwrap_or_default();
        ensure!(attempts == 3, "{attempts} tries");
        Ok(format!("504 after {} ms, 418 as injected, and the third try was seen as the only one", took.as_millis()))
    }

    /// 9
    pub(super) fn ejection(&self, screen: &Screen) -> Result<String> {
        let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: reviews, namespace: shop}, spec: \
                    {host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: \
                    {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 34}}}}\n---\n";
        self.apply(
            screen,
            "DestinationRule",
            "[{retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]",
            rule,
        )?;
        let versions = || -> Result<BTreeMap<String, usize>> {
            let mut counts = BTreeMap::new();
            self.0.crowd("/", 30)?.into_iter().for_each(|who| *counts.entry(who).or_default() += 1);
            Ok(counts)
        };
        let show = |screen: &Screen, counts: &BTreeMap<String, usize>| {
            let text: Vec<String> = counts.iter().map(|(who, count)| format!("{who}: {count}")).collect();
            screen.quote([text.join("   ").as_str()]);
        };
        show(screen, &versions()?);
        let bad = self.ask(screen, "/?status=500", &[])?;
        let begun = Instant::now();
        let without = versions()?;
        show(screen, &without);
        ensure!(
            without.len() == 2 && !without.contains_key(&format!("{} 200", bad.by())),
            "{} is still used",
            bad.by()
        );
        until("the ejected one to come back", PATIENCE, || versions().ok().filter(|counts| counts.len() == 3))?;
        show(screen, &versions()?);
        Ok(format!(
            "{} got nothing after its 500, and its share again {:.1} s later",
            bad.by(),
            begun.elapsed().as_secs_f64()
        ))
    }

    /// 10
    pub(super) fn token(&self, screen: &Screen) -> Result<String> {
        const TARGET: &str = "targetRefs: [{group: '', kind: Service, name: reviews}]";
        let issuer = Issuer::new()?;
        let spec = format!("{{{TARGET}, jwtRules: [{{issuer: 'https://issuer.test', jwks: '{}'}}]}}", issuer.keys());
        let policy = format!(
            "{{{TARGET}, action: ALLOW, rules: [{{from: [{{source: {{requestPrincipals: ['https://issuer.test/*']}}}}]}}]}}"
        );
        let yaml = format!(
            "{}---\n{}",
            security("RequestAuthentication", "shop", "tokens", &spec),
            security("AuthorizationPolicy", "shop", "tokens", &policy)
        );
        screen
            .say("a RequestAuthentication for the issuer's keys, and an AuthorizationPolicy that asks for its tokens");
        self.0.apply(&yaml)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let token = |seconds: i64| {
            issuer.token(&json!({"iss": "https://issuer.test", "sub": "ann", "exp": now as i64 + seconds}))
        };
        let with = |token: &str| format!("authorization: Bearer {token}");
        let none = self.ask(screen, "/", &[])?;
        let old = self.ask(screen, "/", &[&with(&token(-600)?)])?;
        let good = self.ask(screen, "/", &[&with(&token(600)?)])?;
        ensure!(
            (none.status, old.status, good.status) == (403, 401, 200),
            "{} {} {}",
            none.status,
            old.status,
            good.status
        );
        Ok(format!("no token {}, an old one 401 ({}), a good one 200", none.status, old.body))
    }

    fn apply(&self, screen: &Screen, kind: &str, http: &str, more: &str) -> Result<()> {
        let shown =
            if kind == "VirtualService" { http } else { more.split_once("spec: ").map_or(more, |(_, spec)| spec) };
        screen.say(&format!("{kind}: {}", shown.trim_end_matches("\n---\n").trim_end_matches('}')));
        self.0.apply(&format!("{more}{}", virtual_service(http)))
    }

    fn ask(&self, screen: &Screen, path: &str, headers: &[&str]) -> Result<Answer> {
        // A token is long, and says nothing to a reader.
        let short =
            |header: &&str| header.chars().take(32).collect::<String>() + if header.len() > 32 { ".." } else { "" };
        let short: Vec<String> = headers.iter().map(short).collect();
        let shown: Vec<&str> = short.iter().flat_map(|header| ["-H", header]).collect();
        let url = format!("http://reviews{path}");
        screen.command("web", &[&["curl"], &shown[..], &[url.as_str()]].concat());
        let answer = self.0.ask(path, headers)?;
        let by = if answer.by().is_empty() { "the waypoint" } else { answer.by() };
        screen.quote([format!("{} by {by}", answer.status).as_str()]);
        Ok(answer)
    }
}
