//! Pins: artifacts that the user wants kept.
//!
//! A pin is an empty file `pins/<digest>`, made under the artifact's lease:
//! whoever removes artifacts holds that alone, and looks for pins only then.

use crate::{Digest, Store, StoreError, files::exists};

impl Store {
    /// Keeps an artifact from every removal but a forced one; `false` if it
    /// was pinned already.
    pub fn pin(&self, name_or_digest: &str) -> Result<bool, StoreError> {
        self.check_writable()?;
        let digest = self.locate(name_or_digest)?;
        let _lease = self.lease(digest)?;
        // It may have been removed while we waited for the lease.
        self.locate(&digest.to_string())?;
        self.create_empty(&self.layout.pin(digest))
    }

    /// Takes the pin off an artifact; `false` if there was none.
    pub fn unpin(&self, name_or_digest: &str) -> Result<bool, StoreError> {
        self.check_writable()?;
        let digest = self.locate(name_or_digest)?;
        let pin = self.layout.pin(digest);
        if exists(&pin) { self.remove_file(&pin) } else { Ok(false) }
    }

    pub(crate) fn is_pinned(&self, digest: Digest) -> bool {
        exists(&self.layout.pin(digest))
    }
}
