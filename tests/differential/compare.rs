//! What has to be the same, and what differs on purpose.

use std::time::Duration;

use crate::ask::Outcome;
use crate::backends::Seen;
use crate::intent::Did;
use crate::message::Message;

/// Headers whose values are another at each run, with what is compared of them.
const CHANGING: [(&str, Changing); 5] = [
    // The time.
    ("date", Changing::There),
    // Drawn for each request, unless the client brings one.
    ("x-request-id", Changing::Id),
    // Milliseconds of this very request.
    ("x-envoy-upstream-service-time", Changing::There),
    // What is left of a timeout, in milliseconds.
    ("x-envoy-expected-rq-timeout-ms", Changing::There),
    // Seconds: of the whole bucket there, until there is one token here.
    ("x-ratelimit-reset", Changing::There),
];

#[derive(Clone, Copy)]
enum Changing {
    There,
    Id,
}

/// Headers that one of the two has and the other does not, on purpose.
const DELIBERATE: [(&str, Where); 6] = [
    // How a body is framed is each hop's own affair; the body itself is compared, and a message framed twice is not read.
    ("content-length", Where::Both),
    ("transfer-encoding", Where::Both),
    // Weft tells backends of the second try and those after it.
    ("x-envoy-attempt-count", Where::Request),
    // Envoy answers it itself; here the backend does.
    ("expect", Where::Request),
    // Whether a connection goes on is asked of the connection.
    ("connection", Where::Response),
    // Weft says when to come back.
    ("retry-after", Where::Response),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Request,
    Response,
    Both,
}

/// How far apart times may be.
const TIMES: Duration = Duration::from_millis(150);

/// What a client or a backend could tell the two by. `coarse`: of responses only whether it is a refusal.
pub(crate) fn differences(weft: &Did, envoy: &Did, coarse: bool) -> Vec<String> {
    let mut found = Vec::new();
    let outcomes = |did: &Did| sorted(did.outcomes.iter().map(if coarse { class } else { shown_outcome }));
    let [ours, theirs] = [outcomes(weft), outcomes(envoy)];
    tell(&mut found, "client", &ours, &theirs);
    let [ours, theirs] = [weft, envoy].map(|did| sorted(did.seen.iter().map(shown_seen)));
    tell(&mut found, "backends", &ours, &theirs);
    found
}

/// What the clock could tell them by.
pub(crate) fn difference_of_time(weft: &Did, envoy: &Did) -> Option<String> {
    (weft.took.abs_diff(envoy.took) > TIMES).then(|| format!("Weft took {:?}, Envoy {:?}", weft.took, envoy.took))
}

fn tell(found: &mut Vec<String>, who: &str, weft: &[String], envoy: &[String]) {
    let only = |own: &[String], other: &[String]| -> Vec<String> {
        let mut left = other.to_vec();
        let mut only = own.to_vec();
        only.retain(|line| match left.iter().position(|other| other == line) {
            Some(at) => {
                left.swap_remove(at);
                false
            }
            None => true,
        });
        only
    };
    let (ours, theirs) = (only(weft, envoy), only(envoy, weft));
    if !ours.is_empty() || !theirs.is_empty() {
        found.push(format!(
            "{who}:\n      Weft  {}\n      Envoy {}",
            ours.join("\n            "),
            theirs.join("\n            ")
        ));
    }
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

fn shown_outcome(outcome: &Outcome) -> String {
    let replies: Vec<String> = outcome.replies.iter().map(|reply| shown(reply, Where::Response)).collect();
    format!("{}{}", replies.join(" | "), if outcome.ended { " (ended)" } else { "" })
}

fn class(outcome: &Outcome) -> String {
    let class = |reply: &Message| match reply.status() {
        Some(400..) => "refused".to_owned(),
        Some(status) => status.to_string(),
        None => "no status".to_owned(),
    };
    let refused = outcome.replies.is_empty();
    if refused { "refused".to_owned() } else { outcome.replies.iter().map(class).collect::<Vec<_>>().join(" | ") }
}

fn shown_seen(seen: &Seen) -> String {
    format!("{}: {}", seen.by, shown(&seen.message, Where::Request))
}

/// The message with its headers by name; those of one name as they were.
fn shown(message: &Message, is: Where) -> String {
    let mut headers: Vec<(&str, String)> = Vec::new();
    for (name, value) in &message.headers {
        if DELIBERATE.iter().any(|(own, of)| own == name && (*of == is || *of == Where::Both)) {
            continue;
        }
        let changing = CHANGING.iter().find(|(own, _)| own == name).map(|(_, changing)| *changing);
        headers.push((
            name,
            match changing {
                Some(Changing::There) => "..".to_owned(),
                Some(Changing::Id) if value.len() == 36 && value.matches('-').count() == 4 => "<id>".to_owned(),
                _ => value.clone(),
            },
        ));
    }
    headers.sort_by_key(|(name, _)| *name);
    let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    // The words behind a status are nobody's.
    let line = message.status().map_or(message.line.clone(), |status| status.to_string());
    format!("{line} [{}] {:?}", headers.join("; "), message.body)
}
