//! Where a request may have a token, and the request without it.

use std::borrow::Cow;
use std::sync::Arc;

use mesh_core::l7::authentication::JwtRule;

use super::Head;

/// What is in a place that a rule names. Whether it is a token is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Header { name: Arc<str>, text: String },
    Param { name: Arc<str>, text: String },
    Cookie { text: String },
}

impl Found {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Header { text, .. } | Self::Param { text, .. } | Self::Cookie { text } => text,
        }
    }
}

pub(super) fn find(rule: &JwtRule, head: &Head<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let is_default = rule.headers.is_empty() && rule.params.is_empty() && rule.cookies.is_empty();
    if is_default {
        found.extend(header(head, &"authorization".into(), "Bearer "));
        found.extend(param(head, &"access_token".into()));
    }
    found.extend(rule.headers.iter().filter_map(|place| header(head, &place.name, &place.prefix)));
    found.extend(rule.params.iter().filter_map(|name| param(head, name)));
    found.extend(rule.cookies.iter().filter_map(|name| head.fields.cookie(name)).map(|text| Found::Cookie { text }));
    found
}

/// The prefix is looked for in the whole value, and what belongs to no token ends one, as in the reference: there may be several
/// lines, or further credentials, behind it.
fn header(head: &Head<'_>, name: &Arc<str>, prefix: &str) -> Option<Found> {
    let value = head.fields.joined(name)?;
    let text = match prefix {
        "" => value,
        prefix => {
            let behind = &value[value.find(prefix)? + prefix.len()..];
            let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
            let start = behind.find(is_token).unwrap_or(0);
            behind[start..].split(|c| !is_token(c)).next().unwrap_or_default().to_owned()
        }
    };
    Some(Found::Header { name: name.clone(), text })
}

/// The first of that name counts.
fn param(head: &Head<'_>, name: &Arc<str>) -> Option<Found> {
    let (_, query) = head.target.split_once('?')?;
    let mut pairs = query.split('&').map(pair);
    let (_, value) = pairs.find(|(own, _)| *own == **name)?;
    Some(Found::Param { name: name.clone(), text: value.into_owned() })
}

/// Path and query without a parameter; the others stay as they are written.
pub(super) fn without(target: &str, name: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let kept: Vec<_> = query.split('&').filter(|text| pair(text).0 != name).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

fn pair(text: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (decoded(name), decoded(value))
}

/// Percent-encoded octets as they are meant (RFC 3986, section 2.1); what is no such code stays.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let (mut bytes, mut left) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = left.split_first() {
        let code = behind.first_chunk::<2>().filter(|_| *first == b'%').and_then(|digits| {
            let digit = |b: u8| char::from(b).to_digit(16);
            u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
        });
        bytes.push(code.unwrap_or(*first));
        left = if code.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}
