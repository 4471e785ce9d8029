//! What is logged, and how.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing::warn;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{FormatFields, format},
    reload,
};

/// Chooses what is logged, at any time.
#[derive(Clone, Default)]
pub struct LogFilter(Option<Arc<Set>>);

type Set = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

impl LogFilter {
    /// Logs what `filter` selects from now on; it was checked with the configuration.
    pub fn set(&self, filter: &str) {
        let (Some(set), Ok(filter)) = (&self.0, EnvFilter::try_new(filter)) else { return };
        if let Err(error) = set(filter) {
            warn!(%error, "the log's filter can't be changed");
        }
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter(…)")
    }
}

/// Logs to standard error: until [`LogFilter::set`] is called as `RUST_LOG` says, or from `info` on.
pub fn init() -> LogFilter {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .fmt_fields(one_line())
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    LogFilter(Some(Arc::new(move |filter| handle.reload(filter))))
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

    use tracing::{info, info_span};

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

    #[test]
    fn an_event_is_one_line_whatever_a_client_sends() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(one_line())
            .finish();
        let evil = "a\n2026 ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}é\tz";
        tracing::subscriber::with_default(subscriber, || {
            let span = info_span!("accept", id = %evil, text = evil);
            span.in_scope(|| info!(error = %evil, debug = ?evil, number = 5, "what {evil}"));
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(is_hidden), "{line:?}");
        assert_eq!(line.matches("forged").count(), 5);
        assert!(line.contains("number=5") && line.contains("what a\\n2026"), "{line}");
        assert!(line.contains("\\u{1b}[2J") && line.contains('é'), "{line}");
    }
}
