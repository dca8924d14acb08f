//! What was measured, as a table, as JSON and against the first targets. Pure.

use std::fmt;

use serde_json::{Value, json};

/// With the mesh or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    Weft,
}

/// All figures, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    place: String,
    what: String,
    unit: String,
    plain: Vec<f64>,
    weft: Vec<f64>,
}

impl Figures {
    /// Adds what one repetition has found.
    pub(super) fn add(&mut self, place: &str, what: &str, unit: &str, way: Way, value: f64) {
        let known = self.rows.iter().position(|row| row.place == place && row.what == what);
        let at = known.unwrap_or_else(|| {
            let (place, what, unit) = (place.to_owned(), what.to_owned(), unit.to_owned());
            self.rows.push(Row { place, what, unit, plain: Vec::new(), weft: Vec::new() });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        match way {
            Way::Plain => row.plain.push(value),
            Way::Weft => row.weft.push(value),
        }
    }

    /// The first targets, and whether they hold. Those that were not measured are left out.
    pub(super) fn targets(&self) -> Vec<String> {
        let verdict = |held: bool| if held { "holds " } else { "MISSED" };
        let throughput = self.rows.iter().find(|row| row.place == "across nodes" && row.what == "throughput, 1 stream");
        let ratio = throughput.and_then(Row::ratio).map(|ratio| {
            format!(
                "{}  throughput at one stream, across nodes: {ratio:.2} of plain, target 0.40",
                verdict(ratio >= 0.4)
            )
        });
        let memory = self.rows.iter().filter(|row| row.what.starts_with("memory")).map(|row| {
            let each = median(&row.weft).unwrap_or(f64::INFINITY);
            format!("{}  {}: {each:.1} KiB, target 12", verdict(each <= 12.0), row.what)
        });
        ratio.into_iter().chain(memory).collect()
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "place": row.place, "what": row.what, "unit": row.unit, "plain": row.plain, "weft": row.weft,
                "plain_median": median(&row.plain), "weft_median": median(&row.weft), "ratio": row.ratio(),
            })
        };
        self.rows.iter().map(row).collect()
    }
}

impl Row {
    /// Weft's median as a share of plain TCP's.
    fn ratio(&self) -> Option<f64> {
        Some(median(&self.weft)? / median(&self.plain)?)
    }
}

/// Markdown, aligned: medians, with the least and the greatest in brackets.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![["where", "what", "", "plain", "Weft", "Weft / plain"].map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| {
            let ratio = row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            [row.place.clone(), row.what.clone(), row.unit.clone(), spread(&row.plain), spread(&row.weft), ratio]
        }));
        let widths = [0, 1, 2, 3, 4, 5].map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0));
        for (number, line) in lines.iter().enumerate() {
            let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if number == 0 {
                writeln!(f, "|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"))?;
            }
        }
        Ok(())
    }
}

fn spread(values: &[f64]) -> String {
    let Some(median) = median(values) else { return String::new() };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let digits = if median >= 100.0 {
        0
    } else if median >= 10.0 {
        1
    } else {
        2
    };
    match values.len() {
        1 => format!("{median:.digits$}"),
        _ => format!("{median:.digits$} ({least:.digits$} to {most:.digits$})"),
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_spread_and_ratio_and_judges_the_targets() {
        let mut figures = Figures::default();
        for (plain, weft) in [(1000.0, 300.0), (3000.0, 900.0), (2000.0, 800.0)] {
            figures.add("across nodes", "throughput, 1 stream", "MB/s", Way::Plain, plain);
            figures.add("across nodes", "throughput, 1 stream", "MB/s", Way::Weft, weft);
        }
        figures.add("each agent", "memory of an idle connection, server's agent", "KiB", Way::Weft, 12.5);
        let expected = "\
            | where        | what                                         |      | plain               | Weft             | Weft / plain |\n\
            |--------------|----------------------------------------------|------|---------------------|------------------|--------------|\n\
            | across nodes | throughput, 1 stream                         | MB/s | 2000 (1000 to 3000) | 800 (300 to 900) | 0.40         |\n\
            | each agent   | memory of an idle connection, server's agent | KiB  |                     | 12.5             |              |\n";
        assert_eq!(figures.to_string(), expected);
        assert_eq!(
            figures.targets(),
            [
                "holds   throughput at one stream, across nodes: 0.40 of plain, target 0.40",
                "MISSED  memory of an idle connection, server's agent: 12.5 KiB, target 12",
            ]
        );
    }

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
