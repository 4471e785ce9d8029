//! Files that hold secrets, which other users must not have access to.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::process::geteuid;

use super::ConfigError;

/// Thousands of keys. What is larger is another file than was meant.
const MAX_BYTES: u64 = 1 << 20;

/// The text of the file at `path`, which holds `what` and is open to nobody but its owner.
pub(super) fn read(path: &str, what: &'static str) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::ReadSecret { what, path: Path::new(path).to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o7777;
    if !is_private(mode, metadata.uid(), geteuid().as_raw()) {
        let problem = format!(
            "can be read or changed by other users (mode {mode:04o}); run `chmod 600` on the file, and replace what \
             is in it if it was seen"
        );
        return Err(ConfigError::Secret { what, origin: path.to_owned(), problem });
    }
    text(file).map_err(unreadable)
}

/// The text of the file at `path`, which holds `what`, but no secret.
pub(super) fn read_public(path: &str, what: &'static str) -> Result<String, ConfigError> {
    File::open(path).and_then(text).map_err(|source| ConfigError::ReadSecret {
        what,
        path: Path::new(path).to_owned(),
        source,
    })
}

fn text(file: File) -> io::Result<String> {
    let mut text = String::new();
    if file.take(MAX_BYTES + 1).read_to_string(&mut text)? as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Whether nobody but `user` and the administrator of the machine has access. A file of the administrator's may be
/// readable by its group: that is how a service that runs as another user is given one.
fn is_private(mode: u32, owner: u32, user: u32) -> bool {
    let others = if owner == 0 && user != 0 { 0o037 } else { 0o077 };
    mode & others == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_that_other_users_may_read_or_change_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "secret").unwrap();
        let path = file.path().to_str().unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = read(path, "admin key").unwrap_err().to_string();
            assert!(refused.contains(path) && refused.contains("chmod 600"), "{mode:o}: {refused}");
            assert!(
                refused.contains(&format!("mode {mode:04o}")) && !refused.contains("secret"),
                "{refused}"
            );
            assert_eq!(read_public(path, "certificate").unwrap(), "secret");
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(path, "admin key").unwrap(), "secret", "{mode:o}");
        }
        fs::write(path, "x".repeat((1 << 20) + 1)).unwrap();
        assert!(read(path, "admin key").is_err());
        assert!(read_public(path, "certificate").is_err());
        let missing = read("/no/such/file", "API keys").unwrap_err().to_string();
        assert_eq!(missing, "cannot read the API keys in /no/such/file");
    }

    #[test]
    fn only_the_administrators_files_may_be_open_to_a_group() {
        let (root, user) = (0, 1000);
        for mode in [0o600, 0o400] {
            assert!(
                is_private(mode, user, user) && is_private(mode, root, user) && is_private(mode, root, root)
            );
        }
        for mode in [0o640, 0o440] {
            assert!(
                is_private(mode, root, user)
                    && !is_private(mode, user, user)
                    && !is_private(mode, root, root)
            );
        }
        for mode in [0o660, 0o644, 0o650, 0o604] {
            assert!(!is_private(mode, root, user) && !is_private(mode, user, user), "{mode:o}");
        }
    }
}
