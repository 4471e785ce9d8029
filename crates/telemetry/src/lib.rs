//! What the programs log and which traces they export: the same for the gateway and its workers.
//!
//! ```text
//! events and spans ─┬─► log lines on standard error, text or JSON        (always)
//!                   └─► spans of sampled requests ─► OTLP collector      (if an endpoint is set)
//! ```
//!
//! A span belongs to a request's trace if its target ends with [`REQUEST`]; the parent comes from another process with
//! [`adopt`], and goes to one with [`context_of`]. Other spans are about work for many requests, and only logs have them.

mod client;
mod context;
mod log;
mod traces;

use std::{
    env, fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing_subscriber::{Layer, layer::SubscriberExt, reload, util::SubscriberInitExt};

use self::traces::Exporter;
pub use self::{
    context::{adopt, context_of},
    log::{FilterError, LogFilter},
    traces::{REQUEST, TracesError},
};

/// What a program logs and exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which events are logged, in the form of `RUST_LOG`.
    pub filter: String,
    /// How log lines are written.
    pub format: LogFormat,
    /// One line for each request that was answered, unless `filter` says something else of it.
    pub access_log: bool,
    /// Where traces go; `None`: nowhere.
    pub traces: Option<Traces>,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// Base address of an OTLP collector, such as `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// Of a hundred requests that bring no trace, how many start one. Whether one that brings a trace is recorded was
    /// decided by whoever started the trace.
    pub sample_percent: u8,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Exports what is left when it is dropped. To be kept for as long as the program runs.
#[derive(Debug, Default)]
pub struct Guard {
    exporter: Option<Exporter>,
    filter: LogFilter,
}

/// Set once.
static EXPORTS: AtomicBool = AtomicBool::new(false);

/// Target of the access log's lines.
pub const ACCESS: &str = "access";

/// Environment variables by which a gateway tells its workers what it was told itself.
const FORMAT_VARIABLE: &str = "KR_LOG_FORMAT";
const ENDPOINT_VARIABLE: &str = "KR_OTLP_ENDPOINT";

/// Environment variable that selects what is logged.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// What is logged where nobody says it.
const FILTER: &str = "info";

impl Default for Settings {
    fn default() -> Self {
        Self { filter: FILTER.into(), format: LogFormat::default(), access_log: false, traces: None }
    }
}

impl Settings {
    /// Those of a worker: its gateway has put them into its environment.
    pub fn of_worker() -> Self {
        Self::of_variables(|name| env::var(name).ok())
    }

    fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let format = variable(FORMAT_VARIABLE).and_then(|name| name.parse().ok()).unwrap_or_default();
        // A worker starts no traces.
        let traces = variable(ENDPOINT_VARIABLE).map(|endpoint| Traces { endpoint, sample_percent: 0 });
        Self { filter: filter_of(variable), format, access_log: false, traces }
    }

    /// Environment variables that tell a worker the same.
    pub fn for_worker(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let endpoint = self.traces.as_ref().map(|traces| (ENDPOINT_VARIABLE, traces.endpoint.as_str()));
        [(FORMAT_VARIABLE, self.format.name())].into_iter().chain(endpoint)
    }
}

impl LogFormat {
    /// The names of all formats.
    pub const NAMES: [&str; 2] = ["text", "json"];

    /// Its name in settings and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => Self::NAMES[0],
            Self::Json => Self::NAMES[1],
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        [Self::Text, Self::Json].into_iter().find(|format| format.name() == name).ok_or(UnknownFormat)
    }
}

/// Not the name of a [`LogFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the format of logs is `text` or `json`")]
pub struct UnknownFormat;

/// `RUST_LOG`, if it can be used.
fn filter_of(variable: impl Fn(&str) -> Option<String>) -> String {
    let said = variable(FILTER_VARIABLE).filter(|it| !it.trim().is_empty() && LogFilter::check(it).is_ok());
    said.unwrap_or_else(|| FILTER.into())
}

/// Logs to standard error, as `settings` say, and exports traces if `settings` say where to. `service` is
/// the program's name in traces.
///
/// # Errors
/// Traces can't be exported. Then nothing has been set up.
pub fn init(service: &'static str, settings: &Settings) -> Result<Guard, TracesError> {
    let exporter = settings.traces.as_ref().map(|traces| Exporter::start(service, traces)).transpose()?;
    let (format, stderr) = (settings.format, std::io::stderr);
    let selected = log::select(&settings.filter, settings.access_log);
    let filter = match &exporter {
        // A filter for all that there is costs least.
        None => {
            let (filter, handle) = reload::Layer::new(selected);
            tracing_subscriber::registry().with(filter).with(log::layer(format, stderr)).init();
            LogFilter::new(handle)
        }
        Some(exporter) => {
            let (filter, handle) = reload::Layer::new(selected);
            let lines = log::layer(format, stderr).with_filter(filter);
            tracing_subscriber::registry().with(exporter.layer()).with(lines).init();
            EXPORTS.store(true, Ordering::Relaxed);
            LogFilter::new(handle)
        }
    };
    Ok(Guard { exporter, filter })
}

/// Whether [`init`] began to export traces. To be asked instead of whether a span is enabled: with a filter for each layer,
/// that question is answered for all layers at once, and the answer can make one of them miss the next span.
pub fn exports_traces() -> bool {
    EXPORTS.load(Ordering::Relaxed)
}

/// Logs what `read` has to say, while the settings are still being read.
pub fn while_starting<T>(format: LogFormat, read: impl FnOnce() -> T) -> T {
    let filter = log::select(&filter_of(|name| env::var(name).ok()), false);
    let early = tracing_subscriber::registry().with(filter).with(log::layer(format, std::io::stderr));
    tracing::subscriber::with_default(early, read)
}

impl Guard {
    /// Chooses what is logged from now on.
    pub fn log_filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(exporter) = &self.exporter {
            exporter.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_worker_is_told_what_its_gateway_was_told() {
        let endpoint = "http://127.0.0.1:4318".to_owned();
        let traces = Some(Traces { endpoint, sample_percent: 50 });
        let of_gateway =
            Settings { filter: "debug".into(), format: LogFormat::Json, access_log: true, traces };
        let passed: Vec<_> = of_gateway.for_worker().collect();
        let read =
            |name: &str| passed.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
        let of_worker = Settings::of_variables(read);
        assert_eq!(of_worker.format, LogFormat::Json);
        assert_eq!(
            of_worker.traces.unwrap(),
            Traces { sample_percent: 0, ..of_gateway.traces.clone().unwrap() }
        );
        let plain = Settings::default();
        assert_eq!(plain.for_worker().collect::<Vec<_>>(), [("KR_LOG_FORMAT", "text")]);
        assert_eq!(Settings::of_variables(|_| None), plain);
        assert_eq!(Settings::of_variables(|_| Some("xml".into())).format, LogFormat::Text);
        assert_eq!(Settings::of_variables(|_| Some("debug".into())).filter, "debug");
        assert_eq!(Settings::of_variables(|_| Some("a=b=c".into())).filter, "info");
    }

    #[test]
    fn formats_have_the_names_that_they_are_read_by() {
        for name in LogFormat::NAMES {
            assert_eq!(name.parse::<LogFormat>().unwrap().to_string(), name);
        }
        assert_eq!("xml".parse::<LogFormat>(), Err(UnknownFormat));
    }
}
