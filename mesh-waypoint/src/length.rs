//! How long a message says its body is (RFC 9110, section 8.6).

use http::{HeaderValue, header};
use mesh_net::header_list::HeaderList;

/// Whoever guessed would let one message be hidden in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body's length can be read in two ways")]
pub struct TwoWays;

/// Bytes that `content-length` promises. Several lines that say the same are made one.
///
/// # Errors
/// They differ, or one is no number.
pub fn said(headers: &mut HeaderList) -> Result<Option<u64>, TwoWays> {
    let (found, lines) = read(headers)?;
    if let Some(length) = found
        && lines > 1
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(found)
}

/// As [`said`], for what is only looked at.
///
/// # Errors
/// As [`said`].
pub fn promised(headers: &HeaderList) -> Result<Option<u64>, TwoWays> {
    read(headers).map(|(found, _)| found)
}

/// What is said, and in how many lines.
fn read(headers: &HeaderList) -> Result<(Option<u64>, usize), TwoWays> {
    let (mut found, mut lines) = (None, 0);
    for line in headers.get_all(header::CONTENT_LENGTH) {
        let digits = line.as_bytes();
        let length = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
        let length: u64 = length.and_then(|text| text.parse().ok()).ok_or(TwoWays)?;
        if found.is_some_and(|found| found != length) {
            return Err(TwoWays);
        }
        found = Some(length);
        lines += 1;
    }
    Ok((found, lines))
}
