//! Where the values of a JSON text stand in it: what is passed on or edited keeps its bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Error};

/// The members of the object that `text` is, in their order.
///
/// # Errors
/// It is no object.
pub fn members(text: &str) -> Result<Vec<(String, Range<usize>)>, Error> {
    serde_json::from_str::<BTreeMap<String, IgnoredAny>>(text)?;
    let mut found = Vec::new();
    let mut at = first(text);
    while !text[at..].starts_with('}') {
        let key = at..end(text, at)?;
        let start = next(text, key.end);
        let value = start..end(text, start)?;
        at = next(text, value.end);
        found.push((serde_json::from_str(&text[key])?, value));
    }
    Ok(found)
}

/// The elements of the array at `array` in `text`, in their order.
///
/// # Errors
/// It is no array.
pub fn elements(text: &str, array: Range<usize>) -> Result<Vec<Range<usize>>, Error> {
    let (text, base) = (&text[array.clone()], array.start);
    serde_json::from_str::<Vec<IgnoredAny>>(text)?;
    let mut found = Vec::new();
    let mut at = first(text);
    while !text[at..].starts_with(']') {
        let value = at..end(text, at)?;
        at = next(text, value.end);
        found.push(base + value.start..base + value.end);
    }
    Ok(found)
}

/// Past the bracket that opens an object or array.
fn first(text: &str) -> usize {
    next(text, text.find(['{', '[']).map_or(text.len(), |at| at + 1))
}

/// Past blanks and what parts values. The text is known to be JSON.
fn next(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    at + rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', ',', ':']).len()
}

fn end(text: &str, at: usize) -> Result<usize, Error> {
    let mut values = Deserializer::from_str(&text[at..]).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(at + values.byte_offset()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, Error> {
        let members = members(text)?.into_iter().map(|(key, value)| format!("{key}=<{}>", &text[value]));
        Ok(members.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn values_are_found_with_the_bytes_that_they_have() {
        let text = " { \"a\" : 1.50,\"b\":[ 1 , {\"x\" : [ ]},\"]\" ] ,\n\"\\u0063\": null\n, \"d\":\"}\" } ";
        assert_eq!(shown(text).unwrap(), r#"a=<1.50> b=<[ 1 , {"x" : [ ]},"]" ]> c=<null> d=<"}">"#);
        assert_eq!(shown("{}").unwrap(), "");
        let array = members(text).unwrap()[1].1.clone();
        let found = elements(text, array).unwrap();
        assert_eq!(found.into_iter().map(|at| &text[at]).collect::<Vec<_>>(), ["1", "{\"x\" : [ ]}", "\"]\""]);
        assert_eq!(elements("[]", 0..2).unwrap(), []);
    }

    #[test]
    fn what_is_no_object_or_array_is_an_error() {
        for text in ["", "[]", "{", "{\"a\"}", "{} x", "1"] {
            assert!(members(text).is_err(), "{text}");
        }
        assert!(elements("{}", 0..2).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_walked_without_a_panic(text in r#"[\[\]{},:"a1\\ ü]{0,30}"#) {
            let _ = (members(&text), elements(&text, 0..text.len()));
        }
    }
}
