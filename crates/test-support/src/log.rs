//! What is logged, for tests that read it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Takes log lines as a subscriber's writer, and gives them back. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl LogBuffer {
    /// All lines so far.
    ///
    /// # Panics
    /// They are not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes().clone()).unwrap()
    }

    /// Forgets the lines so far.
    pub fn clear(&self) {
        self.bytes().clear();
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
