//! Statuses of gRPC by their names, as it writes them itself.

/// The number of a status such as `NOT_FOUND`.
pub fn parse(name: &str) -> Option<u8> {
    let at = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(at).ok()
}

/// In the order of their numbers.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn statuses_have_the_numbers_that_grpc_gives_them() {
        let numbers = ["OK", "NOT_FOUND", "UNAVAILABLE", "UNAUTHENTICATED"].map(parse);
        assert_eq!(numbers, [Some(0), Some(5), Some(14), Some(16)]);
        assert_eq!([parse("not_found"), parse("")], [None, None]);
    }
}
