//! What a request sticks to: a header, a query parameter, a cookie or the client's address.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use mesh_core::l7::destination::HashBy;
use rand::Rng;

use crate::engine::fields::Fields;

/// What there is to stick to.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub fields: &'a dyn Fields,
    pub query: Option<&'a str>,
    /// The client pod's own address.
    pub client: IpAddr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// `None`: the request has nothing of the kind, and any endpoint will do.
    pub hash: Option<u64>,
    /// Value of a `set-cookie` for the answer: the cookie that was made.
    pub set_cookie: Option<String>,
}

pub fn stick(by: &HashBy, head: &Head<'_>, rng: &mut impl Rng) -> Stuck {
    let only = |hash| Stuck { hash, set_cookie: None };
    match by {
        HashBy::Header(name) => only(head.fields.joined(name).map(|value| hash(&value))),
        HashBy::Query(name) => only(parameter(head.query, name).map(|value| hash(&value))),
        HashBy::SourceIp => only(Some(hash(&head.client.to_canonical()))),
        HashBy::Cookie { name, path, ttl } => match (head.fields.cookie(name), ttl) {
            (Some(value), _) => only(Some(hash(&value))),
            (None, None) => only(None),
            (None, Some(ttl)) => {
                let value = format!("{:016x}", rng.next_u64());
                let age = match ttl.as_secs() {
                    0 => String::new(),
                    seconds => format!("; Max-Age={seconds}"),
                };
                let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
                let set_cookie = Some(format!("{name}=\"{value}\"{age}{path}; HttpOnly"));
                Stuck { hash: Some(hash(&*value)), set_cookie }
            }
        },
    }
}

/// The first of that name, as it is written.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value.to_owned())
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    // The hasher without keys: the same in every process.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn stuck(by: &HashBy, fields: &[(&str, &str)], query: Option<&str>, client: [u8; 4]) -> Stuck {
        let head = Head { fields: &fields, query, client: client.into() };
        stick(by, &head, &mut SmallRng::seed_from_u64(1))
    }

    #[test]
    fn the_same_value_has_the_same_hash_and_a_missing_one_has_none() {
        let of = |by: &HashBy, fields: &[(&str, &str)], query| stuck(by, fields, query, [10, 0, 0, 1]).hash;
        let header = HashBy::Header("x-user".into());
        assert!(of(&header, &[("x-user", "a")], None).is_some());
        assert_eq!(of(&header, &[("x-user", "a")], None), of(&header, &[("x", "y"), ("x-user", "a")], None));
        assert_ne!(of(&header, &[("x-user", "a")], None), of(&header, &[("x-user", "b")], None));
        assert_eq!(of(&header, &[], None), None);
        let query = HashBy::Query("user".into());
        assert_eq!(of(&query, &[], Some("user=a&user=b")), of(&query, &[], Some("x=1&user=a")));
        assert_eq!((of(&query, &[], Some("users=a")), of(&query, &[], None)), (None, None));
        let by_ip = |ip| stuck(&HashBy::SourceIp, &[], None, ip).hash;
        assert_eq!(by_ip([10, 0, 0, 1]), by_ip([10, 0, 0, 1]));
        assert_ne!(by_ip([10, 0, 0, 1]), by_ip([10, 0, 0, 2]));
    }

    #[test]
    fn a_cookie_is_made_only_with_an_age_and_sticks_from_then_on() {
        let by = |ttl: Option<u64>| HashBy::Cookie {
            name: "user".into(),
            path: "/p".into(),
            ttl: ttl.map(Duration::from_secs),
        };
        let of = |ttl, fields: &[(&str, &str)]| stuck(&by(ttl), fields, None, [10, 0, 0, 1]);
        assert_eq!(of(None, &[]), Stuck::default());
        let made = of(Some(60), &[]);
        let text = made.set_cookie.expect("a cookie");
        let value = text.strip_prefix("user=\"").and_then(|rest| rest.split_once('"')).expect("a quoted value");
        assert_eq!(value.1, "; Max-Age=60; Path=/p; HttpOnly");
        let session = of(Some(0), &[]).set_cookie.expect("a cookie");
        assert!(session.ends_with("\"; Path=/p; HttpOnly"), "{session}");
        for sent in [format!("a=b; user={}", value.0), format!("user=\"{}\"; a=b", value.0)] {
            let again = of(Some(60), &[("cookie", &sent)]);
            assert_eq!(again, Stuck { hash: made.hash, set_cookie: None });
        }
    }
}
