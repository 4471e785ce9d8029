//! Progress bars of long work, on stderr, drawn only on a terminal.

use std::ops::ControlFlow;

use artifact_store::{ImportEvent, VerifyEvent, printable};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::say;

const TEMPLATE: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

pub(crate) struct ImportProgress {
    bar: ProgressBar,
}

impl ImportProgress {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { bar: bar()? })
    }

    /// Never cancels: an interrupted process leaves the store as it was.
    pub(crate) fn observe(&mut self, event: ImportEvent) -> ControlFlow<()> {
        match event {
            ImportEvent::WaitingForWriter => return say_waiting(event),
            ImportEvent::Planned(bytes) => self.bar.set_length(bytes),
            ImportEvent::Advanced(bytes) => self.bar.inc(bytes),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// For work without a bar of its own.
pub(crate) fn say_waiting(event: ImportEvent) -> ControlFlow<()> {
    if event == ImportEvent::WaitingForWriter {
        say("waiting for another process that writes to the store");
    }
    ControlFlow::Continue(())
}

/// Of a verification; several threads advance it.
pub(crate) struct VerifyProgress {
    bar: ProgressBar,
}

impl VerifyProgress {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { bar: bar()? })
    }

    pub(crate) fn observe(&self, event: VerifyEvent) -> ControlFlow<()> {
        match event {
            VerifyEvent::Planned(bytes) => self.bar.set_length(bytes),
            VerifyEvent::Advanced(bytes) => self.bar.inc(bytes),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Of a download of several files.
pub(crate) struct PullProgress {
    bar: ProgressBar,
}

impl PullProgress {
    /// `bytes`: of all files together.
    pub(crate) fn new(bytes: u64) -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template(&format!("{TEMPLATE} {{msg}}"))?;
        Ok(Self { bar: ProgressBar::new(bytes).with_style(style) })
    }

    pub(crate) fn begin(&self, file: &str) {
        self.bar.set_message(printable(file).into_owned());
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn bar() -> anyhow::Result<ProgressBar> {
    Ok(ProgressBar::no_length().with_style(ProgressStyle::with_template(TEMPLATE)?))
}
