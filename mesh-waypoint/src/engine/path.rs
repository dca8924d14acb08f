//! What a request asks for, made canonical before anything looks at it: policy and routes see the path that the backend gets.
//!
//! BASE is what the reference's URL library does: dot segments are resolved (`%2e` is a dot), `\` is `/`, letters, digits and
//! `-_~` are decoded, what has no place in a path is encoded. `//` stays unless the model says otherwise.

use std::borrow::Cow;

use mesh_core::l7::PathNormalization;

/// Path and query of a request line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Begins with `/`, or is the `*` of `OPTIONS *`, which no route holds for.
    pub path: Cow<'a, str>,
    /// As it was sent, without `?`.
    pub query: Option<&'a str>,
}

/// Answered with 400 ([`super::respond::bad_request`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("the path does not begin with /")]
    NoSlash,
    #[error("the path has %00 in it")]
    Nul,
    #[error("the scheme is neither http nor https")]
    Scheme,
    #[error("the absolute form names no host, or a user")]
    Authority,
}

/// Path and query of an origin-form target, the fragment cut off.
pub fn target<'a>(method: &str, raw: &'a str, how: PathNormalization) -> Result<Target<'a>, BadTarget> {
    let raw = raw.split_once('#').map_or(raw, |(raw, _)| raw);
    let (path, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    if path == "*" && method == "OPTIONS" {
        return Ok(Target { path: Cow::Borrowed(path), query });
    }
    if !path.starts_with('/') {
        return Err(BadTarget::NoSlash);
    }
    Ok(Target { path: normalise(path, how)?, query })
}

/// A target in absolute form, taken apart: its authority stands for the Host header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absolute<'a> {
    pub scheme: &'static str,
    pub authority: &'a str,
    /// In origin form.
    pub rest: Cow<'a, str>,
}

/// `None` when the target is in origin form.
pub fn split_absolute(raw: &str) -> Result<Option<Absolute<'_>>, BadTarget> {
    if raw.starts_with('/') {
        return Ok(None);
    }
    let Some((scheme, rest)) = raw.split_once("://") else { return Ok(None) };
    let scheme = ["http", "https"].into_iter().find(|own| scheme.eq_ignore_ascii_case(own)).ok_or(BadTarget::Scheme)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.is_empty() || authority.starts_with(':') || authority.contains(['@', '\\']) {
        return Err(BadTarget::Authority);
    }
    let rest = if rest.starts_with('/') { Cow::Borrowed(rest) } else { Cow::Owned(format!("/{rest}")) };
    Ok(Some(Absolute { scheme, authority, rest }))
}

/// A path that begins with `/`; borrowed when there is nothing to do, which is nearly always.
pub fn normalise(path: &str, how: PathNormalization) -> Result<Cow<'_, str>, BadTarget> {
    if how == PathNormalization::None || is_canonical(path.as_bytes(), how) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = if how == PathNormalization::DecodeAndMergeSlashes {
        let slashes = path.replace("%2F", "/").replace("%2f", "/");
        Cow::Owned(slashes.replace("%5C", "\\").replace("%5c", "\\"))
    } else {
        Cow::Borrowed(path)
    };
    let mut canonical = canonical(decoded.as_bytes())?;
    if how != PathNormalization::Base {
        canonical.dedup_by(|next, last| *next == b'/' && *last == b'/');
    }
    if canonical == path.as_bytes() {
        return Ok(Cow::Borrowed(path));
    }
    // All that is not ASCII has been encoded.
    Ok(Cow::Owned(String::from_utf8_lossy(&canonical).into_owned()))
}

fn is_canonical(path: &[u8], how: PathNormalization) -> bool {
    let mut last = 0;
    path.iter().all(|byte| {
        let stays = match byte {
            b'.' => last != b'/',
            b'/' => last != b'/' || how == PathNormalization::Base,
            b'%' | b'\\' => false,
            byte => !is_encoded(*byte),
        };
        last = *byte;
        stays
    })
}

/// As `CanonicalizePath` of the URL library that the reference uses.
fn canonical(path: &[u8]) -> Result<Vec<u8>, BadTarget> {
    let mut out = Vec::with_capacity(path.len() + 8);
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        if let Some(dot) = dot(&path[at..]) {
            if out.last() == Some(&b'/') {
                match after_dot(&path[at + dot..]) {
                    Dots::Name => out.push(b'.'),
                    Dots::Here(taken) => at += taken,
                    Dots::Up(taken) => {
                        leave_directory(&mut out);
                        at += taken;
                    }
                }
            } else {
                out.push(b'.');
            }
            at += dot;
        } else if byte == b'%' {
            match escaped(&path[at..]) {
                Some(0) => return Err(BadTarget::Nul),
                Some(plain) if plain.is_ascii_alphanumeric() || matches!(plain, b'-' | b'_' | b'~') => {
                    out.push(plain);
                    at += 3;
                }
                Some(_) => {
                    out.extend_from_slice(&path[at..at + 3]);
                    at += 3;
                }
                None => {
                    out.push(b'%');
                    at += 1;
                }
            }
        } else {
            match byte {
                0 => return Err(BadTarget::Nul),
                b'\\' => out.push(b'/'),
                byte if is_encoded(byte) => encode(byte, &mut out),
                byte => out.push(byte),
            }
            at += 1;
        }
    }
    Ok(out)
}

/// What a dot at the beginning of an element is, and how many bytes behind it belong to that.
enum Dots {
    Name,
    Here(usize),
    Up(usize),
}

fn after_dot(rest: &[u8]) -> Dots {
    let ends = |rest: &[u8]| match rest.first() {
        None => Some(0),
        Some(b'/' | b'\\') => Some(1),
        Some(_) => None,
    };
    if let Some(slash) = ends(rest) {
        return Dots::Here(slash);
    }
    match dot(rest) {
        Some(second) => ends(&rest[second..]).map_or(Dots::Name, |slash| Dots::Up(second + slash)),
        None => Dots::Name,
    }
}

/// Length of the dot that begins here.
fn dot(path: &[u8]) -> Option<usize> {
    match path {
        [b'.', ..] => Some(1),
        [b'%', b'2', b'e' | b'E', ..] => Some(3),
        _ => None,
    }
}

/// Takes the last element off what ends with `/`.
fn leave_directory(out: &mut Vec<u8>) {
    if out.len() > 1 {
        out.pop();
        let end = out.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        out.truncate(end);
    }
}

fn escaped(path: &[u8]) -> Option<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(1)? * 16 + digit(2)?).ok()
}

fn is_encoded(byte: u8) -> bool {
    !matches!(byte, b'!'..=b'~') || matches!(byte, b'"' | b'#' | b'<' | b'>' | b'?' | b'^' | b'`' | b'{' | b'|' | b'}')
}

pub(crate) fn encode(byte: u8, out: &mut Vec<u8>) {
    out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests;
