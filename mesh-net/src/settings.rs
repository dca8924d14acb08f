//! How programs read what an operator sets: as text, every value checked, and all mistakes reported at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::pool::Transport;

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} {} wrong:", if count == 1 { "setting is" } else { "settings are" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// Collects mistakes. What is returned for a wrong value only lets the others be read: who asks has to
/// look whether all [passed](Check::is_passed).
#[derive(Debug, Default)]
pub struct Check {
    wrong: Vec<String>,
}

impl Check {
    /// Another mistake, in full.
    pub fn mistake(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    /// A value that has to be there and not empty.
    pub fn required(&mut self, value: Option<&str>, flag: &str, env: &str, what: &str) -> String {
        let value = value.filter(|value| !value.is_empty());
        if value.is_none() {
            self.mistake(format!("--{flag} ({env}) is missing: {what}"));
        }
        value.unwrap_or_default().to_owned()
    }

    /// One of two words.
    pub fn either<T>(&mut self, flag: &str, text: &str, [one, other]: [(&str, T); 2]) -> T {
        if text == one.0 {
            return one.1;
        }
        if text != other.0 {
            self.mistake(format!("--{flag} {text:?} is neither {} nor {}", one.0, other.0));
        }
        other.1
    }

    /// `host:port`, also behind `https://`. An empty text is missing, which is another mistake.
    pub fn host_and_port(&mut self, flag: &str, address: &str) {
        let bare = address.strip_prefix("https://").unwrap_or(address);
        let port = bare.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty()).then(|| port.trim_end_matches('/').parse::<u16>().ok()).flatten()
        });
        if !address.is_empty() && port.is_none() {
            self.mistake(format!("--{flag} {address:?} is not host:port"));
        }
    }

    /// An address to listen at.
    pub fn ip_and_port(&mut self, flag: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            self.mistake(format!("--{flag} {text:?} is not ip:port"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    /// A file that is there.
    pub fn file(&mut self, flag: &str, file: &str) {
        if !Path::new(file).is_file() {
            self.mistake(format!("--{flag} {file:?} is no file"));
        }
    }

    /// A number within `least..=most`.
    pub fn number(&mut self, flag: &str, text: &str, least: u64, most: u64) -> u64 {
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.mistake(format!("--{flag} {text:?} is not a number from {least} to {most}"));
                most
            }
        }
    }

    /// Whole seconds, `least` or more.
    pub fn seconds(&mut self, flag: &str, text: &str, least: u64) -> Duration {
        match text.parse() {
            Ok(seconds) if seconds >= least => Duration::from_secs(seconds),
            _ => {
                self.mistake(format!("--{flag} {text:?} is not a number of seconds from {least} on"));
                Duration::from_secs(least)
            }
        }
    }

    /// `--workers`: threads, 1 to 256; without it as many as cores, `most` at most.
    pub fn workers(&mut self, text: Option<&str>, most: usize) -> usize {
        match text {
            None => std::thread::available_parallelism().map_or(1, usize::from).min(most),
            Some(text) => usize::try_from(self.number("workers", text, 1, 256)).unwrap_or(1),
        }
    }

    /// `--transport`.
    pub fn transport(&mut self, text: &str) -> Transport {
        self.either("transport", text, [("auto", Transport::Any), ("hbone", Transport::Hbone)])
    }

    /// `--log-format`: whether it is JSON.
    pub fn log_format(&mut self, text: &str) -> bool {
        self.either("log-format", text, [("text", false), ("json", true)])
    }

    /// `--log-level`.
    pub fn log_level(&mut self, text: &str) {
        if let Err(error) = text.parse::<EnvFilter>() {
            self.mistake(format!("--log-level {text:?}: {error}"));
        }
    }

    /// Whether there was no mistake.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.wrong.is_empty()
    }

    /// All mistakes, in the order in which they were found.
    #[must_use]
    pub fn mistakes(self) -> Mistakes {
        Mistakes(self.wrong)
    }
}

/// The parts of a list that is separated by commas, without spaces around them.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}
