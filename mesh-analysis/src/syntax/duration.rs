//! Go's syntax for durations, which Kubernetes, Istio and CEL share.

use std::time::Duration;

/// `1h30m`, `1.5s`, `20ms`, `0`, in Go's syntax for durations. Negative ones are none here, nor is what is longer than Go's
/// can be, about 292 years. `None` if the text is no duration.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        nanos += number
            * match &rest[..unit] {
                "h" => 3600e9,
                "m" => 60e9,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" | "μs" => 1e3,
                "ns" => 1.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // Go's durations are 64-bit nanoseconds, about 292 years.
    (nanos <= i64::MAX as f64).then(|| Duration::from_nanos(nanos.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(parse(text).map(|d| d.as_millis() as u64), millis, "{text:?}");
        };
        check("10s", Some(10_000));
        check("1h30m", Some(5_400_000));
        check("1.5s", Some(1_500));
        check(".5s", Some(500));
        check("20ms", Some(20));
        check("0", Some(0));
        check("0s", Some(0));
        check("", None);
        check("10", None);
        check("10 s", None);
        check("-1s", None);
        check("1d", None);
        check("1m0.5s", Some(60_500));
        check("s", None);
        check("1s ", None);
        check("1..5s", None);
        check("1s5", None);
        check("1e3s", None);
        check("99999999999h", None);
    }
}
