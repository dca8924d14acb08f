//! A line of the access log, as the log's other lines are written.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use super::ACCESS;
use super::record::{Record, Word};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
}

/// The clock's text, kept for as long as the second is.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// `2026-11-22T07:45:16`
    text: String,
}

impl Clock {
    /// Appends `at` in UTC with microseconds (RFC 3339).
    fn append(&mut self, at: SystemTime, to: &mut Vec<u8>) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            let second = i64::try_from(since.as_secs()).ok();
            let time = second.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
            let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
            let (hour, minute, second) = time.to_hms();
            self.text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        }
        to.extend_from_slice(self.text.as_bytes());
        let mut micros = since.subsec_micros();
        let mut digits = *b".000000Z";
        for digit in digits[1..7].iter_mut().rev() {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or_default();
            micros /= 10;
        }
        to.extend_from_slice(&digits);
    }
}

macro_rules! name {
    ($name:literal) => {
        Name {
            text: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
            text_quoted: concat!(" ", $name, "=\""),
            json_quoted: concat!(",\"", $name, "\":\""),
        }
    };
}

/// Appends the line of what `record` tells, which is over.
pub(super) fn append(record: &Record, form: Form, clock: &mut Clock, to: &mut Vec<u8>) {
    let at = record.began_at + record.took;
    match form {
        Form::Text => {
            clock.append(at, to);
            to.extend_from_slice(b"  INFO ");
            to.extend_from_slice(ACCESS.as_bytes());
            to.extend_from_slice(b": request complete");
        }
        Form::Json => {
            to.extend_from_slice(b"{\"timestamp\":\"");
            clock.append(at, to);
            to.extend_from_slice(b"\",\"level\":\"INFO\",\"message\":\"request complete\"");
        }
    }
    let mut line = Line { to, form };
    let duration = u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX);
    line.text(name!("method"), record.texts.get(Word::Method));
    line.text(name!("path"), record.texts.get(Word::Path));
    line.text(name!("protocol"), record.protocol);
    line.text(name!("authority"), record.texts.get(Word::Authority));
    line.number(name!("response_code"), record.status.into());
    line.text(name!("response_flags"), record.flags);
    line.text(name!("response_code_details"), &record.details);
    if let Some(status) = record.grpc_status {
        line.quoted(name!("grpc_status"), status.0);
    }
    line.text(name!("upstream_transport_failure_reason"), &record.failure);
    line.number(name!("bytes_received"), record.received);
    line.number(name!("bytes_sent"), record.sent);
    line.number(name!("duration"), duration);
    line.number(name!("attempts"), record.attempts.into());
    line.text(name!("x_forwarded_for"), record.texts.get(Word::ForwardedFor));
    line.text(name!("user_agent"), record.texts.get(Word::UserAgent));
    line.text(name!("request_id"), record.texts.get(Word::RequestId));
    if let Some(upstream) = record.upstream {
        line.quoted(name!("upstream_host"), Address(upstream));
    }
    line.text(name!("upstream_cluster"), record.service.as_ref().map_or("", |service| &service.key.hostname));
    line.text(name!("upstream_workload"), record.destination.as_ref().map_or("", |workload| &workload.name));
    line.shown(name!("downstream_local_address"), Address(record.asked));
    line.shown(name!("downstream_remote_address"), Address(record.client.address));
    line.shown(name!("downstream_identity"), record.client.identity.uri());
    line.text(name!("downstream_workload"), record.client.workload.as_ref().map_or("", |workload| &workload.name));
    line.text(name!("route_name"), record.route.as_deref().unwrap_or_default());
    match form {
        Form::Text => to.push(b'\n'),
        Form::Json => {
            to.extend_from_slice(b",\"target\":\"");
            to.extend_from_slice(ACCESS.as_bytes());
            to.extend_from_slice(b"\"}\n");
        }
    }
}

/// A field's name with what stands around it: written with one copy.
#[derive(Clone, Copy)]
struct Name {
    text: &'static str,
    json: &'static str,
    text_quoted: &'static str,
    json_quoted: &'static str,
}

struct Line<'a> {
    to: &'a mut Vec<u8>,
    form: Form,
}

// Nothing that is written here can fail: it goes to memory.
impl Line<'_> {
    fn name(&mut self, name: Name) {
        let name = match self.form {
            Form::Text => name.text,
            Form::Json => name.json,
        };
        self.to.extend_from_slice(name.as_bytes());
    }

    /// The name, and the quote that its value begins with.
    fn opened(&mut self, name: Name) {
        let name = match self.form {
            Form::Text => name.text_quoted,
            Form::Json => name.json_quoted,
        };
        self.to.extend_from_slice(name.as_bytes());
    }

    /// What is empty is left out.
    fn text(&mut self, name: Name, value: &str) {
        if value.is_empty() {
            return;
        }
        if is_plain(value.as_bytes()) {
            self.opened(name);
            self.to.extend_from_slice(value.as_bytes());
            self.to.push(b'"');
            return;
        }
        self.name(name);
        match self.form {
            Form::Text => drop(write!(self.to, "{value:?}")),
            Form::Json => drop(serde_json::to_writer(&mut *self.to, value)),
        }
    }

    fn number(&mut self, name: Name, value: u64) {
        self.name(name);
        append_number(value, self.to);
    }

    /// What needs no escaping, in quotes.
    fn quoted(&mut self, name: Name, value: impl Append) {
        self.opened(name);
        value.append(self.to);
        self.to.push(b'"');
    }

    /// What needs no escaping, in quotes where the form has no values without.
    fn shown(&mut self, name: Name, value: impl Append) {
        match self.form {
            Form::Json => self.quoted(name, value),
            Form::Text => {
                self.name(name);
                value.append(self.to);
            }
        }
    }
}

/// Whether it may stand between quotes as it is. All bytes are looked at, because that is done for many at once.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & (*byte >= b' ') & (*byte <= b'~') & (*byte != b'"') & (*byte != b'\\'))
}

trait Append {
    fn append(&self, to: &mut Vec<u8>);
}

impl Append for &str {
    fn append(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
    }
}

impl Append for i32 {
    fn append(&self, to: &mut Vec<u8>) {
        let _ = write!(to, "{self}");
    }
}

struct Address(SocketAddr);

impl Append for Address {
    fn append(&self, to: &mut Vec<u8>) {
        let SocketAddr::V4(address) = self.0 else {
            let _ = write!(to, "{}", self.0);
            return;
        };
        // The longest is 255.255.255.255:65535.
        let mut text = [0; 22];
        let mut at = 0;
        let numbers = address.ip().octets().map(u64::from).into_iter().chain([address.port().into()]);
        for (number, behind) in numbers.zip(*b"...: ") {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(number).as_bytes();
            text[at..at + digits.len()].copy_from_slice(digits);
            text[at + digits.len()] = behind;
            at += digits.len() + 1;
        }
        to.extend_from_slice(&text[..at - 1]);
    }
}

fn append_number(number: u64, to: &mut Vec<u8>) {
    to.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests;
