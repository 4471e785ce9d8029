//! Log lines: text for people, or JSON.

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal},
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    field::MakeExt,
    fmt::{FormatFields, MakeWriter, format},
    registry::LookupSpan,
};

use crate::LogFormat;

/// Which events are logged where `RUST_LOG` does not say it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogFilter {
    pub(crate) access_log: bool,
}

impl LogFilter {
    pub(crate) fn build(self) -> EnvFilter {
        let own = if self.access_log { "info" } else { "info,access=off" };
        match env::var(EnvFilter::DEFAULT_ENV) {
            Ok(said) if !said.trim().is_empty() => EnvFilter::new(said),
            _ => EnvFilter::new(own),
        }
    }
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

    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::{field::Empty, info, info_span};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of an event in which a client has written `evil` wherever it can.
    fn logged(format: LogFormat, evil: &str) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::registry().with(layer(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = info_span!("accept", request_id = %evil, text = evil, later = Empty);
            span.record("later", evil);
            span.in_scope(|| info!(error = %evil, debug = ?evil, number = 5, "what {evil}"));
        });
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
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
}
