//! What was measured, as a table, as JSON and against the targets. Pure.

use std::fmt;

use serde_json::{Value, json};

use super::spread::{median, spread, table};

/// How bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    /// Between nodes, over Weft's own transport.
    Lanes,
    /// Between nodes, over HBONE.
    Hbone,
    /// Between nodes, over two relays that do nothing else.
    Relays,
    /// Within a node.
    Near,
    /// A figure of the agents, whatever they carry.
    Agents,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lanes => "own transport",
            Self::Hbone => "HBONE",
            Self::Relays => "two bare relays",
            Self::Near => "same node",
            Self::Agents => "",
        }
    }
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
    weft: Vec<(Way, Vec<f64>)>,
}

/// What is asked of a figure: a floor that is to hold, and what is hoped for.
struct Target {
    what: &'static str,
    way: Way,
    floor: f64,
    stretch: f64,
}

impl Target {
    /// Rates are to be high, everything else low.
    fn is_met(&self, found: f64, asked: f64) -> bool {
        let rate = self.what.starts_with("throughput") || self.what.starts_with("connect");
        if rate { found >= asked } else { found <= asked }
    }
}

/// Ratios to plain TCP in the same run; for memory, handshakes and storms the figures themselves. By the beginning of a figure's
/// name.
const TARGETS: [Target; 31] = {
    const fn target(what: &'static str, way: Way, floor: f64, stretch: f64) -> Target {
        Target { what, way, floor, stretch }
    }
    [
        target("throughput, 1 stream", Way::Lanes, 0.85, 1.0),
        target("throughput, 1 stream", Way::Hbone, 0.75, 0.90),
        target("throughput, 1 stream", Way::Near, 0.97, 1.10),
        target("throughput, 8 streams", Way::Lanes, 0.85, 1.0),
        target("throughput, 8 streams", Way::Hbone, 0.70, 0.85),
        target("throughput, 8 streams", Way::Near, 0.97, 1.10),
        target("CPU of the run, 1 stream", Way::Lanes, 1.5, 1.15),
        target("CPU of the run, 1 stream", Way::Hbone, 1.8, 1.4),
        target("CPU of the run, 1 stream", Way::Near, 1.05, 0.85),
        target("CPU of the run, 8 streams", Way::Lanes, 1.5, 1.15),
        target("CPU of the run, 8 streams", Way::Hbone, 1.8, 1.4),
        target("CPU of the run, 8 streams", Way::Near, 1.05, 0.85),
        target("round trip of 128 B, p50", Way::Lanes, 1.40, 1.2),
        target("round trip of 128 B, p50", Way::Hbone, 1.45, 1.25),
        target("round trip of 128 B, p50", Way::Near, 1.05, 1.0),
        target("connect-request-close, 1 client", Way::Lanes, 0.60, 0.75),
        target("connect-request-close, 1 client", Way::Hbone, 0.55, 0.64),
        target("connect-request-close, 1 client", Way::Near, 0.90, 1.05),
        target("connect-request-close, 4 clients", Way::Lanes, 0.58, 0.80),
        target("connect-request-close, 4 clients", Way::Hbone, 0.60, 0.82),
        target("connect-request-close, 4 clients", Way::Near, 0.90, 1.1),
        target("20,000 connections in 10 s: failed", Way::Lanes, 0.0, 0.0),
        target("20,000 connections in 10 s: failed", Way::Hbone, 0.0, 0.0),
        target("20,000 connections in 10 s: slowest", Way::Lanes, 1000.0, 100.0),
        target("20,000 connections in 10 s: slowest", Way::Hbone, 1000.0, 100.0),
        target("p99 of 1,000 requests a second, beside them to alone", Way::Lanes, 1.5, 1.2),
        target("p99 of 1,000 requests a second, beside them to alone", Way::Hbone, 1.5, 1.2),
        target("p99 of 1,000 requests a second, beside them to alone", Way::Near, 1.5, 1.2),
        target("a full handshake", Way::Agents, 330.0, 310.0),
        target("memory of an idle connection, client's agent", Way::Agents, 6.0, 3.0),
        target("memory of an idle connection, server's agent", Way::Agents, 6.0, 3.0),
    ]
};

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
        if way == Way::Plain {
            return row.plain.push(value);
        }
        match row.weft.iter_mut().find(|(own, _)| *own == way) {
            Some((_, values)) => values.push(value),
            None => row.weft.push((way, vec![value])),
        }
    }

    /// Floors that do not hold, each with what was found.
    pub(super) fn missed(&self) -> Vec<String> {
        let each = self.rows.iter().flat_map(|row| row.weft.iter().map(move |(way, values)| (row, *way, values)));
        each.filter_map(|(row, way, values)| {
            let (found, target) = row.judged(way, values)?;
            let place = &row.place;
            (!target.is_met(found, target.floor))
                .then(|| format!("{place}, {}: {}: {found:.2}, floor {:.2}", way.name(), row.what, target.floor))
        })
        .collect()
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            let weft: Vec<Value> = row
                .weft
                .iter()
                .map(|(way, values)| {
                    json!({"way": way.name(), "values": values, "median": median(values), "ratio": row.ratio(values)})
                })
                .collect();
            json!({
                "place": row.place, "what": row.what, "unit": row.unit, "plain": row.plain,
                "plain_median": median(&row.plain), "weft": weft,
            })
        };
        self.rows.iter().map(row).collect()
    }
}

