//! What was measured, beside what the reference's controller needs for the same, and against the floors. Pure.

use std::fmt;

use serde_json::{Value, json};

use crate::bench::spread::{median, spread, table};

/// All figures, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: String,
    found: Vec<f64>,
}

/// What is asked of a figure, for 10,000 pods, 1,000 services and 100 agents: the less the better.
struct Target {
    what: &'static str,
    /// What Istio 1.30.3's controller needs, measured elsewhere on one core: with its debounce turned down where that matters.
    reference: f64,
    floor: f64,
}

const TARGETS: [Target; 8] = {
    const fn target(what: &'static str, reference: f64, floor: f64) -> Target {
        Target { what, reference, floor }
    }
    [
        target("first sync of all: CPU", 4.65, 1.0),
        target("first sync of all: until the last has all", 5.6, 2.0),
        target("one change: at all agents, p50", 22.0, 10.0),
        target("one change: at all agents, p99", f64::NAN, 30.0),
        target("100 changes a second: at all agents, p99", 91.0, 60.0),
        target("100 changes a second: CPU", 0.39, 0.2),
        target("return of all: CPU", 5.6, 0.3),
        target("memory, peak of all this", 908.0, 200.0),
    ]
};

/// Others that have a floor or a reference alone.
const SENT: Target = Target { what: "return of all: sent to them", reference: 401.0, floor: 2.0 };
const SYNCED: Target = Target { what: "first sync of all: sent to them", reference: 402.0, floor: f64::NAN };

impl Figures {
    /// Adds what one repetition has found.
    pub(super) fn add(&mut self, what: &str, unit: &str, value: f64) {
        match self.rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.found.push(value),
            None => self.rows.push(Row { what: what.to_owned(), unit: unit.to_owned(), found: vec![value] }),
        }
    }

    /// Floors that do not hold, each with what was found.
    pub(super) fn missed(&self) -> Vec<String> {
        let judged = self.rows.iter().filter_map(|row| Some((row, row.target()?, median(&row.found)?)));
        judged
            .filter(|(_, target, found)| found > &target.floor)
            .map(|(row, target, found)| format!("{}: {found:.2} {}, floor {:.2}", row.what, row.unit, target.floor))
            .collect()
    }

    pub(super) fn json(&self) -> Value {
        let row =
            |row: &Row| json!({"what": row.what, "unit": row.unit, "found": row.found, "median": median(&row.found)});
        self.rows.iter().map(row).collect()
    }
}

impl Row {
    fn target(&self) -> Option<&'static Target> {
        TARGETS.iter().chain([&SENT, &SYNCED]).find(|target| target.what == self.what)
    }
}

/// Markdown, aligned: medians, with the least and the greatest in brackets.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "", "reference", "Weft", "Weft / reference", "floor", ""];
        let mut lines = vec![head.map(str::to_owned)];
        let number = |value: Option<f64>| value.filter(|v| !v.is_nan()).map(|v| format!("{v:.2}")).unwrap_or_default();
        for row in &self.rows {
            let (target, found) = (row.target(), median(&row.found));
            let floor = target.map(|target| target.floor).filter(|floor| !floor.is_nan());
            let verdict = match (floor, found) {
                (Some(floor), Some(found)) if found <= floor => "holds",
                (Some(_), _) => "MISSED",
                (None, _) => "",
            };
            lines.push([
                row.what.clone(),
                row.unit.clone(),
                number(target.map(|target| target.reference)),
                spread(&row.found),
                number(found.zip(target).map(|(found, target)| found / target.reference)),
                number(floor),
                verdict.to_owned(),
            ]);
        }
        table(f, &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_judges_medians_against_floors_and_shows_the_reference() {
        let mut figures = Figures::default();
        for cpu in [0.9, 1.2, 0.8] {
            figures.add("first sync of all: CPU", "s", cpu);
        }
        figures.add("one change: at all agents, p99", "ms", 40.0);
        figures.add("first sync of all: as they read it", "MiB", 610.0);
        let expected = "\
            | what                               |     | reference | Weft                | Weft / reference | floor |        |\n\
            |------------------------------------|-----|-----------|---------------------|------------------|-------|--------|\n\
            | first sync of all: CPU             | s   | 4.65      | 0.90 (0.80 to 1.20) | 0.19             | 1.00  | holds  |\n\
            | one change: at all agents, p99     | ms  |           | 40.0                |                  | 30.00 | MISSED |\n\
            | first sync of all: as they read it | MiB |           | 610                 |                  |       |        |\n";
        assert_eq!(figures.to_string(), expected);
        assert_eq!(figures.missed(), ["one change: at all agents, p99: 40.00 ms, floor 30.00"]);
    }
}
