//! What there is to do about one object: it should be so, and it is so.

use serde_json::Value;

use super::quantity::Quantity;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is as it should be, or is on its way out.
    Keep,
    Create,
    Update,
    Delete,
    /// It is not the Gateway's.
    Conflict,
}

/// `owner` is the Gateway's uid. Something that nobody asks for and that is not the Gateway's is left alone.
pub(super) fn step(wanted: Option<&Value>, live: Option<&Value>, owner: &str) -> Step {
    let Some(live) = live else { return if wanted.is_some() { Step::Create } else { Step::Keep } };
    match (wanted, is_owned(live, owner)) {
        (Some(_), false) => Step::Conflict,
        (None, false) => Step::Keep,
        (_, true) if !live["metadata"]["deletionTimestamp"].is_null() => Step::Keep,
        (None, true) => Step::Delete,
        (Some(wanted), true) if holds(wanted, live, false) => Step::Keep,
        (Some(_), true) => Step::Update,
    }
}

fn is_owned(live: &Value, owner: &str) -> bool {
    let owners = live["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|reference| reference["uid"] == owner && reference["controller"] == true)
}

/// Whether `live` says all that `wanted` says. It may say more: what the API server fills in, and what others add.
/// `of_resources`: the values are quantities, which the API server writes in its own form.
fn holds(wanted: &Value, live: &Value, of_resources: bool) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| {
            let of_resources = of_resources || key == "resources";
            live.get(key).is_some_and(|live| holds(value, live, of_resources))
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.iter().all(|value| live.iter().any(|live| holds(value, live, of_resources)))
        }
        (Value::String(wanted), Value::String(live)) if of_resources => {
            wanted == live || Quantity::parse(wanted).is_some_and(|wanted| Some(wanted) == Quantity::parse(live))
        }
        (wanted, live) => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owned(mut object: Value, uid: &str) -> Value {
        object["metadata"]["ownerReferences"] = json!([{"uid": "other"}, {"uid": uid, "controller": true}]);
        object
    }

    #[test]
    fn only_what_differs_and_is_ones_own_is_written() {
        let wanted = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"replicas": 2, "list": [{"name": "x", "value": "1"}], "resources": {"limits": {"cpu": "0.5"}}},
        });
        let filled = json!({
            "metadata": {"labels": {"a": "b", "c": "d"}, "resourceVersion": "7"},
            "spec": {
                "replicas": 2, "paused": false, "resources": {"limits": {"cpu": "500m"}},
                "list": [{"name": "of another", "value": "9"}, {"name": "x", "value": "1", "more": true}],
            },
        });
        let changed = |at: &str, value: Value| {
            let mut live = owned(filled.clone(), "me");
            *live.pointer_mut(at).unwrap() = value;
            live
        };
        let mut leaving = owned(filled.clone(), "me");
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut taken = owned(filled.clone(), "me");
        taken["metadata"]["ownerReferences"][1]["controller"] = false.into();
        for (name, wanted, live, expected) in [
            ("nothing there", Some(&wanted), None, Step::Create),
            ("nothing asked for", None, None, Step::Keep),
            ("filled in", Some(&wanted), Some(owned(filled.clone(), "me")), Step::Keep),
            ("scaled", Some(&wanted), Some(changed("/spec/replicas", json!(3))), Step::Update),
            ("label", Some(&wanted), Some(changed("/metadata/labels", json!({}))), Step::Update),
            ("item", Some(&wanted), Some(changed("/spec/list/1/value", json!("2"))), Step::Update),
            ("no item", Some(&wanted), Some(changed("/spec/list", json!([]))), Step::Update),
            ("limit", Some(&wanted), Some(changed("/spec/resources/limits/cpu", json!("501m"))), Step::Update),
            ("no longer asked for", None, Some(owned(filled.clone(), "me")), Step::Delete),
            ("leaving", Some(&wanted), Some(leaving.clone()), Step::Keep),
            ("leaving, not asked for", None, Some(leaving), Step::Keep),
            ("nobody's", Some(&wanted), Some(filled.clone()), Step::Conflict),
            ("an older Gateway's", Some(&wanted), Some(owned(filled.clone(), "before")), Step::Conflict),
            ("not controlled", Some(&wanted), Some(taken), Step::Conflict),
            ("nobody's, not asked for", None, Some(filled.clone()), Step::Keep),
        ] {
            assert_eq!(step(wanted, live.as_ref(), "me"), expected, "{name}");
        }
    }
}
