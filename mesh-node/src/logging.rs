//! The log: text or JSON on standard output, its filter changeable while the agent runs.

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

/// Starts logging; to be called once. A filter that cannot be read becomes `info`.
pub fn start(filter: &str, json: bool) -> Level {
    let filter = filter.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(fmt::layer().json().flatten_event(true).with_current_span(false)).init();
    } else {
        registry.with(fmt::layer().with_ansi(false)).init();
    }
    Level(handle)
}
