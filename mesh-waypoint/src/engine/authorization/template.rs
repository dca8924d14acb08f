//! Paths with places: `{*}` is one element that is not empty, `{**}` is any rest of the path from there on, also an empty one.

use super::Unreadable;

/// `/mid/{**}/end` holds for `/mid//end`, and `/deep/{**}` for `/deep/` but not for `/deep`.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// Up to the `{**}`, or all of them.
    elements: Vec<Element>,
    /// What the path ends with after the `{**}`; `None` when there is none of those.
    rest: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    One,
    Text(Box<str>),
}

impl Template {
    /// # Errors
    /// Braces that are neither of the two, or one of the two behind a `{**}`.
    pub(super) fn compile(text: &str) -> Result<Self, Unreadable> {
        let (before, rest) = match text.split_once("{**}") {
            // The place is the whole element: a slash before it, and one behind it if there is more.
            Some((before, rest)) if before.ends_with('/') && (rest.is_empty() || rest.starts_with('/')) => {
                (&before[..before.len() - 1], Some(rest))
            }
            Some(_) => return Err(Unreadable),
            None => (text, None),
        };
        if rest.is_some_and(|rest| rest.contains(['{', '}'])) {
            return Err(Unreadable);
        }
        let element = |text: &str| match text {
            "{*}" => Ok(Element::One),
            text if text.contains(['{', '}']) => Err(Unreadable),
            text => Ok(Element::Text(text.into())),
        };
        let elements = before.split('/').map(element).collect::<Result<_, _>>()?;
        Ok(Self { elements, rest: rest.map(Into::into) })
    }

    pub(super) fn holds(&self, path: &str) -> bool {
        let mut left = Some(path);
        for element in &self.elements {
            let Some(text) = left else { return false };
            let (first, behind) = text.split_once('/').map_or((text, None), |(first, behind)| (first, Some(behind)));
            let is_held = match element {
                Element::One => !first.is_empty(),
                Element::Text(text) => **text == *first,
            };
            if !is_held {
                return false;
            }
            left = behind;
        }
        match (&self.rest, left) {
            (Some(rest), Some(left)) => left.ends_with(&**rest),
            (None, None) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(template: &str, holds: &[&str], not: &[&str]) {
        let template = Template::compile(template).expect("a template");
        for path in holds {
            assert!(template.holds(path), "{template:?} {path}");
        }
        for path in not {
            assert!(!template.holds(path), "{template:?} {path}");
        }
    }

    #[test]
    fn places_are_elements() {
        check("/a/{*}/c", &["/a/b/c", "/a/*/c"], &["/a//c", "/a/c", "/a/b/b/c", "/a/b/c/", "/A/b/c", "a/b/c"]);
        check("/a/{*}", &["/a/b"], &["/a", "/a/", "/a/b/c"]);
        check("/{*}/{*}", &["/a/b"], &["/a", "//b", "/a/b/"]);
        check("/deep/{**}", &["/deep/", "/deep/a", "/deep/a/b//c"], &["/deep", "/deeper/a", "/x/deep/a"]);
        check("/mid/{**}/end", &["/mid//end", "/mid/a/end", "/mid/a/b/end", "/mid/end/end"], &["/mid/end", "/mid/a/b"]);
        check("/{*}/x/{**}", &["/a/x/", "/b/x/y/z"], &["//x/y", "/a/x"]);
        check("/{**}", &["/", "/a", "/a/b"], &["", "a"]);
        check("/plain", &["/plain"], &["/plain/", "/plai"]);
    }

    #[test]
    fn other_braces_are_refused() {
        for text in
            ["/{id}", "/a{*}", "/{*}b", "/{**}/{**}", "/{**}/{*}", "/a{**}", "/{**}b", "/{", "/}", "/{*", "{**}"]
        {
            assert!(Template::compile(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_templates_and_paths_never_panic(template in "[/a{}*é]{0,12}", path in "[/a{}*é]{0,12}") {
            if let Ok(template) = Template::compile(&template) {
                template.holds(&path);
            }
        }
    }
}
