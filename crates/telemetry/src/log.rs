//! Log lines: text for people, or JSON.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing::{Subscriber, warn};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::MakeExt,
    filter::ParseError,
    fmt::{FormatFields, MakeWriter, format},
    registry::LookupSpan,
    reload::{self, Handle},
};

use crate::{ACCESS, LogFormat};

/// Chooses which events are logged, at any time. Cheap to clone; all clones are one. The default is nobody's: it changes
/// nothing.
#[derive(Clone, Default)]
pub struct LogFilter(Option<Arc<Set>>);

type Set = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// Not a filter.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FilterError(#[from] ParseError);

impl LogFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// It can't be used.
    pub fn check(filter: &str) -> Result<(), FilterError> {
        EnvFilter::builder().parse(filter)?;
        Ok(())
    }

    /// Logs from now on what `filter`, which was [checked](LogFilter::check), and `access_log` select. `access=…` in the
    /// filter beats `access_log`.
    pub fn set(&self, filter: &str, access_log: bool) {
        let Some(set) = &self.0 else { return };
        if let Err(error) = set(select(filter, access_log)) {
            warn!(%error, "the log's filter can't be changed");
        }
    }

    /// Of the filter behind `handle`.
    pub(crate) fn new<S: 'static>(handle: Handle<EnvFilter, S>) -> Self {
        Self(Some(Arc::new(move |filter| handle.reload(filter))))
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter(…)")
    }
}

/// What [`LogFilter::set`] selects.
pub(crate) fn select(filter: &str, access_log: bool) -> EnvFilter {
    // Of two directives for one target, the later one counts.
    let access = if access_log { "info" } else { "off" };
    EnvFilter::new(format!("{ACCESS}={access},{filter}"))
}

/// Writes log lines to `writer`. An event is one line in either format.
pub(crate) fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).fmt_fields(one_line()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

/// Writes fields so that an event stays one line, whatever is in them. A client's text must not be able to look like
/// an event, or to control a terminal.
fn one_line() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(|writer, field, value| {
        if field.name() != "message" {
            write!(writer, "{}=", field.name())?;
        }
        write!(Escaping(writer), "{value:?}")
    })
    .delimited(" ")
}

/// Passes text on, with escapes in the place of characters that are not seen.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Controls, other ends of lines, and marks that change the order in which a line is shown.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;
    use test_support::LogBuffer;
    use tracing::{Dispatch, debug, field::Empty, info, info_span};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is logged of an event in which a client has written `evil` wherever it can.
    fn logged(format: LogFormat, evil: &str) -> String {
        let log = LogBuffer::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::registry().with(layer(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = info_span!("accept", request_id = %evil, text = evil, later = Empty);
            span.record("later", evil);
            span.in_scope(|| info!(error = %evil, debug = ?evil, number = 5, "what {evil}"));
        });
        log.text()
    }

    const EVIL: &str = "a\n2026 ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}é\tz";

    #[test]
    fn a_line_of_text_is_one_line_whatever_a_client_sends() {
        let text = logged(LogFormat::Text, EVIL);
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(is_hidden), "{line:?}");
        assert_eq!(line.matches("forged").count(), 6);
        assert!(line.contains("number=5") && line.contains("what a\\n2026"), "{line}");
        assert!(line.contains("\\u{1b}[2J") && line.contains('é'), "{line}");
    }

    #[test]
    fn a_line_of_json_is_one_object_with_its_spans() {
        let text = logged(LogFormat::Json, EVIL);
        assert_eq!(text.lines().count(), 1, "{text:?}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], format!("what {EVIL}"));
        assert_eq!((&line["level"], &line["number"]), (&"INFO".into(), &5.into()));
        let span = &line["spans"][0];
        assert_eq!((&span["name"], &span["request_id"]), (&"accept".into(), &EVIL.into()));
        assert_eq!(span["later"], EVIL);
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z') && line["target"].is_string());
    }

    #[test]
    fn what_is_logged_can_change_whether_spans_are_exported_or_not() {
        for of_layer in [false, true] {
            let log = LogBuffer::default();
            let writer = log.clone();
            let writer = move || writer.clone();
            let registry = tracing_subscriber::registry();
            let (dispatch, filter) = if of_layer {
                let (filter, handle) = reload::Layer::new(select("info", false));
                let lines = layer(LogFormat::Json, writer).with_filter(filter);
                (Dispatch::new(registry.with(lines)), LogFilter::new(handle))
            } else {
                let (filter, handle) = reload::Layer::new(select("info", false));
                let lines = layer(LogFormat::Json, writer);
                (Dispatch::new(registry.with(filter).with(lines)), LogFilter::new(handle))
            };
            let count = || {
                log.clear();
                tracing::dispatcher::with_default(&dispatch, || {
                    debug!("detail");
                    info!("event");
                    info!(target: ACCESS, "answered");
                });
                let text = log.text();
                ["detail", "event", "answered"].map(|it| text.contains(it))
            };
            assert_eq!(count(), [false, true, false]);
            for (filter_text, access_log, expected) in [
                ("debug", false, [true, true, false]),
                ("warn", true, [false, false, true]),
                ("info,access=off", true, [false, true, false]),
                ("info,access=info", false, [false, true, true]),
                ("off", false, [false; 3]),
            ] {
                // What is known about events is asked of the thread's subscriber again.
                tracing::dispatcher::with_default(&dispatch, || filter.set(filter_text, access_log));
                assert_eq!(count(), expected, "{filter_text} {access_log}");
            }
        }
        LogFilter::default().set("info", false);
        assert!(LogFilter::check("info,a=debug").is_ok() && LogFilter::check("a=b=c").is_err());
    }
}
