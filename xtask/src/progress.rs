//! What long work shows: a live line on a terminal, plain lines elsewhere.

use std::{borrow::Cow, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// A running step of unknown length.
pub(crate) struct Step {
    bar: ProgressBar,
}

/// Starts a step and says so.
pub(crate) fn spinner(message: impl Into<Cow<'static, str>>) -> Step {
    let message = message.into();
    let bar = ProgressBar::new_spinner();
    announce(&bar, &message);
    bar.set_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    Step { bar }
}

/// Starts a step of `length` parts and says so.
pub(crate) fn counted(message: impl Into<Cow<'static, str>>, length: usize) -> Step {
    let message = message.into();
    let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(length as u64);
    announce(&bar, &message);
    bar.set_message(message);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    Step { bar }
}

impl Step {
    /// One more part is done.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    /// The step is done.
    pub(crate) fn finish(self) {
        self.bar.finish();
    }
}

/// A bar draws nothing where there is no terminal, so the message is printed once.
fn announce(bar: &ProgressBar, message: &str) {
    if bar.is_hidden() {
        eprintln!("set-up: {message}");
    }
}
