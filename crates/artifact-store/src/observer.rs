//! What a long operation tells while it runs, and how to stop it.

use std::ops::ControlFlow;

use crate::StoreError;

/// What an import, or another command that writes, is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportEvent {
    /// Another process is writing to the store; waiting for it.
    WaitingForWriter,
    /// This many bytes are going to be read or written.
    Planned(u64),
    /// So many more of them are done.
    Advanced(u64),
}

/// Watches long work. [`ControlFlow::Break`] cancels it.
pub type Observer<'a> = dyn FnMut(ImportEvent) -> ControlFlow<()> + 'a;

/// Tells the observer, and turns its break into an error.
pub(crate) fn tell(observer: &mut Observer<'_>, event: ImportEvent) -> Result<(), StoreError> {
    match observer(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Cancelled),
    }
}