impl Row {
    /// A median as a share of plain TCP's; none of nothing.
    fn ratio(&self, values: &[f64]) -> Option<f64> {
        let plain = median(&self.plain).filter(|plain| *plain != 0.0)?;
        Some(median(values)? / plain)
    }

    /// What a target speaks of, and the target.
    fn judged(&self, way: Way, values: &[f64]) -> Option<(f64, &'static Target)> {
        let target = TARGETS.iter().find(|target| target.way == way && self.what.starts_with(target.what))?;
        let absolute = way == Way::Agents || self.what.starts_with("20,000") || self.unit == "x";
        let found = if absolute { median(values) } else { self.ratio(values) };
        Some((found?, target))
    }
}

/// Markdown, aligned: medians, with the least and the greatest in brackets.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["where", "what", "", "plain", "way", "Weft", "Weft / plain", "floor", "stretch", ""];
        let mut lines = vec![head.map(str::to_owned)];
        for row in &self.rows {
            for (number, (way, values)) in row.weft.iter().enumerate() {
                let judged = row.judged(*way, values);
                let verdict = judged.as_ref().map_or("", |(found, target)| match () {
                    () if target.is_met(*found, target.stretch) => "better",
                    () if target.is_met(*found, target.floor) => "holds",
                    () => "MISSED",
                });
                let asked = |pick: fn(&Target) -> f64| {
                    judged.as_ref().map_or(String::new(), |(_, target)| format!("{:.2}", pick(target)))
                };
                let first = |text: &str| if number == 0 { text.to_owned() } else { String::new() };
                lines.push([
                    first(&row.place),
                    first(&row.what),
                    first(&row.unit),
                    first(&spread(&row.plain)),
                    way.name().to_owned(),
                    spread(values),
                    row.ratio(values).map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                    asked(|target| target.floor),
                    asked(|target| target.stretch),
                    verdict.to_owned(),
                ]);
            }
        }
        table(f, &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_spread_and_ratio_and_judges_the_targets() {
        let mut figures = Figures::default();
        for (plain, lanes, hbone) in [(1000.0, 1100.0, 500.0), (3000.0, 900.0, 700.0), (2000.0, 1800.0, 600.0)] {
            figures.add("across nodes", "throughput, 1 stream", "MB/s", Way::Plain, plain);
            figures.add("across nodes", "throughput, 1 stream", "MB/s", Way::Lanes, lanes * 1.8);
            figures.add("across nodes", "throughput, 1 stream", "MB/s", Way::Hbone, hbone);
        }
        figures.add("across nodes", "round trip of 128 B, p50", "us", Way::Plain, 20.0);
        figures.add("across nodes", "round trip of 128 B, p50", "us", Way::Lanes, 22.0);
        figures.add("each agent", "memory of an idle connection, server's agent (5)", "KiB", Way::Agents, 5.5);
        let expected = "\
            | where        | what                                             |      | plain               | way           | Weft                | Weft / plain | floor | stretch |        |\n\
            |--------------|--------------------------------------------------|------|---------------------|---------------|---------------------|--------------|-------|---------|--------|\n\
            | across nodes | throughput, 1 stream                             | MB/s | 2000 (1000 to 3000) | own transport | 1980 (1620 to 3240) | 0.99         | 0.85  | 1.00    | holds  |\n\
            |              |                                                  |      |                     | HBONE         | 600 (500 to 700)    | 0.30         | 0.75  | 0.90    | MISSED |\n\
            | across nodes | round trip of 128 B, p50                         | us   | 20.0                | own transport | 22.0                | 1.10         | 1.40  | 1.20    | better |\n\
            | each agent   | memory of an idle connection, server's agent (5) | KiB  |                     |               | 5.50                |              | 6.00  | 3.00    | holds  |\n";
        assert_eq!(figures.to_string(), expected);
        assert_eq!(figures.missed(), ["across nodes, HBONE: throughput, 1 stream: 0.30, floor 0.75"]);
    }
}
