//! Fields of an object, as it was written, by patterns of their paths.

use serde_json::Value;

/// Paths from `spec` on of all that `pattern` stands for and that is there. In a pattern, such as `http[].retries.backoff`, `[]` is each
/// entry of a list. An empty text is a field that was not set.
pub(super) fn present(object: &Value, pattern: &str) -> Vec<String> {
    let mut found: Vec<(String, &Value)> =
        object.get("spec").map(|spec| ("spec".to_owned(), spec)).into_iter().collect();
    for part in pattern.split('.') {
        let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        let inside = found.into_iter().filter_map(|(path, at)| Some((format!("{path}.{name}"), at.get(name)?)));
        found = match is_list {
            false => inside.collect(),
            true => inside
                .flat_map(|(path, at)| {
                    let entries = at.as_array().map(Vec::as_slice).unwrap_or_default();
                    entries.iter().enumerate().map(move |(i, entry)| (format!("{path}[{i}]"), entry))
                })
                .collect(),
        };
    }
    found.into_iter().filter(|(_, at)| at.as_str() != Some("")).map(|(path, _)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_in_every_entry() {
        let object =
            serde_json::json!({"spec": {"a": {"b": 1, "c": ""}, "l": [{"b": {}}, {}, {"b": [{"c": 0}, {"c": 1}]}]}});
        for (pattern, found) in [
            ("a.b", &["spec.a.b"][..]),
            ("a.c", &[]),
            ("a.x.y", &[]),
            ("a[]", &[]),
            ("l[].b", &["spec.l[0].b", "spec.l[2].b"]),
            ("l[].b[].c", &["spec.l[2].b[0].c", "spec.l[2].b[1].c"]),
        ] {
            assert_eq!(present(&object, pattern), found, "{pattern}");
        }
        assert!(present(&Value::Null, "a").is_empty());
    }
}
