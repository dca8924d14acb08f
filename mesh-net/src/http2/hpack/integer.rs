//! Integers that begin within a byte (RFC 7541, section 5.1).

use super::NotHpack;

/// Takes one whose first byte has `prefix` bits of it, 1 to 8; what the other bits of that byte say is the caller's.
///
/// # Errors
/// It is cut short or above 2^32 - 1.
pub(super) fn read(from: &mut &[u8], prefix: u32) -> Result<usize, NotHpack> {
    let (first, mut rest) = from.split_first().ok_or(NotHpack)?;
    let most = (1_u64 << prefix) - 1;
    let mut value = u64::from(*first) & most;
    if value == most {
        for shift in (0..).step_by(7) {
            let (byte, after) = rest.split_first().ok_or(NotHpack)?;
            rest = after;
            if shift > LAST_SHIFT {
                return Err(NotHpack);
            }
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *from = rest;
    u32::try_from(value).map_err(|_| NotHpack).map(|value| value as usize)
}

/// Writes one, with `pattern` in the bits of the first byte that are not its own.
pub(super) fn write(value: usize, prefix: u32, pattern: u8, to: &mut Vec<u8>) {
    let most = (1_usize << prefix) - 1;
    if value < most {
        to.push(pattern | value as u8);
        return;
    }
    to.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

/// The last byte that a number of 32 bits has anything to say in.
const LAST_SHIFT: u32 = 28;
