//! Expressions of CEL about a request, over the attributes that the reference's proxy documents.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::objects::Key;
use cel::{Context, Env, Program, Value};
use mesh_core::l7::expression;
use mesh_net::header_list::HeaderList;

use super::record::{Record, Word};

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

#[derive(Debug)]
pub(super) struct Expression {
    program: Program,
    /// The attributes that it is about, by their first names.
    about: BTreeSet<String>,
}

impl Expression {
    /// # Errors
    /// It is no expression of CEL; the text says where.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        let program = expression::parse(source)?;
        let about = program.references().variables().into_iter().map(str::to_owned).collect();
        Ok(Self { program, about })
    }

    pub(super) fn is_about(&self, name: &str) -> bool {
        self.about.contains(name)
    }

    /// Whether it holds; one that has no truth value does not, as in the reference.
    pub(super) fn holds(&self, attributes: &Attributes) -> bool {
        matches!(self.value(attributes), Some(Value::Bool(true)))
    }

    /// Its value as text; `None`: it has none, or none that is a text.
    pub(super) fn text(&self, attributes: &Attributes) -> Option<String> {
        match self.value(attributes)? {
            Value::String(text) => Some(text.to_string()),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            _ => None,
        }
    }

    fn value(&self, attributes: &Attributes) -> Option<Value> {
        let mut context = Context::with_env(ENV.clone());
        for (name, value) in attributes.0.iter().filter(|(name, _)| self.about.contains(*name)) {
            context.add_variable_from_value(*name, value.clone());
        }
        // A request is not to break over what is said of it.
        catch_unwind(AssertUnwindSafe(|| self.program.execute(&context))).ok()?.ok()
    }
}

/// The header fields of an exchange, kept where an expression asks for them.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    pub request: HeaderList,
    pub response: HeaderList,
}

/// What an exchange was, as expressions see it.
pub(super) struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    /// `wanted`: whether somebody asks about what has this first name.
    pub(super) fn of(record: &Record, wanted: impl Fn(&str) -> bool) -> Self {
        type Make = fn(&Record) -> Value;
        let all: [(&'static str, Make); 7] = [
            ("request", request),
            ("response", response),
            ("connection", connection),
            ("source", |record| address(record.client.address.to_string(), record.client.address.port())),
            ("destination", |record| address(record.asked.to_string(), record.asked.port())),
            ("upstream", upstream),
            ("xds", xds),
        ];
        let made = all.into_iter().filter(|(name, _)| wanted(name)).map(|(name, make)| (name, make(record)));
        Self(made.collect())
    }
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::from(entries.into_iter().collect::<HashMap<&str, Value>>())
}

