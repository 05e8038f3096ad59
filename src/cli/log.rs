//! The log of the process: to stderr, with a filter that an admin port may change.
//!
//! Changing it holds a lock for a moment, at which a core that logs may have to wait. What the filter leaves out costs
//! no lock: the answer is kept at the place in the code that asks.

use coracle::admin::LogFilter;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The filter of the log, to be changed.
pub struct Filter(Handle<EnvFilter, Registry>);

/// Begins to log. Once in a process.
pub fn start(filter: EnvFilter) -> Filter {
    let (filter, handle) = reload::Layer::new(filter);
    // To stderr with microseconds: stdout is for what the user asked for.
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(UtcTime::rfc_3339())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry().with(filter).with(lines).init();
    Filter(handle)
}

impl LogFilter for Filter {
    fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| format!("'{filter}': {error}"))?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}
