//! From a table to the CustomResourceDefinition that an API server takes.

use serde_json::{Map, Value, json};

use crate::api::{Bundle, GATEWAY_API_VERSION};
use crate::schema::{Column, ColumnFormat, Field, Group, Kind, ListKind, Remark, Rule, Scope, Shape, Text, Type};

/// The CRD of a kind, with every served version and the status subresource.
pub fn render(kind: &Kind) -> Value {
    let versions: Vec<Value> = kind.versions.iter().map(|version| render_version(kind, version)).collect();
    let mut names = Map::new();
    put(&mut names, "categories", words(kind.categories));
    put(&mut names, "kind", kind.kind.into());
    put(&mut names, "listKind", format!("{}List", kind.kind).into());
    put(&mut names, "plural", kind.plural.into());
    if !kind.short_names.is_empty() {
        put(&mut names, "shortNames", words(kind.short_names));
    }
    put(&mut names, "singular", kind.singular.into());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata(kind),
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": match kind.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
            "versions": versions,
        }
    })
}

fn metadata(kind: &Kind) -> Value {
    let mut metadata = json!({
        "name": kind.crd_name(),
        "labels": { "app.kubernetes.io/part-of": "weft" },
    });
    if Bundle::GatewayApi.kinds().iter().any(|known| std::ptr::eq(*known, kind)) {
        // What other implementations look for; `unapproved` because the rendering is ours, as Kubernetes asks for the
        // groups under k8s.io that it protects.
        metadata["annotations"] = json!({
            "api-approved.kubernetes.io": "unapproved, the Gateway API's fields as rendered by Weft",
            "gateway.networking.k8s.io/bundle-version": GATEWAY_API_VERSION,
            "gateway.networking.k8s.io/channel": "standard",
        });
    }
    metadata
}

fn render_version(kind: &Kind, version: &str) -> Value {
    let mut properties = Map::new();
    // As in every object; the API server knows them, and `kubectl explain` shows what is said here.
    put(&mut properties, "apiVersion", json!({ "type": "string" }));
    put(&mut properties, "kind", json!({ "type": "string" }));
    put(&mut properties, "metadata", json!({ "type": "object" }));
    let mut spec = render_shape(kind.spec);
    put(&mut spec, "description", kind.doc.into());
    put(&mut properties, "spec", Value::Object(spec));
    if let Some(status) = kind.status {
        let mut schema = render_shape(status);
        if let Some(default) = status.field("conditions").and_then(|conditions| conditions.default) {
            // A status that is missing gets no defaults of its fields.
            put(&mut schema, "default", json!({ "conditions": literal(default) }));
        }
        put(&mut properties, "status", Value::Object(schema));
    }
    let mut schema = Map::new();
    put(&mut schema, "description", kind.doc.into());
    put(&mut schema, "properties", Value::Object(properties));
    if kind.spec_required {
        put(&mut schema, "required", json!(["spec"]));
    }
    put(&mut schema, "type", "object".into());

    let mut rendered = Map::new();
    if !kind.columns.is_empty() {
        put(&mut rendered, "additionalPrinterColumns", kind.columns.iter().map(render_column).collect());
    }
    put(&mut rendered, "name", version.into());
    put(&mut rendered, "schema", json!({ "openAPIV3Schema": schema }));
    put(&mut rendered, "served", true.into());
    put(&mut rendered, "storage", (version == kind.storage()).into());
    if kind.status.is_some() {
        put(&mut rendered, "subresources", json!({ "status": {} }));
    }
    Value::Object(rendered)
}

fn render_column(column: &Column) -> Value {
    let mut rendered = Map::new();
    put(&mut rendered, "jsonPath", column.path.into());
    put(&mut rendered, "name", column.name.into());
    if column.wide {
        put(&mut rendered, "priority", 1.into());
    }
    let format = match column.format {
        ColumnFormat::Text => "string",
        ColumnFormat::Date => "date",
    };
    put(&mut rendered, "type", format.into());
    Value::Object(rendered)
}

fn render_shape(shape: &Shape) -> Map<String, Value> {
    let mut schema = Map::new();
    groups(&mut schema, shape.groups);
    let fields = shape.fields.iter().filter(|field| !field.experimental);
    let properties: Map<String, Value> =
        fields.map(|field| (field.name.to_owned(), Value::Object(render_field(field)))).collect();
    if !properties.is_empty() {
        put(&mut schema, "properties", Value::Object(properties));
    }
    let required: Vec<&str> = shape.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        put(&mut schema, "required", words(&required));
    }
    put(&mut schema, "type", "object".into());
    if shape.open {
        put(&mut schema, "x-kubernetes-preserve-unknown-fields", true.into());
    }
    rules(&mut schema, shape.rules);
    schema
}

/// Structural alternatives rather than CEL: within lists of lists without a bound even a cheap rule costs too much.
fn groups(schema: &mut Map<String, Value>, groups: &[Group]) {
    let alternatives = |group: &Group| -> Value {
        let (fields, optional) = match group {
            Group::AtMostOne(fields) => (fields, true),
            Group::ExactlyOne(fields) => (fields, false),
        };
        let mut one_of: Vec<Value> = Vec::new();
        if optional {
            let any: Vec<Value> = fields.iter().map(|field| json!({ "required": [field] })).collect();
            one_of.push(json!({ "not": { "anyOf": any } }));
        }
        one_of.extend(fields.iter().map(|field| json!({ "required": [field] })));
        Value::Array(one_of)
    };
    match groups {
        [] => {}
        [one] => put(schema, "oneOf", alternatives(one)),
        several => {
            put(schema, "allOf", several.iter().map(|group| json!({ "oneOf": alternatives(group) })).collect());
        }
    }
}

