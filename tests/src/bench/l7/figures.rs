//! What was measured, as a table, as JSON and against the targets. Pure.

use std::fmt;

use serde_json::{Value, json};

use super::proxy::Who;
use crate::bench::spread::{median, spread, table};

/// All figures, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    rows: Vec<Row>,
    /// Others have used the processors, too: times say more of them than of proxies, and are not judged.
    pub(super) busy: bool,
    /// What could not be measured.
    pub(super) failed: Vec<String>,
    /// Log lines and requests, of those whose log had fewer lines.
    logged: Vec<(Who, u64, u64)>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: String,
    found: Vec<(Who, Vec<f64>)>,
}

/// What is asked of a figure: a floor that is to hold, and what is hoped for. A floor above what is hoped for: less is better.
struct Target {
    what: &'static str,
    floor: f64,
    stretch: f64,
}

impl Target {
    fn is_met(&self, found: f64, asked: f64) -> bool {
        if self.floor < self.stretch { found >= asked } else { found <= asked }
    }
}

/// Multiples of Envoy's figure in the same run; for seconds, themselves.
const TARGETS: [Target; 15] = {
    const fn target(what: &'static str, floor: f64, stretch: f64) -> Target {
        Target { what, floor, stretch }
    }
    [
        target("HTTP/1.1, 1 KiB, 64 connections", 4.0, 6.0),
        target("HTTP/2, 1 KiB, 4 x 100 streams", 4.0, 20.0),
        target("gRPC, 64 B, 4 x 100 streams", 4.0, 20.0),
        target("gRPC, 64 B, 16 x 1 stream", 3.0, 6.0),
        target("HTTP/1.1, 1 MiB, 16 connections", 1.5, 1.8),
        target("mTLS, HTTP/1.1, 1 KiB, 64 connections", 3.5, 4.4),
        target("mTLS, gRPC, 64 B, 4 x 100 streams", 4.0, 20.0),
        target("mTLS, a connection for each request, 8 clients", 1.4, 1.7),
        target("HTTP/1.1, 1 KiB, 64 connections: p99", 0.4, 0.2),
        target("gRPC, 64 B, 4 x 100 streams: p99", 0.4, 0.2),
        target("added p50 at half of Envoy's rate, HTTP/1.1", 0.5, 0.3),
        target("added p50 at half of Envoy's rate, gRPC", 0.5, 0.3),
        target("memory of an idle client, HTTP/1.1", 0.5, 0.1),
        target("memory of an idle client, mTLS", 0.75, 0.4),
        target("a change among 10,000 routes in force", 0.15, 0.03),
    ]
};

impl Figures {
    /// Adds what one repetition has found.
    pub(super) fn add(&mut self, what: &str, unit: &str, who: Who, value: f64) {
        let known = self.rows.iter().position(|row| row.what == what);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row { what: what.to_owned(), unit: unit.to_owned(), found: Vec::new() });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        match row.found.iter_mut().find(|(own, _)| *own == who) {
            Some((_, values)) => values.push(value),
            None => row.found.push((who, vec![value])),
        }
    }

    /// Notes how many lines a log had after so many requests.
    pub(super) fn logged(&mut self, who: Who, lines: u64, requests: u64) {
        match self.logged.iter_mut().find(|(own, ..)| *own == who) {
            Some((_, all, asked)) => (*all, *asked) = (*all + lines, *asked + requests),
            None => self.logged.push((who, lines, requests)),
        }
    }

    /// Logs that lack more than a hundredth of the lines.
    pub(super) fn unlogged(&self) -> Vec<String> {
        let short = self.logged.iter().filter(|(_, lines, requests)| lines * 100 < requests * 99);
        short
            .map(|(who, lines, requests)| format!("{}: {lines} log lines for {requests} requests", who.name()))
            .collect()
    }

    /// Floors that do not hold, each with what was found, and what could not be measured.
    pub(super) fn missed(&self) -> Vec<String> {
        let judged = self.rows.iter().filter_map(|row| {
            let (found, target) = row.judged().filter(|_| self.judges(row))?;
            (!target.is_met(found, target.floor))
                .then(|| format!("{}: {found:.2}, floor {:.2}", row.what, target.floor))
        });
        judged.chain(self.failed.iter().cloned()).collect()
    }

    fn judges(&self, row: &Row) -> bool {
        !(self.busy && row.unit == "us")
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            let found: Vec<Value> = row
                .found
                .iter()
                .map(|(who, values)| {
                    json!({"who": who.name(), "values": values, "median": median(values), "ratio": row.ratio(*who)})
                })
                .collect();
            json!({ "what": row.what, "unit": row.unit, "found": found })
        };
        self.rows.iter().map(row).collect()
    }
}

