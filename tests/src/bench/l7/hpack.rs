//! Header blocks of HTTP/2, as far as the load writes them (RFC 7541).

/// A literal with a name of its own (RFC 7541, section 6.2), without Huffman codes.
pub(super) fn literal(block: &mut Vec<u8>, form: u8, name: &str, value: &[u8]) {
    block.push(form);
    for text in [name.as_bytes(), value] {
        integer(block, 0, 7, text.len());
        block.extend_from_slice(text);
    }
}

/// RFC 7541, section 5.1, with a prefix of `bits`, above which are the bits of `first`.
pub(super) fn integer(block: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1usize << bits) - 1;
    let byte = |value: usize| u8::try_from(value).expect("of a byte");
    if value < most {
        return block.push(first | byte(value));
    }
    block.push(first | byte(most));
    let mut rest = value - most;
    while rest >= 128 {
        block.push(byte(rest % 128) | 128);
        rest /= 128;
    }
    block.push(byte(rest));
}

/// Enters the peer's table; does not.
pub(super) const INSERT: u8 = 0x40;
pub(super) const LITERAL: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_rfc() {
        // RFC 7541, appendix C.1.
        for (bits, value, bytes) in [(5, 10, &[0x0a][..]), (5, 1337, &[0x1f, 0x9a, 0x0a]), (8, 42, &[0x2a])] {
            let mut block = Vec::new();
            integer(&mut block, 0, bits, value);
            assert_eq!(block, bytes, "{value}");
        }
    }
}
