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

/// Appends the line of what `record` tells, which ended `at`.
pub(super) fn append(record: &Record, form: Form, clock: &mut Clock, at: SystemTime, to: &mut Vec<u8>) {
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
    line.text("method", record.texts.get(Word::Method));
    line.text("path", record.texts.get(Word::Path));
    line.text("protocol", record.protocol);
    line.text("authority", record.texts.get(Word::Authority));
    line.number("response_code", record.status.into());
    line.text("response_flags", record.flags);
    line.text("response_code_details", &record.details);
    if let Some(status) = record.grpc_status {
        line.quoted("grpc_status", status.0);
    }
    line.text("upstream_transport_failure_reason", &record.failure);
    line.number("bytes_received", record.received);
    line.number("bytes_sent", record.sent);
    line.number("duration", duration);
    line.number("attempts", record.attempts.into());
    line.text("x_forwarded_for", record.texts.get(Word::ForwardedFor));
    line.text("user_agent", record.texts.get(Word::UserAgent));
    line.text("request_id", record.texts.get(Word::RequestId));
    if let Some(upstream) = record.upstream {
        line.quoted("upstream_host", Address(upstream));
    }
    line.text("upstream_cluster", record.service.as_ref().map_or("", |service| &service.key.hostname));
    line.text("upstream_workload", record.destination.as_ref().map_or("", |workload| &workload.name));
    line.shown("downstream_local_address", Address(record.asked));
    line.shown("downstream_remote_address", Address(record.client.address));
    line.shown("downstream_identity", record.client.identity.uri());
    line.text("downstream_workload", record.client.workload.as_ref().map_or("", |workload| &workload.name));
    line.text("route_name", record.route.as_deref().unwrap_or_default());
    match form {
        Form::Text => to.push(b'\n'),
        Form::Json => {
            to.extend_from_slice(b",\"target\":\"");
            to.extend_from_slice(ACCESS.as_bytes());
            to.extend_from_slice(b"\"}\n");
        }
    }
}

struct Line<'a> {
    to: &'a mut Vec<u8>,
    form: Form,
}

// Nothing that is written here can fail: it goes to memory.
impl Line<'_> {
    fn name(&mut self, name: &str) {
        match self.form {
            Form::Text => {
                self.to.push(b' ');
                self.to.extend_from_slice(name.as_bytes());
                self.to.push(b'=');
            }
            Form::Json => {
                self.to.extend_from_slice(b",\"");
                self.to.extend_from_slice(name.as_bytes());
                self.to.extend_from_slice(b"\":");
            }
        }
    }

    /// What is empty is left out.
    fn text(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.name(name);
        if is_plain(value.as_bytes()) {
            self.to.push(b'"');
            self.to.extend_from_slice(value.as_bytes());
            self.to.push(b'"');
            return;
        }
        match self.form {
            Form::Text => drop(write!(self.to, "{value:?}")),
            Form::Json => drop(serde_json::to_writer(&mut *self.to, value)),
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        append_number(value, self.to);
    }

    /// What needs no escaping, in quotes.
    fn quoted(&mut self, name: &str, value: impl Append) {
        self.name(name);
        self.to.push(b'"');
        value.append(self.to);
        self.to.push(b'"');
    }

    /// What needs no escaping, in quotes where the form has no values without.
    fn shown(&mut self, name: &str, value: impl Append) {
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
        for (at, octet) in address.ip().octets().into_iter().enumerate() {
            if at > 0 {
                to.push(b'.');
            }
            append_number(octet.into(), to);
        }
        to.push(b':');
        append_number(address.port().into(), to);
    }
}

fn append_number(number: u64, to: &mut Vec<u8>) {
    to.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests;
