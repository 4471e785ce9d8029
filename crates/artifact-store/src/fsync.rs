//! Getting bytes onto a disk, on all file systems.
//!
//! On macOS the standard library's sync is `F_FULLFSYNC`, which also empties the drive's cache. That is slow, and some
//! network file systems (SMB) refuse it; plain `fsync` is all that can be had there.

use std::{fs::File, io};

use rustix::io::Errno;

/// Hands the bytes of a file to the disk, so that it works while more are written. They may stay in its cache.
pub(crate) fn start_writing(file: &File) -> io::Result<()> {
    // Linux: without the times of the file.
    if cfg!(target_os = "macos") { Ok(rustix::fs::fsync(file)?) } else { file.sync_data() }
}

/// Makes the content of a file permanent.
pub(crate) fn sync_to_disk(file: &File) -> io::Result<()> {
    strongest([&|| file.sync_all(), &|| Ok(rustix::fs::fsync(file)?)])
}

/// Makes the names in a folder permanent, where the file system has a way for that.
pub(crate) fn sync_folder(folder: &File) -> io::Result<()> {
    strongest([&|| folder.sync_all(), &|| match rustix::fs::fsync(folder) {
        Err(errno) if is_unsupported(errno) => Ok(()),
        other => Ok(other?),
    }])
}

/// The second way, only where the file system does not offer the first.
fn strongest([first, second]: [&dyn Fn() -> io::Result<()>; 2]) -> io::Result<()> {
    match first() {
        Err(error) if Errno::from_io_error(&error).is_some_and(is_unsupported) => second(),
        other => other,
    }
}

fn is_unsupported(errno: Errno) -> bool {
    [Errno::NOTSUP, Errno::OPNOTSUPP, Errno::INVAL, Errno::NOTTY, Errno::NOSYS].contains(&errno)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_what_is_not_supported_is_done_in_another_way() {
        let tried = |first: Errno| {
            let second = Cell::new(false);
            let result = strongest([&|| Err(first.into()), &|| {
                second.set(true);
                Ok(())
            }]);
            (result.is_ok(), second.get())
        };
        assert_eq!(tried(Errno::NOTSUP), (true, true));
        assert_eq!(tried(Errno::INVAL), (true, true));
        for lost in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
            assert_eq!(tried(lost), (false, false), "{lost}");
        }
    }

    #[test]
    fn files_and_folders_are_synced() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        start_writing(&file).unwrap();
        sync_to_disk(&file).unwrap();
        sync_folder(&File::open(folder.path()).unwrap()).unwrap();
    }
}
