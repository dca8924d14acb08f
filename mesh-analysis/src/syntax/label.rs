//! Kubernetes' labels, and names that follow the same rules.

/// RFC 1123: 1 to 63 lower-case letters, digits and `-`, no `-` at the ends.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
        && bytes.iter().all(|&byte| edge(byte) || byte == b'-')
}

/// The same in upper and lower case: names of subsets and ports, and labels of host names.
pub(crate) fn is_label(text: &str) -> bool {
    is_dns_label(&text.to_ascii_lowercase())
}

/// RFC 1123: labels, separated by dots, 253 characters at most.
pub(crate) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A label's name: `name` or `domain/name`.
pub(crate) fn is_label_name(text: &str) -> bool {
    match text.split_once('/') {
        None => is_word(text),
        Some((domain, name)) => is_dns_name(domain) && is_word(name),
    }
}

/// A label's value: empty, or letters, digits, `-`, `_` and `.`.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::{is_dns_label, is_label, is_label_name, is_label_value};

    #[test]
    fn labels_are_told_from_other_texts() {
        assert!(is_label("Http-2") && !is_label("a_b") && !is_label("é"));
        assert!(is_dns_label("a-1") && !is_dns_label("A") && !is_dns_label("-a") && !is_dns_label(""));
        assert!(is_label_name("app") && is_label_name("example.com/app_1") && is_label_name("A.b"));
        assert!(!is_label_name("") && !is_label_name("a/b/c") && !is_label_name("Example.com/app"));
        assert!(is_label_value("") && is_label_value("v1.2_3") && !is_label_value("v1 ") && !is_label_value("-"));
        assert!(!is_label_value(&"a".repeat(64)));
    }
}
