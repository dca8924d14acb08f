//! The log: text or JSON on standard output, its filter changeable while the agent runs.

pub mod line;
mod lines;
mod pages;

use line::Form;
pub use lines::Lines;
use pages::{Last, Pages};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Changes the filter of the running process.
#[derive(Clone, Debug)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Shows the filter, or sets it first.
    ///
    /// # Errors
    /// The text is no filter.
    pub fn set(&self, filter: Option<&str>) -> Result<String, String> {
        if let Some(text) = filter {
            let filter: EnvFilter = text.parse().map_err(|error| format!("log filter {text:?}: {error}"))?;
            self.0.reload(filter).map_err(|error| error.to_string())?;
        }
        self.0.with_current(ToString::to_string).map_err(|error| error.to_string())
    }
}

/// What keeps the log going: dropped at the end of the process, after the last line.
#[derive(Debug)]
pub struct Log {
    pub level: Level,
    pub dropped: Dropped,
    pub lines: Lines,
    _last: Last,
}

/// Lines lost because whoever reads the log did not keep up.
#[derive(Clone, Debug)]
pub struct Dropped(Pages);

impl Collector for Dropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let lost = ConstCounter::new(self.0.dropped());
        let metric = encoder.encode_descriptor(
            "weft_log_lines_dropped",
            "Log lines lost because their reader did not keep up",
            None,
            lost.metric_type(),
        )?;
        lost.encode(metric)
    }
}

/// Starts logging; to be called once. A filter that cannot be read becomes `info`.
///
/// A thread of its own writes the lines, so that a reader that stalls never stalls a connection; lines that find no room are
/// lost and counted.
///
/// # Panics
/// When the process may have no thread.
pub fn start(filter: &str, json: bool) -> Log {
    let filter = filter.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let (pages, last) = Pages::start(std::io::stdout()).expect("a process that starts may have a thread");
    let dropped = Dropped(pages.clone());
    let lines = Lines::new(pages.clone(), if json { Form::Json } else { Form::Text });
    let writer = move || pages.clone();
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer)).init();
    } else {
        registry.with(fmt::layer().with_ansi(false).with_writer(writer)).init();
    }
    Log { level: Level(handle), dropped, lines, _last: last }
}
