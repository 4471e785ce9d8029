//! What the environment adds to the file: what must not stand in a command line, where every user could read it.

use std::{env, ffi::OsString};

use super::{
    ConfigError,
    keys::{KeyKind, Keys},
};

/// Keys of those who may use the server, as `name:key,name:key`.
const API_KEYS: &str = "KR_API_KEYS";
/// One such key.
const API_KEY: &str = "KR_API_KEY";
/// The admin key.
const ADMIN_KEY: &str = "KR_ADMIN_KEY";
/// Which events are logged.
const LOG: &str = "RUST_LOG";

/// What is set in the environment. It beats the file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `KR_API_KEYS`.
    pub api_keys: Option<String>,
    /// `KR_API_KEY`.
    pub api_key: Option<String>,
    /// `KR_ADMIN_KEY`.
    pub admin_key: Option<String>,
    /// `RUST_LOG`.
    pub log: Option<String>,
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Self {
        // A key that is not UTF-8 is refused for its characters.
        let text = |name: &str| env::var_os(name).map(|it: OsString| it.to_string_lossy().into_owned());
        let log = text(LOG).filter(|it| !it.trim().is_empty());
        Self { api_keys: text(API_KEYS), api_key: text(API_KEY), admin_key: text(ADMIN_KEY), log }
    }

    /// API keys; `None`: the file's count.
    pub(super) fn api_keys(&self) -> Result<Option<Keys>, ConfigError> {
        let Self { api_keys, api_key, .. } = self;
        let list = |text: &String| Keys::parse(&text.replace(',', "\n"), KeyKind::Api, API_KEYS);
        let mut keys = api_keys.as_ref().map(list).transpose()?;
        if let Some(text) = api_key {
            let one = Keys::single(text, KeyKind::Api, API_KEY)?;
            keys.get_or_insert_default().extend(one);
        }
        Ok(keys)
    }

    /// Admin keys; `None`: the file's count.
    pub(super) fn admin_keys(&self) -> Result<Option<Keys>, ConfigError> {
        self.admin_key.as_ref().map(|text| Keys::single(text, KeyKind::Admin, ADMIN_KEY)).transpose()
    }
}

impl std::fmt::Debug for Environment {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("log", &self.log).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn a_list_and_a_single_key_are_added_up() {
        let names = |environment: &Environment| -> Vec<String> {
            environment.api_keys().unwrap().unwrap().names().map(str::to_owned).collect()
        };
        let list = Environment { api_keys: Some(format!("a:{KEY}a, b:{KEY}b,\n")), ..Environment::default() };
        assert_eq!(names(&list), ["a", "b"]);
        let one = Environment { api_key: Some(format!("{KEY}c")), ..Environment::default() };
        assert_eq!(names(&one), ["key-1"]);
        assert_eq!(names(&Environment { api_key: one.api_key, ..list }), ["a", "b", "key-1"]);
        assert_eq!(Environment::default().api_keys().unwrap(), None);
        // Set, but to nothing: whoever did so expects that a key is needed.
        let empty = Environment { api_keys: Some(String::new()), ..Environment::default() };
        assert!(empty.api_keys().unwrap_err().to_string().contains("KR_API_KEYS is missing"));
        let empty = Environment { api_key: Some(String::new()), ..Environment::default() };
        assert!(empty.api_keys().unwrap_err().to_string().contains("KR_API_KEY has 0 characters"));
    }

    #[test]
    fn keys_are_not_shown() {
        let environment = Environment {
            api_keys: Some(KEY.into()),
            api_key: Some(KEY.into()),
            admin_key: Some(KEY.into()),
            log: Some("debug".into()),
        };
        let shown = format!("{environment:?}");
        assert!(!shown.contains(KEY) && shown.contains("debug"), "{shown}");
    }
}
