//! The language that the tables in [`crate::api`] are written in: what a field is called, what it holds, what it says.
//!
//! A table is data. The CRDs and the check of an object's structure are two readings of the same tables, so that what the
//! API server accepts and what Weft accepts cannot drift apart.

/// A resource kind and everything that a CRD says of it.
#[derive(Debug)]
pub struct Kind {
    pub group: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    /// The first is the one that is stored. All have the same fields.
    pub versions: &'static [&'static str],
    pub spec: &'static Shape,
    /// Whether an object without `spec` is refused.
    pub spec_required: bool,
    pub status: Option<&'static Shape>,
    pub columns: &'static [Column],
    pub doc: &'static str,
    /// Why Weft reads objects of this kind and does nothing with them.
    pub not_carried_out: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A column of `kubectl get`.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    pub path: &'static str,
    pub format: ColumnFormat,
    /// Shown with `-o wide` only.
    pub wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnFormat {
    Text,
    Date,
}

/// The fields of an object.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub fields: &'static [Field],
    pub groups: &'static [Group],
    pub rules: &'static [Rule],
    /// Fields beyond those listed are kept and not looked at.
    pub open: bool,
}

/// Fields of which only some may be set together.
#[derive(Clone, Copy, Debug)]
pub enum Group {
    AtMostOne(&'static [&'static str]),
    ExactlyOne(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub of: Type,
    pub doc: &'static str,
    pub required: bool,
    pub nullable: bool,
    /// JSON text.
    pub default: Option<&'static str>,
    pub rules: &'static [Rule],
    pub remark: Option<Remark>,
    /// It is read, and stands in no CRD of ours: those are of the standard channel.
    pub experimental: bool,
}

