//! The `date` of answers (RFC 9110, section 6.6.1).

use std::cell::RefCell;
use std::time::SystemTime;

use http::HeaderValue;
use mesh_net::unix_time;

thread_local! {
    /// The last one made, and its second since 1970.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Of `now`: made once a second, and shared.
pub fn value(now: SystemTime) -> HeaderValue {
    let second = unix_time::seconds(now);
    LAST.with_borrow_mut(|(made, value)| {
        if *made != second || value.is_empty() {
            let text = httpdate::fmt_http_date(now);
            (*made, *value) = (second, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")));
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_of_the_second_it_is_asked_for() {
        let at = |seconds| value(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778), "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
