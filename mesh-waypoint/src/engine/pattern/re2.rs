//! RE2's syntax, said in that of the regex crate.
//!
//! The two agree but for a few things, and where they differ in silence a policy would hold for other texts: `\d`, `\w`, `\s`
//! and `\b` are of ASCII in RE2, `{id}` is literal text, brackets, `&&`, `--` and `~~` mean nothing within a class, `\<` is
//! a `<`, and `\Q...\E` quotes.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

/// What is no expression in RE2 need not be one here either: whoever compiles it finds out.
pub fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\\' => escape(&mut rest, false, &mut out),
            '[' => class(&mut rest, &mut out),
            '{' if !is_repetition(rest.clone()) => out.push_str(r"\{"),
            other => out.push(other),
        }
    }
    out
}

/// From behind its `[` to its `]`.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    while let Some(next) = rest.next() {
        if next == ']' && !first {
            return out.push(']');
        }
        first = false;
        let is_one = member(next, rest, out);
        let mut ahead = rest.clone();
        if is_one && ahead.next() == Some('-') && ahead.next().is_some_and(|end| end != ']') {
            rest.next();
            out.push('-');
            if let Some(end) = rest.next() {
                member(end, rest, out);
            }
        }
    }
}

/// One character of a class, or (false) a class within it.
fn member(next: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) -> bool {
    match next {
        '[' if let Some(name) = named(rest.clone()) => {
            rest.nth(name.chars().count());
            let _ = write!(out, "[{name}]");
            false
        }
        '\\' => {
            let is_set = rest.peek().is_some_and(|c| "dwsDWSpPQ".contains(*c));
            escape(rest, true, out);
            !is_set
        }
        other => {
            out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4])));
            true
        }
    }
}

/// `:alpha:` of `[:alpha:]`.
fn named(rest: Peekable<Chars<'_>>) -> Option<String> {
    let name: String = rest.take_while(|c| *c != ']').collect();
    let inner = name.strip_prefix(':')?.strip_suffix(':')?;
    let known = inner.strip_prefix('^').unwrap_or(inner).chars().all(|c| c.is_ascii_lowercase());
    (known && !inner.is_empty()).then_some(name)
}

/// What stands behind a `\`.
fn escape(rest: &mut Peekable<Chars<'_>>, in_class: bool, out: &mut String) {
    let Some(next) = rest.next() else { return out.push('\\') };
    let ascii = match next {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => r"\t\n\f\r ",
        'D' => "^0-9",
        'W' => "^0-9A-Za-z_",
        'S' => r"^\t\n\f\r ",
        'b' if !in_class => return out.push_str(r"(?-u:\b)"),
        'B' if !in_class => return out.push_str(r"(?-u:\B)"),
        'Q' => return quoted(rest, out),
        punctuation if punctuation.is_ascii() && !punctuation.is_ascii_alphanumeric() => {
            let _ = write!(out, r"\x{:02X}", u32::from(punctuation));
            return;
        }
        other => {
            out.push('\\');
            return out.push(other);
        }
    };
    let _ = write!(out, "[{ascii}]");
}

fn quoted(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    while let Some(next) = rest.next() {
        if next == '\\' && rest.next_if_eq(&'E').is_some() {
            return;
        }
        out.push_str(&regex::escape(next.encode_utf8(&mut [0; 4])));
    }
}

/// Whether what stands behind a `{` makes it `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(rest: Peekable<Chars<'_>>) -> bool {
    let inner: String = rest.take_while(|c| *c != '}').take(10).collect();
    let (least, most) = inner.split_once(',').unwrap_or((&inner, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn check(pattern: &str, expected: Expect) {
        expected.assert_eq(&translated(pattern));
    }

    #[test]
    fn what_is_the_same_stays() {
        for same in [r"/v[0-9]+/(?:a|b)?.*$", r"(?i)x{2,3}y{4}z{5,}", r"[[:alpha:]_]+", r"\x41\pL\t", "[^/]+"] {
            assert_eq!(translated(same), same);
        }
    }

    #[test]
    fn what_differs_is_said_in_other_words() {
        check(r"\d+\W", expect![r"[0-9]+[^0-9A-Za-z_]"]);
        check(r"[\d.]", expect![[r#"[[0-9]\.]"#]]);
        check(r"\bx", expect![r"(?-u:\b)x"]);
        check("/{id}/x{,5}", expect![r"/\{id}/x\{,5}"]);
        check(r"\<a\>\.", expect![r"\x3Ca\x3E\x2E"]);
        check(r"[[a&&b~]", expect![r"[\[a\&\&b\~]"]);
        check("[]a]", expect![r"[\]a]"]);
        check("[+--]", expect![[r#"[\+-\-]"#]]);
        check(r"[--/\w-]", expect![r"[\--/[0-9A-Za-z_]\-]"]);
        check(r"\Qa.b\E.", expect![r"a\.b."]);
    }

    #[test]
    fn digits_and_words_are_of_ascii() {
        let holds = |pattern: &str, text: &str| super::super::whole(&pattern.into()).unwrap().is_match(text.as_bytes());
        assert!(holds(r"\d+", "12"));
        assert!(!holds(r"\d+", "١٢"));
        assert!(!holds(r"\w+", "ü"));
        assert!(holds(r"[^\d/]+", "aü"));
        assert!(holds("/{id}", "/{id}"));
        assert!(holds("[a&&b]+", "a&b"));
        assert!(holds(r"\w\s", "_\t"));
    }

    proptest! {
        #[test]
        fn arbitrary_patterns_never_panic(pattern in r"[\[\]\\^:{}(),0-9a-zQE&~<ü-]{0,24}") {
            let _ = super::super::whole(&pattern.as_str().into());
        }

        #[test]
        fn arbitrary_quoted_text_stands_for_itself(text in r"[^\\]{0,16}") {
            let pattern = super::super::whole(&format!(r"\Q{text}\E").into()).unwrap();
            prop_assert!(pattern.is_match(text.as_bytes()));
        }
    }
}