fn number(value: u64) -> Value {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Lines of one name are joined by commas (RFC 9110, section 5.3).
fn headers(fields: Option<&HeaderList>) -> Value {
    let mut known: HashMap<Key, Value> = HashMap::new();
    for name in fields.into_iter().flat_map(HeaderList::keys) {
        let lines = fields.into_iter().flat_map(|fields| fields.get_all(name));
        let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        known.insert(name.as_str().into(), lines.join(",").into());
    }
    known.into()
}

fn request(record: &Record) -> Value {
    let word = |word| record.texts.get(word);
    let (path, query) = word(Word::Path).split_once('?').unwrap_or((word(Word::Path), ""));
    let fields = record.headers.as_ref().map(|headers| &headers.request);
    let referer = fields.and_then(|fields| fields.get("referer")).and_then(|value| value.to_str().ok());
    map([
        ("path", word(Word::Path).into()),
        ("url_path", path.into()),
        ("query", query.into()),
        ("host", word(Word::Authority).into()),
        ("scheme", "http".into()),
        ("method", word(Word::Method).into()),
        ("headers", headers(fields)),
        ("referer", referer.unwrap_or_default().into()),
        ("useragent", word(Word::UserAgent).into()),
        ("id", word(Word::RequestId).into()),
        ("protocol", record.protocol.into()),
        ("size", number(record.received)),
    ])
}

fn response(record: &Record) -> Value {
    let known = [
        ("code", number(record.status.into())),
        ("code_details", (&*record.details).into()),
        ("flags", Value::Int(flag(record.flags))),
        ("headers", headers(record.headers.as_ref().map(|headers| &headers.response))),
        ("size", number(record.sent)),
    ];
    let grpc = record.grpc_status.map(|status| ("grpc_status", Value::Int(status.0.into())));
    Value::from(known.into_iter().chain(grpc).collect::<HashMap<&str, Value>>())
}

fn connection(record: &Record) -> Value {
    map([
        ("mtls", true.into()),
        ("tls_version", "TLSv1.3".into()),
        ("requested_server_name", "".into()),
        ("uri_san_peer_certificate", record.client.identity.uri().into()),
    ])
}

fn address(text: String, port: u16) -> Value {
    map([("address", text.into()), ("port", number(port.into()))])
}

fn upstream(record: &Record) -> Value {
    let failure = ("transport_failure_reason", record.failure.as_str().into());
    let attempts = ("request_attempt_count", number(record.attempts.into()));
    match record.upstream {
        Some(to) => map([("address", to.to_string().into()), ("port", number(to.port().into())), failure, attempts]),
        None => map([failure, attempts]),
    }
}

fn xds(record: &Record) -> Value {
    map([
        ("cluster_name", record.service.as_ref().map_or("", |service| &*service.key.hostname).into()),
        ("route_name", record.route.as_deref().unwrap_or_default().into()),
    ])
}

/// The bit that the reference has for a flag.
fn flag(flag: &str) -> i64 {
    const BITS: [(&str, i64); 13] = [
        ("UH", 0x2),
        ("UT", 0x4),
        ("UR", 0x10),
        ("UF", 0x20),
        ("UC", 0x40),
        ("UO", 0x80),
        ("NR", 0x100),
        ("DI", 0x200),
        ("FI", 0x400),
        ("UAEX", 0x1000),
        ("DC", 0x4000),
        ("DPE", 0x4_0000),
        ("NC", 0x100_0000),
    ];
    BITS.iter().find(|(own, _)| *own == flag).map_or(0, |(_, bit)| *bit)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mesh_core::identity::SpiffeId;
    use proptest::prelude::*;

    use super::super::record::GrpcStatus;
    use super::*;
    use crate::client::Client;

    fn record() -> Record {
        let client = Client {
            identity: SpiffeId::new("td", "shop", "web").unwrap(),
            address: SocketAddr::from(([10, 0, 0, 9], 4000)),
            workload: None,
        };
        let mut record = Record::new(Arc::new(client), SocketAddr::from(([10, 96, 0, 7], 80)), "HTTP/2");
        record.texts.set(Word::Method, "POST");
        record.texts.set(Word::Path, "/a/b?c=d");
        record.texts.set(Word::UserAgent, "curl/8");
        (record.status, record.flags, record.attempts) = (503, "UF", 2);
        record.grpc_status = Some(GrpcStatus(14));
        let mut headers = Headers::default();
        headers.request.append("x-team", "blue".parse().unwrap());
        headers.request.append("x-team", "red".parse().unwrap());
        headers.response.append("x-by", "v1".parse().unwrap());
        record.headers = Some(Box::new(headers));
        record
    }

    #[test]
    fn filters_ask_by_the_references_names() {
        let record = record();
        for (expression, holds) in [
            ("response.code >= 400", true),
            ("response.code == 200", false),
            ("response.code >= 500 && request.method == 'POST'", true),
            ("request.url_path == '/a/b' && request.query == 'c=d'", true),
            ("request.path.startsWith('/healthz')", false),
            ("!request.path.startsWith('/healthz')", true),
            ("request.headers['x-team'] == 'blue,red'", true),
            ("'x-team' in request.headers && !('x-other' in request.headers)", true),
            ("has(request.headers.other)", false),
            ("request.useragent.matches('^curl/[0-9]+$')", true),
            ("response.headers['x-by'] == 'v1'", true),
            ("response.grpc_status == 14", true),
            ("response.flags == 32", true),
            ("connection.mtls", true),
            ("connection.uri_san_peer_certificate == 'spiffe://td/ns/shop/sa/web'", true),
            ("source.port == 4000 && destination.address == '10.96.0.7:80'", true),
            ("upstream.request_attempt_count > 1", true),
            ("xds.route_name == ''", true),
            // What has no truth value does not hold.
            ("request.headers['x-none'] == 'a'", false),
            ("response.code", false),
            ("nobody.knows", false),
            ("1 / 0 == 1", false),
        ] {
            let compiled = Expression::compile(expression).unwrap();
            let attributes = Attributes::of(&record, |name| compiled.is_about(name));
            assert_eq!(compiled.holds(&attributes), holds, "{expression}");
        }
    }

    #[test]
    fn the_deepest_that_is_taken_can_be_evaluated() {
        let record = record();
        for (part, rest) in [("1+", "1"), ("[", ""), ("!", "true"), ("a.", "a"), ("true ? 1 : ", "2"), ("size(", "[]")]
        {
            let close = match part {
                "[" => "]",
                "size(" => ")",
                _ => "",
            };
            let written = |times: usize| format!("{}{rest}{}", part.repeat(times), close.repeat(times));
            let deepest =
                (1..=2 * expression::DEEPEST).rev().find_map(|times| Expression::compile(&written(times)).ok());
            let deepest = deepest.expect("some of them are taken");
            let _ = deepest.text(&Attributes::of(&record, |_| true));
        }
        // Alternatives are no depth.
        let many: Vec<_> = (0..150).map(|at| format!("response.code == {at}")).collect();
        let many = Expression::compile(&many.join("||")).unwrap();
        assert!(!many.holds(&Attributes::of(&record, |_| true)));
    }

    #[test]
    fn a_value_becomes_a_text() {
        let record = record();
        for (expression, text) in [
            ("request.method", Some("POST")),
            ("response.code", Some("503")),
            ("connection.mtls", Some("true")),
            ("'a' + 'b'", Some("ab")),
            ("request.headers['x-none']", None),
            ("request", None),
        ] {
            let compiled = Expression::compile(expression).unwrap();
            let attributes = Attributes::of(&record, |name| compiled.is_about(name));
            assert_eq!(compiled.text(&attributes).as_deref(), text, "{expression}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(source in "[a-z0-9.()'\"\\[\\]{}&|!<>=+*?:, -]{0,40}", other: String) {
            for source in [source, other] {
                if let Ok(compiled) = Expression::compile(&source) {
                    let _ = compiled.text(&Attributes::of(&record(), |_| true));
                }
            }
        }
    }
}
