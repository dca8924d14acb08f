//! Kubernetes' quantities: `500m`, `1.5`, `128Mi`, `2e3`. Two texts may say the same, and the API server writes its own.

/// In billionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

impl Quantity {
    /// `None`: the text is no quantity, is negative, is finer than a billionth, or beyond all that a cluster has.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || number.len() > LONGEST || fraction.contains('.') {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scaled = digits.checked_mul(scale(suffix)?)?;
        let divisor = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        (scaled % divisor == 0).then_some(Self(scaled / divisor))
    }
}

/// Longest number that is read.
const LONGEST: usize = 18;

/// How many billionths one of a suffix is.
fn scale(suffix: &str) -> Option<i128> {
    const ONE: i128 = 1_000_000_000;
    let binary = |power: u32| 1i128 << (10 * power);
    Some(match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => ONE,
        "k" => ONE * 1_000,
        "M" => ONE * 1_000_000,
        "G" => ONE * 1_000_000_000,
        "T" => ONE * 1_000_000_000_000,
        "P" => ONE * 1_000_000_000_000_000,
        "E" => ONE * 1_000_000_000_000_000_000,
        "Ki" => ONE * binary(1),
        "Mi" => ONE * binary(2),
        "Gi" => ONE * binary(3),
        "Ti" => ONE * binary(4),
        "Pi" => ONE * binary(5),
        "Ei" => ONE * binary(6),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-9..=18).contains(power))?;
            10i128.checked_pow(u32::try_from(power + 9).ok()?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_say_the_same_are_equal() {
        for same in [
            ["1", "1000m", "1.0", "1e0", "1000000000n"],
            ["0.1", "100m", ".1", "1e-1", "100000u"],
            ["1Gi", "1024Mi", "1073741824", "1048576Ki", "1073741824000m"],
            ["2k", "2e3", "2E3", "2000", "0.002M"],
        ] {
            let read = same.map(Quantity::parse);
            assert!(read.iter().all(|quantity| quantity.is_some() && *quantity == read[0]), "{same:?} {read:?}");
        }
        assert!(Quantity::parse("1G") < Quantity::parse("1Gi"));
        for text in ["", ".", "-1", "1.2.3", "1 Gi", "Gi", "1gi", "1e", "1e99", "0.0000000001", "1m1", "１"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it_and_whole_numbers_are_themselves(text in "\\PC{0,24}", number in 0u32..) {
            let _ = Quantity::parse(&text);
            prop_assert_eq!(Quantity::parse(&number.to_string()), Some(Quantity(i128::from(number) * 1_000_000_000)));
        }
    }
}
