//! What a Gateway says of its instances, by annotations.

use serde_json::{Map, Value, json};

use super::quantity::Quantity;
use crate::object::Metadata;

/// Number of instances, 0 to 1000. Without, Kubernetes' one, or what an autoscaler says.
const REPLICAS: &str = "weft.io/replicas";
/// How many instances are to stay when nodes are drained: a number, a percentage, or `none`.
const MIN_AVAILABLE: &str = "weft.io/min-available";
/// Resources of an instance: annotation, where it goes, and what holds without it. `none`: it is not set.
const RESOURCES: [(&str, &str, &str, Option<&str>); 4] = [
    ("weft.io/cpu-request", "requests", "cpu", Some("100m")),
    ("weft.io/memory-request", "requests", "memory", Some("128Mi")),
    ("weft.io/cpu-limit", "limits", "cpu", None),
    // By which an instance tells how many requests it may hold at once.
    ("weft.io/memory-limit", "limits", "memory", Some("1Gi")),
];

#[derive(Debug, PartialEq)]
pub(super) struct Wishes {
    pub(super) replicas: Option<u32>,
    /// `spec` of a PodDisruptionBudget without its selector.
    pub(super) disruption: Option<Map<String, Value>>,
    /// Kubernetes' ResourceRequirements.
    pub(super) resources: Value,
}

impl Wishes {
    /// # Errors
    /// Every annotation that cannot be read, each with what it should be.
    pub(super) fn read(metadata: &Metadata) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let replicas = metadata.annotation(REPLICAS).and_then(|text| {
            let read = text.parse().ok().filter(|count| *count <= MOST);
            if read.is_none() {
                mistakes.push(format!("{REPLICAS}: {text:?} is no number from 0 to {MOST}"));
            }
            read
        });
        let is_several = replicas.is_some_and(|count| count > 1);
        let budget = |field: &str, value: Value| Some(Map::from_iter([(field.to_owned(), value)]));
        let disruption = match metadata.annotation(MIN_AVAILABLE) {
            None if is_several => budget("maxUnavailable", json!(1)),
            None | Some("none") => None,
            Some(text) => available(text).and_then(|value| budget("minAvailable", value)).or_else(|| {
                mistakes.push(format!("{MIN_AVAILABLE}: {text:?} is neither a number, a percentage nor none"));
                None
            }),
        };
        let resources = resources(metadata, &mut mistakes);
        if mistakes.is_empty() { Ok(Self { replicas, disruption, resources }) } else { Err(mistakes) }
    }
}

/// Instances at most.
const MOST: u32 = 1000;

fn available(text: &str) -> Option<Value> {
    if let Some(percent) = text.strip_suffix('%') {
        return percent
            .parse::<u8>()
            .ok()
            .filter(|percent| *percent <= 100)
            .map(|percent| json!(format!("{percent}%")));
    }
    text.parse::<u32>().ok().filter(|count| *count <= MOST).map(|count| json!(count))
}

fn resources(metadata: &Metadata, mistakes: &mut Vec<String>) -> Value {
    let mut resources = json!({});
    for (annotation, list, resource, otherwise) in RESOURCES {
        let said = metadata.annotation(annotation);
        let text = said.or(otherwise).filter(|text| *text != "none");
        let Some(text) = text else { continue };
        let Some(quantity) = Quantity::parse(text) else {
            mistakes.push(format!("{annotation}: {text:?} is neither a quantity such as 500m or 1Gi nor none"));
            continue;
        };
        let asked = resources["requests"][resource].as_str().map(str::to_owned);
        let is_less =
            list == "limits" && asked.as_deref().and_then(Quantity::parse).is_some_and(|asked| asked > quantity);
        match (is_less, said, asked) {
            (true, Some(_), Some(asked)) => {
                mistakes.push(format!("{annotation}: {text} is less than the request, {asked}"))
            }
            // Who asks for more than the limit that is usual means that.
            (true, None, Some(asked)) => resources[list][resource] = asked.into(),
            _ => resources[list][resource] = text.into(),
        }
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<Wishes, Vec<String>> {
        let annotations = annotations.iter().map(|(key, value)| (format!("weft.io/{key}").into(), (*value).into()));
        Wishes::read(&Metadata { annotations: annotations.collect(), ..Metadata::default() })
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let usual = json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}});
        assert_eq!(read(&[]), Ok(Wishes { replicas: None, disruption: None, resources: usual }));
        for (annotations, resources) in [
            (
                &[("cpu-limit", "2"), ("memory-limit", "none")][..],
                json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2"}}),
            ),
            (
                &[("memory-request", "2Gi")],
                json!({"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}),
            ),
            (&[("memory-limit", "none"), ("memory-request", "none"), ("cpu-request", "none")], json!({})),
        ] {
            assert_eq!(read(annotations).unwrap().resources, resources, "{annotations:?}");
        }
    }

    #[test]
    fn several_instances_have_a_disruption_budget_and_one_if_it_is_asked_for() {
        let budget =
            |annotations: &[(&str, &str)]| read(annotations).unwrap().disruption.map(|map| json!(map).to_string());
        for (annotations, expected) in [
            (&[("replicas", "1")][..], None),
            (&[("replicas", "2")], Some(r#"{"maxUnavailable":1}"#)),
            (&[("replicas", "2"), ("min-available", "none")], None),
            (&[("min-available", "1")], Some(r#"{"minAvailable":1}"#)),
            (&[("replicas", "9"), ("min-available", "50%")], Some(r#"{"minAvailable":"50%"}"#)),
        ] {
            assert_eq!(budget(annotations).as_deref(), expected, "{annotations:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_all_at_once() {
        let wrong = [
            ("replicas", "many"),
            ("min-available", "101%"),
            ("cpu-request", "-1"),
            ("memory-request", "2Gi"),
            ("memory-limit", "1Gi"),
        ];
        assert_eq!(
            read(&wrong).unwrap_err(),
            [
                "weft.io/replicas: \"many\" is no number from 0 to 1000",
                "weft.io/min-available: \"101%\" is neither a number, a percentage nor none",
                "weft.io/cpu-request: \"-1\" is neither a quantity such as 500m or 1Gi nor none",
                "weft.io/memory-limit: 1Gi is less than the request, 2Gi",
            ]
        );
        for text in ["-1", "1001", "1.5", ""] {
            assert!(read(&[("replicas", text)]).is_err(), "{text}");
        }
    }
}