impl Row {
    fn values(&self, who: Who) -> &[f64] {
        self.found.iter().find(|(own, _)| *own == who).map_or(&[], |(_, values)| values)
    }

    /// A median as a multiple of Envoy's.
    fn ratio(&self, who: Who) -> Option<f64> {
        Some(median(self.values(who))? / median(self.values(Who::Envoy))?)
    }

    /// What a target speaks of, and the target.
    fn judged(&self) -> Option<(f64, &'static Target)> {
        let target = TARGETS.iter().find(|target| target.what == self.what)?;
        let found = if self.unit == "s" { median(self.values(Who::Weft)) } else { self.ratio(Who::Weft) };
        Some((found?, target))
    }
}

/// Markdown: medians, with the least and the greatest in brackets.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["what", "", "Envoy", "Weft", "Weft / Envoy", "floor", "stretch", "", "nginx / Envoy", "HAProxy / Envoy"];
        let mut lines = vec![head.map(str::to_owned)];
        for row in &self.rows {
            let judged = row.judged();
            let verdict = judged.as_ref().map_or("", |(found, target)| match () {
                () if !self.judges(row) => "busy",
                () if target.is_met(*found, target.stretch) => "better",
                () if target.is_met(*found, target.floor) => "holds",
                () => "MISSED",
            });
            let asked = |pick: fn(&Target) -> f64| {
                judged.as_ref().map_or(String::new(), |(_, target)| format!("{:.2}", pick(target)))
            };
            let ratio = |who| row.ratio(who).map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            lines.push([
                row.what.clone(),
                row.unit.clone(),
                spread(row.values(Who::Envoy)),
                spread(row.values(Who::Weft)),
                ratio(Who::Weft),
                asked(|target| target.floor),
                asked(|target| target.stretch),
                verdict.to_owned(),
                ratio(Who::Nginx),
                ratio(Who::Haproxy),
            ]);
        }
        table(f, &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_multiples_of_envoy_and_judges_the_targets() {
        let mut figures = Figures::default();
        for (envoy, weft) in [(1000.0, 4000.0), (3000.0, 5000.0), (2000.0, 9000.0)] {
            figures.add("gRPC, 64 B, 16 x 1 stream", "/CPU s", Who::Envoy, envoy);
            figures.add("gRPC, 64 B, 16 x 1 stream", "/CPU s", Who::Weft, weft);
        }
        figures.add("gRPC, 64 B, 16 x 1 stream", "/CPU s", Who::Nginx, 3000.0);
        figures.add("added p50 at half of Envoy's rate, gRPC", "us", Who::Envoy, 100.0);
        figures.add("added p50 at half of Envoy's rate, gRPC", "us", Who::Weft, 20.0);
        figures.add("a change among 10,000 routes in force", "s", Who::Weft, 0.05);
        let expected = "\
            | what                                    |        | Envoy               | Weft                | Weft / Envoy | floor | stretch |        | nginx / Envoy | HAProxy / Envoy |\n\
            |-----------------------------------------|--------|---------------------|---------------------|--------------|-------|---------|--------|---------------|-----------------|\n\
            | gRPC, 64 B, 16 x 1 stream               | /CPU s | 2000 (1000 to 3000) | 5000 (4000 to 9000) | 2.50         | 3.00  | 6.00    | MISSED | 1.50          |                 |\n\
            | added p50 at half of Envoy's rate, gRPC | us     | 100                 | 20.0                | 0.20         | 0.50  | 0.30    | better |               |                 |\n\
            | a change among 10,000 routes in force   | s      |                     | 0.05                |              | 0.15  | 0.03    | holds  |               |                 |\n";
        assert_eq!(figures.to_string(), expected);
        assert_eq!(figures.missed(), ["gRPC, 64 B, 16 x 1 stream: 2.50, floor 3.00"]);
        figures.busy = true;
        assert_eq!(figures.to_string(), expected.replace("better", "busy  "));
        assert_eq!(figures.missed().len(), 1);
    }
}
