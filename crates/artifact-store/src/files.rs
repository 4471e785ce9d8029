//! Reading files and folders of a store.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{StoreError, error::IoContext};

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Opens a file of the store. All of them are regular files: a symbolic link
/// could lead anywhere, and opening a pipe could block for ever.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path)?.is_file() {
        return File::open(path);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"))
}

/// Reads a file of the store whole.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open_regular(path)?, &mut bytes)?;
    Ok(bytes)
}

/// Whether something, even a broken link, has this path.
pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Names of the entries of a folder, where they are text; none if there is no
/// such folder.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", folder)?,
    };
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name().into_string().ok())).collect();
    Ok(names.context("list", folder)?.into_iter().flatten().collect())
}

/// The entries of a folder, as paths.
pub(crate) fn paths_in(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(folder).context("list", folder)?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.context("list", folder)
}
