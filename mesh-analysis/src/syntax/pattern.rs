//! Regular expressions: those of the tables, which are compiled once, and those that objects bring.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use regex::{Regex, RegexBuilder};

/// Whether `text` matches a pattern of a table.
pub(crate) fn matches(pattern: &'static str, text: &str) -> bool {
    static COMPILED: LazyLock<RwLock<HashMap<&'static str, Regex>>> = LazyLock::new(RwLock::default);
    if let Some(regex) = COMPILED.read().unwrap_or_else(PoisonError::into_inner).get(pattern) {
        return regex.is_match(text);
    }
    let regex = Regex::new(pattern).expect("a pattern of a table can be compiled; a test compiles all");
    let found = regex.is_match(text);
    COMPILED.write().unwrap_or_else(PoisonError::into_inner).insert(pattern, regex);
    found
}

/// Longest expression that an object may bring, in characters. Istio's limit.
pub(crate) const LONGEST: usize = 1024;

/// Whether an expression can be carried out: in RE2's syntax and not too large.
///
/// # Errors
/// Why not, as the rest of a sentence that begins with the expression.
pub fn check(expression: &str) -> Result<(), String> {
    if expression.is_empty() {
        return Err("is empty".to_owned());
    }
    if expression.chars().count() > LONGEST {
        return Err(format!("has more than {LONGEST} characters"));
    }
    match RegexBuilder::new(expression).size_limit(LARGEST).build() {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err("repeats so often that matching it takes too much memory".to_owned())
        }
        // The library draws the place over several lines; the last one says what is wrong.
        Err(error) => {
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("cannot be read: {why}"))
        }
    }
}

/// Bytes of a compiled expression.
const LARGEST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn expressions_beyond_re2_are_found() {
        assert_eq!(check("^/api/v[0-9]+(/.*)?$"), Ok(()));
        assert_eq!(check(r"(?i)\pL+"), Ok(()));
        for bad in ["", "[a", "(?=a)", r"(a)\1", &"a".repeat(1025), "((a{500}){500}){500}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(
            check("(?=a)").unwrap_err(),
            "cannot be read: look-around, including look-ahead and look-behind, is not supported"
        );
    }
}