fn render_field(field: &Field) -> Map<String, Value> {
    let mut schema = render_type(&field.of);
    if let Some(default) = field.default {
        put(&mut schema, "default", literal(default));
    }
    let doc = match field.remark {
        None => field.doc.to_owned(),
        Some(Remark::Deprecated(instead)) => format!("{} Deprecated: use {instead}.", field.doc),
        Some(Remark::NotCarriedOut(why)) => format!("{} Without effect: {why}.", field.doc),
    };
    put(&mut schema, "description", doc.into());
    if field.nullable {
        put(&mut schema, "nullable", true.into());
    }
    rules(&mut schema, field.rules);
    schema
}

fn render_type(of: &Type) -> Map<String, Value> {
    let mut schema = Map::new();
    match of {
        Type::Text(Text { least, most, pattern, format }) => {
            put(&mut schema, "type", "string".into());
            if *least > 0 {
                put(&mut schema, "minLength", (*least).into());
            }
            put_some(&mut schema, "maxLength", *most);
            put_some(&mut schema, "pattern", *pattern);
            put_some(&mut schema, "format", *format);
        }
        Type::Choice(values) => {
            put(&mut schema, "enum", words(values));
            put(&mut schema, "type", "string".into());
        }
        Type::Integer(integer) => {
            put(&mut schema, "type", "integer".into());
            if integer.choices.is_empty() {
                // JSON numbers are doubles to some: bounds beyond 2^53 are no bounds to speak of.
                put(&mut schema, "minimum", integer.least.into());
                if integer.most != i64::MAX {
                    put(&mut schema, "maximum", integer.most.into());
                }
            } else {
                put(&mut schema, "enum", integer.choices.into());
            }
            let format = if integer.most <= i64::from(i32::MAX) { "int32" } else { "int64" };
            put(&mut schema, "format", format.into());
        }
        Type::Number { least, most } => {
            put(&mut schema, "format", "double".into());
            put_some(&mut schema, "minimum", *least);
            put_some(&mut schema, "maximum", *most);
            put(&mut schema, "type", "number".into());
        }
        Type::Boolean => put(&mut schema, "type", "boolean".into()),
        Type::Duration { least_ms } => {
            put(&mut schema, "type", "string".into());
            let rule = json!({
                "message": match least_ms {
                    0 => "a duration such as 1h, 30s or 20ms".to_owned(),
                    least => format!("a duration of {least}ms or more, such as 1h, 30s or 20ms"),
                },
                "rule": format!("duration(self) >= duration('{least_ms}ms')"),
            });
            put(&mut schema, "x-kubernetes-validations", json!([rule]));
        }
        Type::Object(shape) => return render_shape(shape),
        Type::List(list) => {
            put(&mut schema, "items", Value::Object(render_type(&list.item.of())));
            put(&mut schema, "type", "array".into());
            if list.least > 0 {
                put(&mut schema, "minItems", list.least.into());
            }
            put_some(&mut schema, "maxItems", list.most);
            let kind = match list.kind {
                ListKind::Plain => return schema,
                ListKind::Atomic => "atomic",
                ListKind::Set => "set",
                ListKind::Map(keys) => {
                    put(&mut schema, "x-kubernetes-list-map-keys", words(keys));
                    "map"
                }
            };
            put(&mut schema, "x-kubernetes-list-type", kind.into());
        }
        Type::Map(map) => {
            put(&mut schema, "additionalProperties", Value::Object(render_type(&map.value.of())));
            put(&mut schema, "type", "object".into());
            if map.least > 0 {
                put(&mut schema, "minProperties", map.least.into());
            }
            put_some(&mut schema, "maxProperties", map.most);
        }
        Type::Opaque => {
            put(&mut schema, "type", "object".into());
            put(&mut schema, "x-kubernetes-preserve-unknown-fields", true.into());
        }
        Type::IntOrString => {
            put(&mut schema, "anyOf", json!([{ "type": "integer" }, { "type": "string" }]));
            put(&mut schema, "x-kubernetes-int-or-string", true.into());
        }
    }
    schema
}

fn rules(schema: &mut Map<String, Value>, rules: &[Rule]) {
    if rules.is_empty() {
        return;
    }
    let rendered = rules.iter().map(|rule| json!({ "message": rule.message, "rule": rule.cel }));
    match schema.get_mut("x-kubernetes-validations") {
        Some(Value::Array(present)) => present.extend(rendered),
        _ => put(schema, "x-kubernetes-validations", rendered.collect()),
    }
}

/// A default, which the tables have as JSON text.
fn literal(json: &str) -> Value {
    serde_json::from_str(json).expect("a default in a table is JSON; a test renders every table")
}

fn words(words: &[&str]) -> Value {
    words.iter().copied().map(Value::from).collect()
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.insert(key.to_owned(), value);
}

fn put_some<T: Into<Value>>(map: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        put(map, key, value.into());
    }
}
