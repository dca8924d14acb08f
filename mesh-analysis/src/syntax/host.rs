//! Host names: what is one, and which of two matches the other.

use std::net::IpAddr;

use super::label::is_label;

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHost {
    Empty,
    /// More than 255 characters.
    Long,
    /// `*` somewhere else than as the first label.
    Wildcard,
    /// The last label is a number.
    NumericTop,
    Label,
}

impl NoHost {
    /// The rest of a sentence that begins with the name.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Empty => "is empty",
            Self::Long => "has more than 255 characters",
            Self::Wildcard => "has a wildcard that is not its whole first label",
            Self::NumericTop => "ends in a number, as no domain does",
            Self::Label => "has a label that is none: letters, digits and '-' within, 63 at most",
        }
    }
}

/// A name without a wildcard. A dot may stand at its end.
///
/// # Errors
/// What it lacks to be one.
pub(crate) fn domain(name: &str) -> Result<(), NoHost> {
    if name.is_empty() {
        return Err(NoHost::Empty);
    }
    if name.len() > 255 {
        return Err(NoHost::Long);
    }
    if name.contains('*') {
        return Err(NoHost::Wildcard);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let top = name.rsplit('.').next().unwrap_or(name);
    if !top.is_empty() && top.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoHost::NumericTop);
    }
    match name.split('.').all(is_label) {
        true => Ok(()),
        false => Err(NoHost::Label),
    }
}

/// A name, `*`, or a name whose first label is `*` or ends what a wildcard begins (`*-prod.example.com`).
///
/// # Errors
/// What it lacks to be one.
pub(crate) fn wildcard_domain(name: &str) -> Result<(), NoHost> {
    if name == "*" {
        return Ok(());
    }
    match name.strip_prefix('*') {
        None => domain(name),
        Some(rest) => domain(rest.strip_prefix(['.', '-']).unwrap_or(rest)),
    }
}

pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether every name that `inner` stands for is one that `outer` stands for.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    match (outer.strip_prefix('*'), inner.strip_prefix('*')) {
        (None, None) => outer.eq_ignore_ascii_case(inner),
        (None, Some(_)) => false,
        (Some(outer), None) => inner.len() > outer.len() && ends_with(inner, outer),
        (Some(outer), Some(inner)) => inner.len() >= outer.len() && ends_with(inner, outer),
    }
}

fn ends_with(text: &str, end: &str) -> bool {
    text.len() >= end.len()
        && text.is_char_boundary(text.len() - end.len())
        && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
}

#[cfg(test)]
mod tests {
    use super::{NoHost, covers, domain, wildcard_domain};

    #[test]
    fn names_are_told_from_other_texts() {
        assert_eq!(domain("reviews"), Ok(()));
        assert_eq!(domain("reviews.prod.svc.cluster.local"), Ok(()));
        assert_eq!(domain("example.com."), Ok(()));
        assert_eq!(domain(""), Err(NoHost::Empty));
        assert_eq!(domain("10.0.0.1"), Err(NoHost::NumericTop));
        assert_eq!(domain("a..b"), Err(NoHost::Label));
        assert_eq!(domain("a_b.com"), Err(NoHost::Label));
        assert_eq!(domain("-a.com"), Err(NoHost::Label));
        assert_eq!(domain("*.com"), Err(NoHost::Wildcard));
        assert_eq!(domain(&"a.".repeat(200)), Err(NoHost::Long));
        assert_eq!(wildcard_domain("*"), Ok(()));
        assert_eq!(wildcard_domain("*.example.com"), Ok(()));
        assert_eq!(wildcard_domain("a.*.com"), Err(NoHost::Wildcard));
        assert_eq!(wildcard_domain("**.com"), Err(NoHost::Wildcard));
    }

    #[test]
    fn wildcards_cover_what_ends_alike() {
        assert!(covers("*", "a.com") && covers("*", "*.com"));
        assert!(covers("*.com", "a.com") && covers("*.com", "b.a.com") && covers("*.com", "*.a.com"));
        assert!(!covers("*.com", "com") && !covers("a.com", "*.com") && !covers("*.a.com", "*.com"));
        assert!(covers("a.com", "A.com") && !covers("a.com", "b.com"));
    }
}
