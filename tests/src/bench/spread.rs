//! Figures of several repetitions, and tables of them. Pure.

use std::fmt;

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median, with the least and the greatest in brackets if there are several.
pub(super) fn spread(values: &[f64]) -> String {
    let Some(median) = median(values) else { return String::new() };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let digits = match median {
        _ if median >= 100.0 => 0,
        _ if median >= 10.0 => 1,
        _ => 2,
    };
    match values.len() {
        1 => format!("{median:.digits$}"),
        _ => format!("{median:.digits$} ({least:.digits$} to {most:.digits$})"),
    }
}

/// Markdown, aligned; the first line is the head.
pub(super) fn table<const N: usize>(f: &mut fmt::Formatter<'_>, lines: &[[String; N]]) -> fmt::Result {
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(f, "| {} |", cells.join(" | "))?;
        if number == 0 {
            writeln!(f, "|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn digits_are_those_that_mean_something() {
        assert_eq!(spread(&[1234.5]), "1234");
        assert_eq!(spread(&[12.34, 10.0, 20.06]), "12.3 (10.0 to 20.1)");
        assert_eq!(spread(&[0.123]), "0.12");
    }
}
