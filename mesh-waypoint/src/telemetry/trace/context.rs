//! Which trace a request is of, as its header fields say: W3C Trace Context (`traceparent`, `tracestate`), and B3 in one field or
//! in several.

use http::{HeaderName, HeaderValue};
use mesh_net::header_list::HeaderList;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub trace: u128,
    pub span: u64,
}

/// What a request says of its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// `None`: it is of no trace yet.
    pub(super) parent: Option<Ids>,
    /// Whether its spans are to be told; `None`: nobody has decided.
    pub(super) sampled: Option<bool>,
    /// B3 has trace ids of 8 bytes, too.
    pub(super) is_short: bool,
    /// The lower two bits of the traceparent's flags.
    pub(super) flags: u8,
    pub(super) forms: Forms,
}

/// In which fields a context is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) w3c: bool,
    pub(super) b3_single: bool,
    pub(super) b3_multi: bool,
}

/// Sampled, of the traceparent's flags.
const SAMPLED: u8 = 1;

impl Incoming {
    /// Of several forms the W3C's holds. What is malformed is as if it were not there.
    pub(super) fn read(headers: &HeaderList) -> Self {
        let single = read_single(headers);
        let multi = read_multi(headers);
        let forms = |w3c| Forms { w3c, b3_single: single.is_some(), b3_multi: multi.is_some() };
        if let Some((parent, flags)) = read_w3c(headers) {
            let sampled = Some(flags & SAMPLED != 0);
            return Self { parent: Some(parent), sampled, is_short: false, flags: flags & 3, forms: forms(true) };
        }
        let said = single.or(multi).unwrap_or_default();
        Self { forms: forms(false), ..said }
    }
}

/// `version-trace-parent-flags`, in lower-case digits (Trace Context, section 3.2).
fn read_w3c(headers: &HeaderList) -> Option<(Ids, u8)> {
    let text = only(headers, &TRACEPARENT)?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (is_first, version) = (parts.next().is_none(), digits(version, 2)?);
    // Version 0 ends here; later ones may go on.
    if version == 0xff || version == 0 && !is_first || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let ids = ids(digits(trace, 32)?, digits(span, 16)?)?;
    Some((ids, u8::try_from(digits(flags, 2)?).ok()?))
}

/// `trace-span-decision-parent`, the last two optional, or a decision alone.
fn read_single(headers: &HeaderList) -> Option<Incoming> {
    let text = only(headers, &B3)?;
    if let Some(sampled) = decision(text) {
        return Some(Incoming { sampled: Some(sampled), ..Incoming::default() });
    }
    let mut parts = text.split('-');
    let (trace, span, said, parent) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() || parent.is_some_and(|parent| digits(parent, 16).is_none()) {
        return None;
    }
    let sampled = match said {
        Some(said) => Some(decision(said)?),
        None => None,
    };
    of_b3(trace, span, sampled)
}

fn read_multi(headers: &HeaderList) -> Option<Incoming> {
    let sampled = match (only(headers, &B3_FLAGS), only(headers, &B3_SAMPLED)) {
        (Some("1"), _) => Some(true),
        (_, Some("true")) => Some(true),
        (_, Some("false")) => Some(false),
        (_, Some(said)) => decision(said),
        (_, None) => None,
    };
    let decided = sampled.map(|sampled| Incoming { sampled: Some(sampled), ..Incoming::default() });
    match (only(headers, &B3_TRACE), only(headers, &B3_SPAN)) {
        (Some(trace), Some(span)) => of_b3(trace, span, sampled).or(decided),
        _ => decided,
    }
}

fn of_b3(trace: &str, span: &str, sampled: Option<bool>) -> Option<Incoming> {
    let is_short = trace.len() == 16;
    let parent = ids(digits(trace, if is_short { 16 } else { 32 })?, digits(span, 16)?)?;
    Some(Incoming { parent: Some(parent), sampled, is_short, ..Incoming::default() })
}

fn decision(said: &str) -> Option<bool> {
    match said {
        "0" => Some(false),
        // `d`: sampled, for who looks for a fault.
        "1" | "d" => Some(true),
        _ => None,
    }
}

fn ids(trace: u128, span: u128) -> Option<Ids> {
    let span = u64::try_from(span).ok()?;
    (trace != 0 && span != 0).then_some(Ids { trace, span })
}

/// Exactly `length` hexadecimal digits.
fn digits(text: &str, length: usize) -> Option<u128> {
    let is_whole = text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

/// `None` also if there are several.
fn only<'a>(headers: &'a HeaderList, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name);
    let line = lines.next().filter(|_| lines.next().is_none())?;
    Some(line.to_str().ok()?.trim())
}

/// Where a request goes on in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) own: Ids,
    pub(super) parent: Option<u64>,
    pub(super) sampled: bool,
    pub(super) is_short: bool,
    pub(super) flags: u8,
    pub(super) forms: Forms,
}

impl Outgoing {
    /// As bytes of a traceparent's flags.
    pub(super) fn flags(&self) -> u8 {
        self.flags & !SAMPLED | u8::from(self.sampled)
    }

    /// Puts it in place of what the request came with.
    pub(super) fn write(&self, headers: &mut HeaderList) {
        let Self { own: Ids { trace, span }, parent, sampled, forms, .. } = *self;
        let mut put = |name, value: String| {
            // Digits and dashes can be written.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        if forms.w3c {
            put(TRACEPARENT, format!("00-{trace:032x}-{span:016x}-{:02x}", self.flags()));
        }
        let trace = if self.is_short { format!("{trace:016x}") } else { format!("{trace:032x}") };
        let said = u8::from(sampled);
        if forms.b3_single {
            let parent = parent.map(|parent| format!("-{parent:016x}")).unwrap_or_default();
            put(B3, format!("{trace}-{span:016x}-{said}{parent}"));
        }
        if forms.b3_multi {
            put(B3_TRACE, trace);
            put(B3_SPAN, format!("{span:016x}"));
            put(B3_SAMPLED, said.to_string());
            if let Some(parent) = parent {
                put(B3_PARENT, format!("{parent:016x}"));
            }
        }
        // A state is of its trace (Trace Context, section 3.3); one of another trace would be a lie.
        if !forms.w3c || parent.is_none() {
            headers.remove(TRACESTATE);
        }
        if !forms.w3c {
            headers.remove(TRACEPARENT);
        }
        if forms.b3_multi && parent.is_none() {
            headers.remove(B3_PARENT);
        }
    }
}

/// What the request's `tracestate` says, in all its lines.
pub(super) fn state(headers: &HeaderList) -> String {
    let lines: Vec<_> = headers.get_all(TRACESTATE).filter_map(|line| line.to_str().ok()).collect();
    lines.join(",")
}

#[cfg(test)]
mod tests;
