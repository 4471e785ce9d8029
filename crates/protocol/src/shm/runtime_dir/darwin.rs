//! macOS's own folder for a user's runtime files.
#![allow(unsafe_code)]

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// The user's folder for caches below `/var/folders`: private, like the one for temporary files beside it, but not
/// emptied of what was not used for three days.
pub(super) fn user_cache_dir() -> Option<PathBuf> {
    let mut buffer = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is valid for writes of the length that is passed with it.
    let len =
        unsafe { libc::confstr(libc::_CS_DARWIN_USER_CACHE_DIR, buffer.as_mut_ptr().cast(), buffer.len()) };
    // With the zero at the end; 0 is a failure, and more than there is room for was cut.
    if len < 2 || len > buffer.len() {
        return None;
    }
    buffer.truncate(len - 1);
    while buffer.len() > 1 && buffer.last() == Some(&b'/') {
        buffer.pop();
    }
    Some(PathBuf::from(OsString::from_vec(buffer)))
}
