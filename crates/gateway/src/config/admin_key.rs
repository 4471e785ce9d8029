//! The key that authorizes loading and unloading models.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use constant_time_eq::constant_time_eq;

use super::ConfigError;

/// A secret: never shown, and compared in constant time.
#[derive(Clone)]
pub struct AdminKey(String);

/// A shorter key could be guessed.
const MIN_LEN: usize = 16;

/// A longer key would not fit into a header.
const MAX_FILE: u64 = 8 << 10;

impl AdminKey {
    /// A key as it was written; white space around it is not part of it. `origin` is for messages.
    pub fn new(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let key = text.trim();
        let wrong = |problem: &str| ConfigError::AdminKey { origin: origin.into(), problem: problem.into() };
        if key.len() < MIN_LEN {
            return Err(wrong(&format!("has {} characters; at least {MIN_LEN} are needed", key.len())));
        }
        // It has to fit into a header.
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("has characters other than letters, digits and signs of ASCII"));
        }
        Ok(Self(key.into()))
    }

    /// The key in a file, which only its owner may have access to.
    pub fn read(path: &str) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::ReadAdminKey { path: Path::new(path).to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let problem = format!(
                "is open to other users (mode {mode:04o}); run `chmod 600` on it, and replace the key if it was seen"
            );
            return Err(ConfigError::AdminKey { origin: path.into(), problem });
        }
        let mut text = String::new();
        let read = file.by_ref().take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
        if read as u64 > MAX_FILE {
            return Err(unreadable(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is too large to hold a key",
            )));
        }
        Self::new(&text, path)
    }

    /// Whether `presented` is the key. The time that this takes tells only whether the lengths are equal.
    pub fn is(&self, presented: &[u8]) -> bool {
        constant_time_eq(self.0.as_bytes(), presented)
    }
}

impl PartialEq for AdminKey {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0.as_bytes())
    }
}

impl Eq for AdminKey {}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn the_key_is_the_text_without_white_space_around_it_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let key = AdminKey::read(file.path().to_str().unwrap()).unwrap();
        assert!(key.is(KEY.as_bytes()));
        for wrong in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef "] {
            assert!(!key.is(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!format!("{key:?}").contains(KEY));
    }

    #[test]
    fn a_file_that_other_users_may_read_or_change_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), KEY).unwrap();
        let path = file.path().to_str().unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = AdminKey::read(path).unwrap_err().to_string();
            assert!(refused.contains(path) && refused.contains("chmod 600"), "{mode:o}: {refused}");
            assert!(refused.contains(&format!("mode {mode:04o}")) && !refused.contains(KEY), "{refused}");
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(AdminKey::read(path).unwrap().is(KEY.as_bytes()), "{mode:o}");
        }
        fs::write(path, KEY.repeat(1000)).unwrap();
        assert!(AdminKey::read(path).is_err());
    }

    #[test]
    fn a_key_that_is_missing_short_or_does_not_fit_a_header_is_refused() {
        let refused = |key: &str| AdminKey::new(key, "KR_ADMIN_KEY").unwrap_err().to_string();
        assert!(
            refused("short").contains("KR_ADMIN_KEY has 5 characters; at least 16"),
            "{}",
            refused("short")
        );
        assert!(refused("0123456789 abcdef").contains("ASCII"));
        assert!(refused("0123456789abcdef\u{e9}").contains("ASCII"));
        assert!(AdminKey::read("/no/such/file").unwrap_err().to_string().contains("/no/such/file"));
    }
}