/// What an author should know about a field that is right and nevertheless no good idea.
#[derive(Clone, Copy, Debug)]
pub enum Remark {
    /// What to write in its place.
    Deprecated(&'static str),
    /// Why Weft does nothing with it.
    NotCarriedOut(&'static str),
}

/// A rule in the Common Expression Language that the API server checks. Each has a counterpart in [`crate::validate`],
/// which words it better and also serves where there is no API server.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub cel: &'static str,
    pub message: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub enum Type {
    Text(Text),
    /// One of these words.
    Choice(&'static [&'static str]),
    Integer(Integer),
    /// Inclusive bounds.
    Number {
        least: Option<f64>,
        most: Option<f64>,
    },
    Boolean,
    /// Go's syntax for durations: `1h30m`, `1.5s`, `20ms`.
    Duration {
        least_ms: u32,
    },
    Object(&'static Shape),
    List(List),
    Map(Map),
    /// Any object; nobody looks inside.
    Opaque,
    /// Kubernetes' IntOrString.
    IntOrString,
}

#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Characters.
    pub least: u32,
    pub most: Option<u32>,
    /// Searched for, not anchored, as in OpenAPI.
    pub pattern: Option<&'static str>,
    /// An OpenAPI format that the API server knows.
    pub format: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub struct Integer {
    pub least: i64,
    pub most: i64,
    /// Some integers are one of a few, such as a status of a redirect.
    pub choices: &'static [i64],
}

#[derive(Clone, Copy, Debug)]
pub struct List {
    pub item: Item,
    pub least: u32,
    pub most: Option<u32>,
    pub kind: ListKind,
}

/// What a list or a map holds.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    Of(&'static Type),
    Object(&'static Shape),
}

/// Kubernetes' `x-kubernetes-list-type`: how server-side apply merges, and what has to be unique.
#[derive(Clone, Copy, Debug)]
pub enum ListKind {
    Plain,
    Atomic,
    Set,
    /// Items are told apart by these fields.
    Map(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug)]
pub struct Map {
    pub value: Item,
    pub least: u32,
    pub most: Option<u32>,
}

impl Kind {
    /// The version that objects are stored in.
    pub fn storage(&self) -> &'static str {
        self.versions[0]
    }

    /// As a CRD is named.
    pub fn crd_name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

impl Shape {
    pub(crate) const fn new(fields: &'static [Field]) -> Self {
        Self { fields, groups: &[], rules: &[], open: false }
    }

    pub(crate) const fn groups(mut self, groups: &'static [Group]) -> Self {
        self.groups = groups;
        self
    }

    pub(crate) const fn rules(mut self, rules: &'static [Rule]) -> Self {
        self.rules = rules;
        self
    }

    pub(crate) const fn open(mut self) -> Self {
        self.open = true;
        self
    }

    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Field {
    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(crate) const fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    pub(crate) const fn default(mut self, json: &'static str) -> Self {
        self.default = Some(json);
        self
    }

    pub(crate) const fn rules(mut self, rules: &'static [Rule]) -> Self {
        self.rules = rules;
        self
    }

    pub(crate) const fn experimental(mut self) -> Self {
        self.experimental = true;
        self
    }

    pub(crate) const fn deprecated(mut self, instead: &'static str) -> Self {
        self.remark = Some(Remark::Deprecated(instead));
        self
    }

    pub(crate) const fn not_carried_out(mut self, why: &'static str) -> Self {
        self.remark = Some(Remark::NotCarriedOut(why));
        self
    }
}

impl Item {
    pub fn of(self) -> Type {
        match self {
            Self::Of(of) => *of,
            Self::Object(shape) => Type::Object(shape),
        }
    }
}

impl Type {
    /// Shortest text, in characters; or fewest items or entries.
    pub(crate) const fn least(self, least: u32) -> Self {
        match self {
            Self::Text(text) => Self::Text(Text { least, ..text }),
            Self::List(list) => Self::List(List { least, ..list }),
            Self::Map(map) => Self::Map(Map { least, ..map }),
            other => other,
        }
    }

    /// Longest text, in characters; or most items or entries.
    pub(crate) const fn most(self, most: u32) -> Self {
        match self {
            Self::Text(text) => Self::Text(Text { most: Some(most), ..text }),
            Self::List(list) => Self::List(List { most: Some(most), ..list }),
            Self::Map(map) => Self::Map(Map { most: Some(most), ..map }),
            other => other,
        }
    }

    pub(crate) const fn like(self, pattern: &'static str) -> Self {
        match self {
            Self::Text(text) => Self::Text(Text { pattern: Some(pattern), ..text }),
            other => other,
        }
    }

    pub(crate) const fn format(self, format: &'static str) -> Self {
        match self {
            Self::Text(text) => Self::Text(Text { format: Some(format), ..text }),
            other => other,
        }
    }

    pub(crate) const fn keyed(self, kind: ListKind) -> Self {
        match self {
            Self::List(list) => Self::List(List { kind, ..list }),
            other => other,
        }
    }
}

pub(crate) const fn field(name: &'static str, of: Type, doc: &'static str) -> Field {
    Field {
        name,
        of,
        doc,
        required: false,
        nullable: false,
        default: None,
        rules: &[],
        remark: None,
        experimental: false,
    }
}

pub(crate) const fn rule(cel: &'static str, message: &'static str) -> Rule {
    Rule { cel, message }
}

pub(crate) const fn list(item: &'static Type) -> Type {
    list_of(Item::Of(item))
}

pub(crate) const fn objects(shape: &'static Shape) -> Type {
    list_of(Item::Object(shape))
}

const fn list_of(item: Item) -> Type {
    Type::List(List { item, least: 0, most: None, kind: ListKind::Plain })
}

pub(crate) const fn map(value: &'static Type) -> Type {
    Type::Map(Map { value: Item::Of(value), least: 0, most: None })
}

pub(crate) const fn object_map(shape: &'static Shape) -> Type {
    Type::Map(Map { value: Item::Object(shape), least: 0, most: None })
}

pub(crate) const fn object(shape: &'static Shape) -> Type {
    Type::Object(shape)
}

pub(crate) const fn integer(least: i64, most: i64) -> Type {
    Type::Integer(Integer { least, most, choices: &[] })
}

pub(crate) const fn number(least: f64, most: f64) -> Type {
    Type::Number { least: Some(least), most: Some(most) }
}

pub(crate) const fn column(name: &'static str, path: &'static str) -> Column {
    Column { name, path, format: ColumnFormat::Text, wide: false }
}

pub(crate) const AGE: Column =
    Column { name: "Age", path: ".metadata.creationTimestamp", format: ColumnFormat::Date, wide: false };

pub(crate) const TEXT: Type = Type::Text(Text { least: 0, most: None, pattern: None, format: None });
pub(crate) const BOOLEAN: Type = Type::Boolean;
pub(crate) const TEXTS: Type = list(&TEXT);
pub(crate) const INT32: Type = integer(i32::MIN as i64, i32::MAX as i64);
/// What protobuf's uint32 holds.
pub(crate) const UINT32: Type = integer(0, u32::MAX as i64);
pub(crate) const PORT: Type = integer(1, 65_535);
/// Positive, in milliseconds and more.
pub(crate) const DURATION: Type = Type::Duration { least_ms: 1 };
pub(crate) const DURATION_OR_ZERO: Type = Type::Duration { least_ms: 0 };
