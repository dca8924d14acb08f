//! Header fields of a message, line by line.
//!
//! A head has a dozen fields and is asked for some twenty: to look at a dozen names costs less than to hash twenty, and lines keep the
//! order in which they came.

use std::{iter, slice};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Lines in order. Of several with one name all count, in this order (RFC 9110, section 5.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderList {
    lines: Vec<Line>,
}

impl HeaderList {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with_capacity(lines: usize) -> Self {
        Self { lines: Vec::with_capacity(lines) }
    }

    /// Room for `more` lines.
    pub fn reserve(&mut self, more: usize) {
        self.lines.reserve(more);
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The first line's value.
    pub fn get(&self, name: impl Name) -> Option<&HeaderValue> {
        self.lines.iter().find(|(own, _)| name.is(own)).map(|(_, value)| value)
    }

    pub fn get_all<N: Name>(&self, name: N) -> Values<'_, N> {
        Values { lines: self.lines.iter(), name }
    }

    pub fn contains_key(&self, name: impl Name) -> bool {
        self.lines.iter().any(|(own, _)| name.is(own))
    }

    /// One line more.
    pub fn append(&mut self, name: impl IntoName, value: HeaderValue) {
        self.lines.push((name.into_name(), value));
    }

    /// One line in place of all of that name: where the first was, or at the end.
    pub fn insert(&mut self, name: impl IntoName, value: HeaderValue) {
        let name = name.into_name();
        let Some(first) = self.lines.iter().position(|(own, _)| *own == name) else {
            return self.lines.push((name, value));
        };
        let mut at = 0;
        self.lines.retain(|(own, _)| {
            at += 1;
            at - 1 <= first || *own != name
        });
        self.lines[first].1 = value;
    }

    /// The first line's value, which is made if there is none.
    pub fn get_or_insert_with(&mut self, name: HeaderName, value: impl FnOnce() -> HeaderValue) -> &HeaderValue {
        let at = match self.lines.iter().position(|(own, _)| *own == name) {
            Some(at) => at,
            None => {
                self.lines.push((name, value()));
                self.lines.len() - 1
            }
        };
        &self.lines[at].1
    }

    /// Takes out all lines of that name.
    pub fn remove(&mut self, name: impl Name) {
        self.remove_if(|own| name.is(own));
    }

    pub fn remove_if(&mut self, is_gone: impl Fn(&HeaderName) -> bool) {
        // Hardly ever is there one: nothing is moved then.
        if self.has(&is_gone) {
            self.lines.retain(|(own, _)| !is_gone(own));
        }
    }

    /// Whether a line's name is one of some.
    pub fn has(&self, is_one: impl Fn(&HeaderName) -> bool) -> bool {
        self.lines.iter().any(|(name, _)| is_one(name))
    }

    /// Each name once.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        let is_first = |at: usize, name: &HeaderName| self.lines[..at].iter().all(|(before, _)| before != name);
        self.lines.iter().enumerate().filter(move |(at, (name, _))| is_first(*at, name)).map(|(_, (name, _))| name)
    }

    pub fn iter(&self) -> Iter<'_> {
        self.lines.iter().map(|(name, value)| (name, value))
    }
}

type Line = (HeaderName, HeaderValue);
pub type Iter<'a> = iter::Map<slice::Iter<'a, Line>, fn(&Line) -> (&HeaderName, &HeaderValue)>;

impl<'a> IntoIterator for &'a HeaderList {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Values of all lines of one name.
#[derive(Clone, Debug)]
pub struct Values<'a, N> {
    lines: slice::Iter<'a, Line>,
    name: N,
}

impl<'a, N: Name> Iterator for Values<'a, N> {
    type Item = &'a HeaderValue;

    fn next(&mut self) -> Option<&'a HeaderValue> {
        let Self { lines, name } = self;
        lines.find(|(own, _)| name.is(own)).map(|(_, value)| value)
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for HeaderList {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: I) -> Self {
        Self { lines: lines.into_iter().collect() }
    }
}

impl Extend<(HeaderName, HeaderValue)> for HeaderList {
    fn extend<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, lines: I) {
        self.lines.extend(lines);
    }
}

/// For libraries, which have trailers in maps.
impl From<HeaderList> for HeaderMap {
    fn from(list: HeaderList) -> Self {
        let mut map = Self::with_capacity(list.len());
        for (name, value) in list.lines {
            map.append(name, value);
        }
        map
    }
}

impl From<HeaderMap> for HeaderList {
    fn from(map: HeaderMap) -> Self {
        let mut last = None;
        // A name stands only where it is another one.
        let named = map.into_iter().filter_map(|(name, value)| {
            last = name.or(last.take());
            Some((last.clone()?, value))
        });
        named.collect()
    }
}

/// What a line is made with.
pub trait IntoName {
    fn into_name(self) -> HeaderName;
}

impl IntoName for HeaderName {
    fn into_name(self) -> HeaderName {
        self
    }
}

impl IntoName for &HeaderName {
    fn into_name(self) -> HeaderName {
        self.clone()
    }
}

/// In lower case.
///
/// # Panics
/// No header can have this name.
impl IntoName for &'static str {
    fn into_name(self) -> HeaderName {
        HeaderName::from_static(self)
    }
}

/// What a line is looked for by.
pub trait Name {
    fn is(&self, name: &HeaderName) -> bool;
}

impl Name for HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Name for &HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        *self == name
    }
}

/// Of any case.
impl Name for &str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str().eq_ignore_ascii_case(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(nth: usize) -> HeaderName {
        HeaderName::from_static(["accept", "x-a", "x-b", "cookie"][nth % 4])
    }

    proptest! {
        /// The library's map is the measure: it keeps lines of one name together, which is all the difference there may be.
        #[test]
        fn a_list_says_what_a_map_says(steps in prop::collection::vec((0..5_u8, 0..4_usize, "[a-z]{0,3}"), 0..40)) {
            let (mut list, mut map) = (HeaderList::new(), HeaderMap::new());
            for (step, nth, text) in steps {
                let (own, value) = (name(nth), HeaderValue::try_from(text).unwrap());
                match step {
                    0 | 1 => {
                        list.append(own.clone(), value.clone());
                        map.append(own, value);
                    }
                    2 => {
                        list.insert(&own, value.clone());
                        map.insert(own, value);
                    }
                    3 => {
                        list.remove(&own);
                        map.remove(own);
                    }
                    _ => {
                        let there = list.get_or_insert_with(own.clone(), || value.clone()).clone();
                        prop_assert_eq!(&there, map.entry(own).or_insert(value));
                    }
                }
                prop_assert_eq!((list.len(), list.is_empty()), (map.len(), map.is_empty()));
                for name in (0..4).map(name) {
                    prop_assert_eq!(list.get(&name), map.get(&name));
                    prop_assert_eq!(list.contains_key(name.as_str()), map.contains_key(&name));
                    let (lines, expected): (Vec<_>, Vec<_>) = (list.get_all(&name).collect(), map.get_all(&name).iter().collect());
                    prop_assert_eq!(lines, expected);
                }
            }
            prop_assert_eq!((list.iter().count(), list.keys().count()), (map.len(), map.keys_len()));
            prop_assert_eq!(&HeaderMap::from(list), &map);
            prop_assert_eq!(HeaderMap::from(HeaderList::from(map.clone())), map);
        }
    }
}
