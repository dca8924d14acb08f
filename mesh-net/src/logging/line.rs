//! A line as the log's own writer writes it, at a fraction of what that costs: for what is told of each connection and each
//! request.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
}

/// The clock's text, kept for as long as the second is: a writer's own.
#[derive(Debug, Default)]
pub struct Clock {
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

/// The [`Name`](crate::logging::line::Name) of a field, which is to need no escaping.
#[macro_export]
macro_rules! log_field {
    ($name:literal) => {
        $crate::logging::line::Name {
            text: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
            text_quoted: concat!(" ", $name, "=\""),
            json_quoted: concat!(",\"", $name, "\":\""),
        }
    };
}

/// A field's name with what stands around it, to be written with one copy: [`log_field!`](crate::log_field).
#[derive(Clone, Copy, Debug)]
pub struct Name {
    pub text: &'static str,
    pub json: &'static str,
    pub text_quoted: &'static str,
    pub json_quoted: &'static str,
}

/// A line of level INFO that has been begun.
#[derive(Debug)]
pub struct Line<'a> {
    to: &'a mut Vec<u8>,
    form: Form,
    target: &'static str,
}

// Nothing that is written here can fail: it goes to memory.
impl<'a> Line<'a> {
    /// Begins a line behind what is in `to`. Target and message are to need no escaping.
    pub fn begin(
        to: &'a mut Vec<u8>,
        form: Form,
        clock: &mut Clock,
        at: SystemTime,
        target: &'static str,
        message: &'static str,
    ) -> Self {
        match form {
            Form::Text => {
                clock.append(at, to);
                for text in ["  INFO ", target, ": ", message] {
                    to.extend_from_slice(text.as_bytes());
                }
            }
            Form::Json => {
                to.extend_from_slice(b"{\"timestamp\":\"");
                clock.append(at, to);
                for text in ["\",\"level\":\"INFO\",\"message\":\"", message, "\""] {
                    to.extend_from_slice(text.as_bytes());
                }
            }
        }
        Self { to, form, target }
    }

    /// Ends it.
    pub fn end(self) {
        match self.form {
            Form::Text => self.to.push(b'\n'),
            Form::Json => {
                for text in [",\"target\":\"", self.target, "\"}\n"] {
                    self.to.extend_from_slice(text.as_bytes());
                }
            }
        }
    }

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
    pub fn text(&mut self, name: Name, value: &str) {
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

    pub fn number(&mut self, name: Name, value: u64) {
        self.name(name);
        append_number(value, self.to);
    }

    pub fn flag(&mut self, name: Name, value: bool) {
        self.name(name);
        self.to.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// What needs no escaping, in quotes.
    pub fn quoted(&mut self, name: Name, value: impl Append) {
        self.opened(name);
        value.append(self.to);
        self.to.push(b'"');
    }

    /// What needs no escaping, in quotes where the form has no values without.
    pub fn shown(&mut self, name: Name, value: impl Append) {
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

/// What can be written without being escaped.
pub trait Append {
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

impl Append for SocketAddr {
    fn append(&self, to: &mut Vec<u8>) {
        let SocketAddr::V4(address) = self else {
            let _ = write!(to, "{self}");
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
