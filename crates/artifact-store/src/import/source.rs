//! Reading what others wrote: regular files only, with bounds.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    path::Path,
};

use crate::{StoreError, error::IoContext};

/// Follows symbolic links, which the Hugging Face cache is made of.
pub(super) fn metadata(path: &Path) -> Result<Metadata, StoreError> {
    fs::metadata(path).context("read", path)
}

/// Opens a regular file; returns it with its size. Anything else (a pipe, a
/// device) could block for ever or never end.
pub(super) fn open(path: &Path) -> Result<(File, u64), StoreError> {
    // Asked before opening too, since opening a pipe already blocks.
    let regular = |metadata: &Metadata| metadata.is_file();
    if regular(&metadata(path)?) {
        let file = File::open(path).context("open", path)?;
        let opened = file.metadata().context("inspect", path)?;
        if regular(&opened) {
            return Ok((file, opened.len()));
        }
    }
    Err(StoreError::bad_source(path, "it is not a regular file"))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    let (file, size) = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::bad_source(path, format!("it has {size} bytes, more than {limit}")));
    }
    Ok(bytes)
}
