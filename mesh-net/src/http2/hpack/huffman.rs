//! The code of strings (RFC 7541, section 5.2).
//!
//! It is canonical: codes of one length are successive numbers in the order of their symbols, and those of the next length
//! go on where they end. So the lengths of appendix B are all there is to know.
//!
//! A reader looks at the next byte, which tells every symbol of up to eight bits, so most of what is ever sent; of longer
//! ones it finds the length first.

use super::NotHpack;

/// Decodes a string and appends it, at most 8/5 of the bytes that it came in.
///
/// # Errors
/// The end's own symbol, or an end that is not up to seven bits of ones.
pub(super) fn decode(mut from: &[u8], to: &mut Vec<u8>) -> Result<(), NotHpack> {
    to.reserve(from.len() * 8 / SHORTEST);
    // The next bits, from the highest on; `count` of them have come and what is below is zero.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        if let Some((word, _)) = from.split_first_chunk::<8>() {
            bits |= u64::from_be_bytes(*word) >> count;
            let whole = (63 - count) / 8;
            from = &from[whole as usize..];
            count += whole * 8;
            // What lies behind the whole bytes is read again.
            bits &= !0 << (64 - count);
        } else {
            while let Some((byte, rest)) = from.split_first().filter(|_| count <= 56) {
                bits |= u64::from(*byte) << (56 - count);
                count += 8;
                from = rest;
            }
        }
        let enough = if from.is_empty() { 1 } else { LONGEST };
        while count >= enough {
            let (mut symbol, mut length) = SHORT[(bits >> 56) as usize];
            if length == 0 {
                (symbol, length) = long((bits >> 32) as u32)?;
            }
            if u32::from(length) > count {
                break;
            }
            to.push(symbol);
            bits <<= length;
            count -= u32::from(length);
        }
        if from.is_empty() {
            // Fewer bits than any symbol, and ones (or none).
            let padding = count < 8 && bits == !(!0_u64 >> count);
            return if padding { Ok(()) } else { Err(NotHpack) };
        }
    }
}

/// The symbol of more than eight bits that begins `bits`, and its length. Bits that have not come are zero, so it may be
/// longer than what there is.
fn long(bits: u32) -> Result<(u8, u8), NotHpack> {
    let length = (9..=LONGEST as usize).find(|length| u64::from(bits) < ENDS[*length]).ok_or(NotHpack)?;
    let nth = (bits >> (32 - length)) - FIRSTS[length].0;
    let symbol = BY_CODE[FIRSTS[length].1 + nth as usize];
    u8::try_from(symbol).map(|symbol| (symbol, length as u8)).map_err(|_| NotHpack)
}

/// Bytes that a string takes.
pub(super) fn length(text: &[u8]) -> usize {
    text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Encodes a string.
pub(super) fn encode(text: &[u8], to: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(CODES[usize::from(*byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            to.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        to.push((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

/// Bits of the shortest symbols, and of the longest.
const SHORTEST: usize = 5;
const LONGEST: u32 = 30;
/// Symbols: the bytes, and the end's.
const SYMBOLS: usize = 257;

/// Symbols in the order of their codes.
const BY_CODE: [u16; SYMBOLS] = {
    let (mut order, mut at, mut length) = ([0; SYMBOLS], 0, SHORTEST);
    while length <= LONGEST as usize {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                order[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    order
};

/// Each symbol's code, in the lowest bits.
const CODES: [u32; SYMBOLS] = {
    let (mut codes, mut at, mut next, mut length) = ([0; SYMBOLS], 0, 0_u32, SHORTEST as u8);
    while at < SYMBOLS {
        let symbol = BY_CODE[at] as usize;
        next <<= LENGTHS[symbol] - length;
        length = LENGTHS[symbol];
        codes[symbol] = next;
        next += 1;
        at += 1;
    }
    codes
};

/// For each length the first code, and where in [`BY_CODE`] it is.
const FIRSTS: [(u32, usize); LONGEST as usize + 1] = {
    let (mut firsts, mut at) = ([(0, 0); LONGEST as usize + 1], SYMBOLS);
    while at > 0 {
        at -= 1;
        let symbol = BY_CODE[at] as usize;
        firsts[LENGTHS[symbol] as usize] = (CODES[symbol], at);
    }
    firsts
};

/// For each length what is above its codes and those of shorter ones, with 32 bits; 0 if it has none.
const ENDS: [u64; LONGEST as usize + 1] = {
    let (mut ends, mut at) = ([0; LONGEST as usize + 1], 0);
    while at < SYMBOLS {
        let symbol = BY_CODE[at] as usize;
        ends[LENGTHS[symbol] as usize] = (CODES[symbol] as u64 + 1) << (32 - LENGTHS[symbol]);
        at += 1;
    }
    ends
};

/// By what the next byte is: the symbol that begins there and its length; 0 if that has more than eight bits.
static SHORT: [(u8, u8); 256] = {
    let (mut short, mut symbol) = ([(0, 0); 256], 0);
    while symbol < 256 {
        if LENGTHS[symbol] <= 8 {
            let free = 8 - LENGTHS[symbol];
            let mut rest = 0;
            while rest < 1 << free {
                short[(CODES[symbol] << free) as usize + rest] = (symbol as u8, LENGTHS[symbol]);
                rest += 1;
            }
        }
        symbol += 1;
    }
    short
};

/// Bits of each symbol (appendix B).
#[rustfmt::skip]
static LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
