//! Whether a dashboard asks for what there is: metrics and labels of its queries, held against what a program tells.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// All queries of `dashboard` (JSON of Grafana), its variables still in them.
///
/// # Errors
/// It is no dashboard, or one without queries.
pub fn queries(dashboard: &str) -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(dashboard)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<String> =
        targets.map(|target| Ok(target["expr"].as_str().context("no query")?.to_owned())).collect::<Result<_>>()?;
    anyhow::ensure!(!queries.is_empty(), "no queries");
    Ok(queries)
}

/// What `dashboard` (JSON of Grafana) asks for and `metrics` (as Prometheus reads them) does not have. Metrics that have counted
/// nothing yet are not told: those are looked for among `names`, and their labels are not looked at.
///
/// # Errors
/// It is no dashboard, or one without queries.
pub fn lacking(dashboard: &str, metrics: &str, names: &[String]) -> Result<Vec<String>> {
    let queries = queries(dashboard)?;
    let mut lacking: Vec<String> = queries.iter().flat_map(|query| lacks(query, metrics, names)).collect();
    lacking.sort();
    lacking.dedup();
    Ok(lacking)
}

/// Names of metrics in the source of a program: the texts between quotes that begin as theirs do.
///
/// # Errors
/// It cannot be read.
pub fn names(source: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            names.extend(self::names(&path)?);
        } else {
            let text = fs::read_to_string(&path)?;
            let quoted = text.split('"').filter(|text| text.starts_with("weft_") || text.starts_with("istio_"));
            names.extend(quoted.map(str::to_owned));
        }
    }
    Ok(names)
}

fn lacks(query: &str, metrics: &str, names_of_source: &[String]) -> Vec<String> {
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !text.is_empty();
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: Vec<&str> = words.filter(|name| name.starts_with("istio_") || name.starts_with("weft_")).collect();
    let grouped =
        query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()).flat_map(|list| list.split(','));
    let selected =
        query.split('{').skip(1).filter_map(|rest| rest.split('}').next()).flat_map(|list| list.split("\", "));
    let selected = selected.filter_map(|one| one.split(['=', '!']).next());
    let labels: Vec<&str> = grouped.chain(selected).map(str::trim).filter(|label| word(label)).collect();
    let mut lacking = Vec::new();
    for name in names {
        let family = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.unwrap_or(name);
        let is_told = metrics.lines().any(|line| line.starts_with(&format!("# TYPE {family} ")));
        if !is_told && !names_of_source.iter().any(|known| known == family) {
            lacking.push(name.to_owned());
        }
        let samples: Vec<&str> = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect();
        let has = |label: &str| {
            let label = [format!("{{{label}=\""), format!(",{label}=\"")];
            samples.iter().any(|sample| label.iter().any(|label| sample.contains(label)))
        };
        let unknown = labels.iter().filter(|label| !samples.is_empty() && !has(label));
        lacking.extend(unknown.map(|label| format!("{name}{{{label}}}")));
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_named() {
        let metrics =
            "# TYPE istio_requests counter\nistio_requests_total{code=\"200\",to=\"a\"} 1\n# TYPE weft_shed counter\n";
        for (query, expected) in [
            ("sum by (to) (rate(istio_requests_total{code=~\"5..\", to!=\"b\"}[5m]))", ""),
            (
                "sum by (to, from) (istio_requests_total{kind=\"x\"})",
                "istio_requests_total{from}, istio_requests_total{kind}",
            ),
            ("weft_shed_total{why=\"x\"}", ""),
            ("weft_limited_total{policy=\"x\"}", ""),
            ("rate(weft_shod_total[5m]) / istio_requests_total", "weft_shod_total"),
        ] {
            assert_eq!(lacks(query, metrics, &["weft_limited".to_owned()]).join(", "), expected, "{query}");
        }
        assert!(lacking("{\"panels\": []}", metrics, &[]).is_err());
    }
}
