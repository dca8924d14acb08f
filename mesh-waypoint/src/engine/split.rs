//! Which of a rule's backends a request goes to, and who gets a copy.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};
use mesh_core::l7::route::{BackendRef, Mirror, by_weight};
use mesh_net::header_list::HeaderList;

use super::headers::FORWARDED_FOR;

/// Index of the backend that is drawn, by the weights and any number; `None` when no weight is above 0.
pub fn draw(weights: impl Iterator<Item = u32> + Clone, drawn: u64) -> Option<usize> {
    let sum: u64 = weights.clone().map(u64::from).sum();
    by_weight(weights.zip(0..), drawn.checked_rem(sum)?)
}

/// Who gets a copy; `draw` yields a number from 0 to 999,999 for each mirror.
pub fn mirrors(mirrors: &[Mirror], mut draw: impl FnMut() -> u32) -> impl Iterator<Item = &BackendRef> {
    mirrors.iter().filter(move |mirror| mirror.share.holds(draw())).map(|mirror| &mirror.to)
}

/// What tells a copy, which has all that the request to the backend has, from the request.
pub fn mark_copy(headers: &mut HeaderList, own: IpAddr) {
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    let before = headers.get(FORWARDED_FOR).map(|value| [value.as_bytes(), b","].concat()).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_bytes(&[&before[..], own.to_string().as_bytes()].concat()) {
        headers.insert(FORWARDED_FOR, value);
    }
}

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sample::{lines, service};
    use mesh_core::l7::route::Share;
    use proptest::prelude::*;

    fn shares(weights: &[u32], draws: u64) -> Vec<u64> {
        let mut shares = vec![0; weights.len()];
        for drawn in 0..draws {
            shares[draw(weights.iter().copied(), drawn).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn weights_are_shares_of_their_sum() {
        assert_eq!(shares(&[1, 3], 400), [100, 300]);
        assert_eq!(shares(&[90, 0, 10], 200), [180, 0, 20]);
        assert_eq!(shares(&[7], 5), [5]);
        assert_eq!(draw([0, 0].into_iter(), 7), None);
        assert_eq!(draw([].into_iter(), 7), None);
    }

    #[test]
    fn each_mirror_is_drawn_on_its_own() {
        let mirror = |name, percent| Mirror { to: service(name), share: Share::percent(percent) };
        let all = [mirror("always", 100.0), mirror("never", 0.0), mirror("half", 50.0), mirror("rest", 50.0)];
        let mut drawn = [999_999, 0, 499_999, 500_000].into_iter();
        let chosen: Vec<_> = mirrors(&all, || drawn.next().unwrap()).collect();
        assert_eq!(chosen, [&all[0].to, &all[2].to]);
    }

    #[test]
    fn a_copy_is_marked() {
        let mut headers = HeaderList::new();
        mark_copy(&mut headers, "10.0.0.1".parse().unwrap());
        mark_copy(&mut headers, "10.0.0.2".parse().unwrap());
        assert_eq!(lines(&headers), "x-envoy-internal: true\nx-forwarded-for: 10.0.0.1,10.0.0.2\n");
    }

    proptest! {
        #[test]
        fn arbitrary_weights_never_panic(weights: Vec<u32>, drawn: u64) {
            let chosen = draw(weights.iter().copied(), drawn);
            prop_assert_eq!(chosen.is_none(), weights.iter().all(|weight| *weight == 0));
            prop_assert!(chosen.is_none_or(|at| weights[at] > 0));
        }
    }
}
