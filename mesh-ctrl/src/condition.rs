//! Conditions of a status, as Kubernetes has them (`metav1.Condition`).

use serde_json::{Value, json};

/// One as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub kind: &'static str,
    pub is_true: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Longest message that is written, in bytes; the Gateway API's kinds take 32 KiB.
const LONGEST: usize = 1024;

impl Condition {
    pub(crate) fn new(kind: &'static str, is_true: bool, reason: &'static str, mut message: String) -> Self {
        if message.len() > LONGEST {
            message.truncate(message.floor_char_boundary(LONGEST));
        }
        Self { kind, is_true, reason, message }
    }
}

/// The list that is to take the place of `before`. Of `ours` each is in it, with the time of its last change; of `kinds`, which
/// nobody else writes, no other; what else is there stays. `generation` 0 is not said. `now` is RFC 3339 in UTC.
pub(crate) fn merged(before: &[Value], ours: &[Condition], kinds: &[&str], generation: i64, now: &str) -> Vec<Value> {
    let named = |value: &Value| ours.iter().find(|condition| value["type"] == condition.kind);
    let kept = before.iter().filter(|value| named(value).is_some() || !kinds.iter().any(|kind| value["type"] == *kind));
    let kept = kept.map(|value| match named(value) {
        Some(condition) => written(condition, Some(value), generation, now),
        None => value.clone(),
    });
    let new = ours.iter().filter(|condition| !before.iter().any(|value| value["type"] == condition.kind));
    kept.chain(new.map(|condition| written(condition, None, generation, now))).collect()
}

fn written(condition: &Condition, before: Option<&Value>, generation: i64, now: &str) -> Value {
    let status = if condition.is_true { "True" } else { "False" };
    let since =
        before.filter(|before| before["status"] == status).and_then(|before| before["lastTransitionTime"].as_str());
    let mut value = json!({
        "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
        "lastTransitionTime": since.unwrap_or(now),
    });
    if generation != 0 {
        value["observedGeneration"] = generation.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_time_changes_with_its_status_alone_and_other_conditions_stay() {
        let theirs = json!({"type": "Theirs", "status": "True", "more": 1});
        let accepted = |is_true, reason| Condition::new("Accepted", is_true, reason, "m".to_owned());
        let first =
            merged(std::slice::from_ref(&theirs), &[accepted(true, "Accepted")], &["Accepted", "Conflicted"], 1, "t1");
        assert_eq!(
            first,
            [
                theirs.clone(),
                json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "m",
                       "lastTransitionTime": "t1", "observedGeneration": 1}),
            ]
        );
        let same = merged(&first, &[accepted(true, "Accepted")], &["Accepted"], 1, "t2");
        assert_eq!(same, first);
        let newer = merged(&first, &[accepted(true, "Other")], &["Accepted"], 2, "t2");
        assert_eq!((&newer[1]["lastTransitionTime"], &newer[1]["observedGeneration"]), (&json!("t1"), &json!(2)));
        let other = merged(&newer, &[accepted(false, "Invalid")], &["Accepted"], 0, "t3");
        assert_eq!((&other[1]["lastTransitionTime"], &other[1]["observedGeneration"]), (&json!("t3"), &Value::Null));
        assert_eq!(merged(&other, &[], &["Accepted"], 3, "t4"), [theirs]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = Condition::new("Accepted", true, "Accepted", format!("x{}", "ä".repeat(LONGEST))).message;
        assert_eq!(message.len(), LONGEST - 1);
    }
}
