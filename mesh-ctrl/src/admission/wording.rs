//! Findings as people read them at their terminal.

use mesh_analysis::Finding;

/// Findings listed in a refusal; more are counted.
const MOST_LISTED: usize = 20;
/// Longest line of a refusal, in characters: messages quote values, and a value may be a megabyte.
const LONGEST_LINE: usize = 1024;
/// What the API server passes on of warnings: 256 characters of each and 4096 in all (its filter `warning`).
const LONGEST_WARNING: usize = 256;
const MOST_WARNINGS: usize = 16;

/// Why an object is refused: code, field, what is wrong and what to do, one line for each finding.
pub(super) fn refusal(findings: &[Finding]) -> String {
    let line = |finding| shortened(&whole(finding), LONGEST_LINE);
    if let [finding] = findings {
        return line(finding);
    }
    let mut text = format!("{} things are wrong", findings.len());
    for finding in findings.iter().take(MOST_LISTED) {
        text.push_str("\n  ");
        text.push_str(&line(finding));
    }
    if findings.len() > MOST_LISTED {
        text.push_str(&format!("\n  and {} more", findings.len() - MOST_LISTED));
    }
    text
}

/// A warning for each finding; the last one counts those that have no place.
pub(super) fn warnings(findings: &[Finding]) -> Vec<String> {
    let listed = if findings.len() > MOST_WARNINGS { MOST_WARNINGS - 1 } else { findings.len() };
    let mut warnings: Vec<String> = findings.iter().take(listed).map(warning).collect();
    if listed < findings.len() {
        warnings.push(format!("and {} more", findings.len() - listed));
    }
    warnings
}

/// With the advice, if there is room for it.
fn warning(finding: &Finding) -> String {
    let text = whole(finding);
    if text.chars().count() <= LONGEST_WARNING { text } else { shortened(&said(finding), LONGEST_WARNING) }
}

fn whole(finding: &Finding) -> String {
    format!("{}. {}", said(finding), finding.advice)
}

fn said(finding: &Finding) -> String {
    let Finding { code, path, message, .. } = finding;
    let colon = if path.is_empty() { "" } else { ": " };
    format!("{code}: {path}{colon}{message}")
}

/// At most `most` characters; the last is an ellipsis if there are more.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use mesh_analysis::{Code, ObjectRef};

    use super::*;

    fn finding(path: &str, message: &str) -> Finding {
        let (code, object) = (Code::BadDuration, ObjectRef::default());
        let (path, message) = (path.to_owned(), message.to_owned());
        Finding { code, severity: code.severity(), object, path, message, advice: "Write 1s." }
    }

    #[test]
    fn a_refusal_names_code_field_sentence_and_advice_of_each_finding() {
        let one = finding("spec.http[0].timeout", "\"0s\" is too short");
        assert_eq!(
            refusal(std::slice::from_ref(&one)),
            "bad-duration: spec.http[0].timeout: \"0s\" is too short. Write 1s."
        );
        let whole = finding("", "it says nothing");
        assert_eq!(
            refusal(&[one, whole]),
            "2 things are wrong\n  bad-duration: spec.http[0].timeout: \"0s\" is too short. Write 1s.\n  \
             bad-duration: it says nothing. Write 1s."
        );
    }

    #[test]
    fn neither_many_findings_nor_long_values_make_an_answer_without_end() {
        let many = vec![finding("spec", &"ü".repeat(100_000)); 1000];
        let text = refusal(&many);
        assert!(text.ends_with("\n  and 980 more"), "{}", &text[text.len() - 40..]);
        assert!(text.chars().count() < MOST_LISTED * (LONGEST_LINE + 4) + 100);
        let warnings = warnings(&many);
        assert_eq!((warnings.len(), warnings[15].as_str()), (16, "and 985 more"));
        assert!(warnings.iter().all(|w| w.chars().count() <= 256));
        assert!(warnings.iter().map(|w| w.chars().count()).sum::<usize>() <= 4096);
        assert!(warnings[0].ends_with('…'));
    }

    #[test]
    fn all_warnings_that_fit_are_there() {
        let few = vec![finding("spec", "so"); 16];
        assert_eq!(warnings(&few), vec!["bad-duration: spec: so. Write 1s."; 16]);
        assert!(warnings(&[]).is_empty());
        let tight = finding("spec", &"x".repeat(256 - "bad-duration: spec: ".len()));
        let said = warnings(&[tight]).concat();
        assert_eq!(said.chars().count(), 256, "the advice has no place");
        assert!(!said.contains("Write"));
    }
}
