//! Header fields of a request, whoever holds them.
//!
//! Policy and tokens read a few fields of a head and copy none, so the head may be a map or the bytes that arrived.

use mesh_net::header_list::HeaderList;

pub trait Fields: Sync {
    /// Value of the `nth` line, from 0, that has this name (in lower case).
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]>;
}

impl<'a> dyn Fields + 'a {
    pub fn lines<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b [u8]> {
        (0..).map_while(move |nth| self.line(name, nth))
    }

    /// All lines as one, with a comma between them (RFC 9110, section 5.3); what is no text does not read as one afterwards.
    pub fn joined(&self, name: &str) -> Option<String> {
        let lines: Vec<_> = self.lines(name).map(String::from_utf8_lossy).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    }

    /// The first cookie of that name (RFC 6265, section 4.2.1), without its quotes.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let lines: Vec<_> = self.lines("cookie").map(String::from_utf8_lossy).collect();
        let mut pairs = lines.iter().flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(own, _)| *own == name)?;
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        Some(bare.to_owned())
    }
}

impl Fields for HeaderList {
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.get_all(name).nth(nth).map(|value| value.as_bytes())
    }
}

/// Names in lower case, with their values.
impl Fields for &[(&str, &str)] {
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.iter().filter(|(own, _)| *own == name).nth(nth).map(|(_, value)| value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_and_a_list_show_the_same_lines() {
        let list: &[(&str, &str)] = &[("a", "1"), ("b", "2"), ("a", "3")];
        let map: HeaderList = [("a", "1"), ("b", "2"), ("a", "3")]
            .into_iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        for fields in [&list as &dyn Fields, &map] {
            assert_eq!(fields.lines("a").collect::<Vec<_>>(), [b"1", b"3"]);
            assert_eq!(fields.joined("a").as_deref(), Some("1,3"));
            assert_eq!((fields.joined("c"), fields.cookie("a")), (None, None));
        }
    }

    #[test]
    fn cookies_are_found_in_every_line() {
        let list: &[(&str, &str)] = &[("cookie", "a=1; b=\"2\""), ("cookie", "c=3=4;d;b=5")];
        let of = |name| (&list as &dyn Fields).cookie(name).unwrap_or("none".into());
        assert_eq!(["a", "b", "c", "d"].map(of), ["1", "2", "3=4", "none"]);
    }
}
