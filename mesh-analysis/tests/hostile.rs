//! Whatever a manifest or a cluster brings, there are findings and no panic.

use mesh_analysis::api::{self, Kind};
use mesh_analysis::schema::{Item, Shape, Type};
use mesh_analysis::{Mesh, analyze, crd, validate};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

proptest! {
    #[test]
    fn objects_of_arbitrary_fields_never_panic(kind in select(api::kinds().collect::<Vec<_>>()), seed in any::<u64>()) {
        validate(&object_of(kind, arbitrary(kind.spec, &mut Choices(seed), 0)));
    }

    #[test]
    fn configurations_of_arbitrary_objects_never_panic(seed in any::<u64>()) {
        let mut choices = Choices(seed);
        let objects: Vec<Value> = api::kinds().map(|kind| object_of(kind, arbitrary(kind.spec, &mut choices, 0))).collect();
        analyze(&objects, &Mesh::default());
    }

    #[test]
    fn arbitrary_json_never_panics(kind in select(api::kinds().collect::<Vec<_>>()), spec in json()) {
        validate(&object_of(kind, spec.clone()));
        validate(&spec);
    }
}

/// Each pattern and each default of the tables is used once, so that one that cannot be read is noticed.
#[test]
fn every_table_can_be_read() {
    for kind in api::kinds() {
        crd::render(kind);
        patterns(kind.spec);
    }
}

fn patterns(shape: &Shape) {
    for field in shape.fields {
        pattern(&field.of);
    }
}

fn pattern(of: &Type) {
    match of {
        Type::Text(text) => {
            if let Some(pattern) = text.pattern {
                regex::Regex::new(pattern).expect(pattern);
            }
        }
        Type::Object(shape) => patterns(shape),
        Type::List(list) => item(list.item),
        Type::Map(map) => item(map.value),
        _ => {}
    }
}

fn item(item: Item) {
    match item {
        Item::Of(of) => pattern(of),
        Item::Object(shape) => patterns(shape),
    }
}

fn object_of(kind: &Kind, spec: Value) -> Value {
    let api_version = format!("{}/{}", kind.group, kind.storage());
    json!({ "apiVersion": api_version, "kind": kind.kind, "metadata": { "name": "a" }, "spec": spec })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z./-]{0,12}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Numbers from a seed: the shape of what is made follows the tables, which proptest knows nothing of.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: u64) -> u64 {
        // Knuth's constants for a linear congruential generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn arbitrary(shape: &Shape, choices: &mut Choices, depth: u32) -> Value {
    let mut object = serde_json::Map::new();
    for field in shape.fields {
        if depth < 8 && choices.below(3) == 0 {
            object.insert(field.name.to_owned(), value(&field.of, choices, depth + 1));
        }
    }
    Value::Object(object)
}

fn value(of: &Type, choices: &mut Choices, depth: u32) -> Value {
    if choices.below(10) == 0 {
        return [json!(null), json!([]), json!({}), json!(-1), json!("")][choices.below(5) as usize].clone();
    }
    match of {
        Type::Text(_) | Type::Duration { .. } => TEXTS[choices.below(TEXTS.len() as u64) as usize].into(),
        Type::Choice(values) => values[choices.below(values.len() as u64) as usize].into(),
        Type::Integer(_) | Type::IntOrString => json!(choices.below(70_000) as i64 - 1),
        Type::Number { .. } => json!(choices.below(200) as f64 / 2.0),
        Type::Boolean => json!(choices.below(2) == 0),
        Type::Object(shape) => arbitrary(shape, choices, depth),
        Type::List(list) => (0..choices.below(3)).map(|_| of_item(list.item, choices, depth)).collect(),
        Type::Map(map) => {
            let mut entries = serde_json::Map::new();
            for _ in 0..choices.below(3) {
                let key = TEXTS[choices.below(TEXTS.len() as u64) as usize].to_owned();
                entries.insert(key, of_item(map.value, choices, depth));
            }
            Value::Object(entries)
        }
        Type::Opaque => json!({ "any": 1 }),
    }
}

fn of_item(item: Item, choices: &mut Choices, depth: u32) -> Value {
    match item {
        Item::Of(of) => value(of, choices, depth),
        Item::Object(shape) => arbitrary(shape, choices, depth),
    }
}

const TEXTS: &[&str] = &[
    "",
    "*",
    "a",
    "a.b.c",
    "*.a.b",
    "10.0.0.1",
    "10.0.0.0/8",
    "unix:///a",
    "ns/name",
    "*/*",
    "5s",
    "0s",
    "1h",
    "é*ü",
    "%",
    "8080",
    "[a",
    "request.headers[x]",
    "{*}/{a}",
    "spiffe://a/ns/b/sa/c",
    "a/ns/b/sa/c",
    "mesh",
    "443",
    "HTTP",
    "TLS",
    "🦀.🦀",
    "-",
    ".",
];
