//! How long a message says its body is (RFC 9110, section 8.6).

use http::{HeaderMap, HeaderValue, header};

/// Whoever guessed would let one message be hidden in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body's length can be read in two ways")]
pub struct TwoWays;

/// Bytes that `content-length` promises. Several lines that say the same are made one.
///
/// # Errors
/// They differ, or one is no number.
pub fn said(headers: &mut HeaderMap) -> Result<Option<u64>, TwoWays> {
    let found = promised(headers)?;
    if let Some(length) = found
        && headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(found)
}

/// As [`said`], for what is only looked at.
///
/// # Errors
/// As [`said`].
pub fn promised(headers: &HeaderMap) -> Result<Option<u64>, TwoWays> {
    let mut found = None;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        let digits = line.as_bytes();
        let length = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
        let length: u64 = length.and_then(|text| text.parse().ok()).ok_or(TwoWays)?;
        if found.is_some_and(|found| found != length) {
            return Err(TwoWays);
        }
        found = Some(length);
    }
    Ok(found)
}
