//! Addresses, blocks of them, sockets, ports.

use std::net::IpAddr;

use ipnet::IpNet;

/// `10.0.0.1`, `10.0.0.0/8`, and the same in IPv6.
pub(crate) fn is_address_or_block(text: &str) -> bool {
    match text.contains('/') {
        true => text.parse::<IpNet>().is_ok(),
        false => text.parse::<IpAddr>().is_ok(),
    }
}

pub(crate) fn is_port(number: i64) -> bool {
    (1..=65_535).contains(&number)
}

pub(crate) const SOCKET_SCHEME: &str = "unix://";

/// The part of an address behind `unix://`: an absolute path to a file, or an abstract name behind `@`.
pub(crate) fn is_socket_path(path: &str) -> bool {
    path.starts_with('@') || (path.starts_with('/') && !path.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::{is_address_or_block, is_socket_path};

    #[test]
    fn addresses_and_blocks_are_told_from_other_texts() {
        for good in ["10.0.0.1", "::1", "10.0.0.0/8", "10.1.2.3/8", "2001:db8::/32"] {
            assert!(is_address_or_block(good), "{good}");
        }
        for bad in ["", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "a/8", "1.2.3.4/-1", "*"] {
            assert!(!is_address_or_block(bad), "{bad}");
        }
        assert!(is_socket_path("/run/a") && is_socket_path("@a"));
        assert!(!is_socket_path("run/a") && !is_socket_path("/run/") && !is_socket_path(""));
    }
}
