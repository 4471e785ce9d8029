//! The keys that clients present. Only their names and digests are kept, so that no dump of this process has them.
//!
//! A key is long and random, so its digest needs neither salt nor a slow function: there is nothing to guess.

use std::{fmt, sync::Arc};

use constant_time_eq::constant_time_eq_32;
use sha2::{Digest as _, Sha256};

use super::{ConfigError, secret_file};

/// Keys of one kind, each with a name. Two keys may share a name: the old one and the new one of the same client.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Clone, PartialEq, Eq)]
struct Key {
    name: Arc<str>,
    digest: Digest,
}

/// The digest of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// What keys allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// To use the server.
    Api,
    /// To administrate it.
    Admin,
}

/// A shorter key could be guessed.
const MIN_LEN: usize = 16;
/// A longer key would not fit into a header beside others.
const MAX_LEN: usize = 4 << 10;
/// Names are in log lines.
const MAX_NAME: usize = 64;

impl Keys {
    /// The keys in the file at `path`, which only its owner may have access to.
    pub(super) fn read(path: &str, kind: KeyKind) -> Result<Self, ConfigError> {
        Self::parse(&secret_file::read(path, kind.plural())?, kind, path)
    }

    /// Keys in lines of `name:key`, `name key` or `key`. `origin` is for messages.
    pub(super) fn parse(text: &str, kind: KeyKind, origin: &str) -> Result<Self, ConfigError> {
        let mut keys = Self::default();
        for (index, line) in text.lines().enumerate() {
            let origin = format!("{origin}:{}", index + 1);
            let refuse = |problem: String| kind.refuse(&origin, problem);
            let Some((name, key)) = fields(line).map_err(|it| refuse(it.to_owned()))? else { continue };
            let name = name.map_or_else(|| kind.default_name(keys.0.len() + 1), str::to_owned);
            check_name(&name).map_err(refuse)?;
            keys.add(&name, key).map_err(refuse)?;
        }
        if keys.is_empty() {
            let problem = format!("is missing: there is none of at least {MIN_LEN} characters");
            return Err(kind.refuse(origin, problem));
        }
        Ok(keys)
    }

    /// One key without a name. White space around it is not part of it.
    pub(super) fn single(text: &str, kind: KeyKind, origin: &str) -> Result<Self, ConfigError> {
        let mut keys = Self::default();
        keys.add(&kind.default_name(1), text.trim()).map_err(|problem| kind.refuse(origin, problem))?;
        Ok(keys)
    }

    /// Those of `more` as well.
    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, one for each key.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| &*key.name)
    }

    /// The name of the key that was presented, if it is one of these.
    pub fn find(&self, presented: &Digest) -> Option<&Arc<str>> {
        self.find_by(presented, constant_time_eq_32)
    }

    /// Whether a key is in both.
    pub(super) fn overlap(&self, other: &Self) -> Option<&str> {
        self.0.iter().find(|key| other.find(&key.digest).is_some()).map(|key| &*key.name)
    }

    /// Compares with every key, also after one was found: the time must not tell which it was.
    fn find_by(
        &self,
        presented: &Digest,
        mut equal: impl FnMut(&[u8; 32], &[u8; 32]) -> bool,
    ) -> Option<&Arc<str>> {
        let mut found = None;
        for key in &self.0 {
            if equal(&key.digest.0, &presented.0) {
                found = Some(&key.name);
            }
        }
        found
    }

    fn add(&mut self, name: &str, key: &str) -> Result<(), String> {
        if key.len() < MIN_LEN {
            return Err(format!("has {} characters; at least {MIN_LEN} are needed", key.len()));
        }
        if key.len() > MAX_LEN {
            return Err(format!("has {} characters; at most {MAX_LEN} are possible", key.len()));
        }
        // It has to fit into a header.
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has characters other than letters, digits and signs of ASCII".into());
        }
        let digest = Digest::of(key.as_bytes());
        if let Some(same) = self.find(&digest) {
            return Err(format!("is the same as that of `{same}`"));
        }
        self.0.push(Key { name: name.into(), digest });
        Ok(())
    }
}

impl Digest {
    /// Of a key as a client sent it.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl KeyKind {
    /// For messages.
    fn singular(self) -> &'static str {
        match self {
            Self::Api => "API key",
            Self::Admin => "admin key",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Api => "API keys",
            // As a rule there is one.
            Self::Admin => "admin key",
        }
    }

    /// What a key is called that has no name.
    fn default_name(self, number: usize) -> String {
        match self {
            Self::Api => format!("key-{number}"),
            Self::Admin => "admin".into(),
        }
    }

    fn refuse(self, origin: &str, problem: String) -> ConfigError {
        ConfigError::Secret { what: self.singular(), origin: origin.to_owned(), problem }
    }
}

const NOT_ALONE: &str = "is not the only thing after its name; write `name:key`";

/// Name and key of a line. `None`: the line says nothing.
fn fields(line: &str) -> Result<Option<(Option<&str>, &str)>, &'static str> {
    let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let Some(first) = words.next() else { return Ok(None) };
    match (words.next(), words.next()) {
        (None, _) => Ok(Some(match first.split_once(':') {
            Some((name, key)) => (Some(name), key),
            None => (None, first),
        })),
        (Some(key), None) => match first.strip_suffix(':').unwrap_or(first) {
            name if name.contains(':') => Err(NOT_ALONE),
            name => Ok(Some((Some(name), key))),
        },
        (Some(_), Some(_)) => Err(NOT_ALONE),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let usable = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(usable) {
        return Err(format!(
            "has a name that can't be used; take 1 to {MAX_NAME} letters, digits and signs of ASCII"
        ));
    }
    Ok(())
}

impl fmt::Debug for Keys {
    /// The names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    fn parse(text: &str) -> Result<Keys, String> {
        Keys::parse(text, KeyKind::Api, "keys").map_err(|error| error.to_string())
    }

    fn found<'a>(keys: &'a Keys, key: &str) -> Option<&'a str> {
        keys.find(&Digest::of(key.as_bytes())).map(|name| &**name)
    }

    #[test]
    fn a_line_has_a_name_and_a_key() {
        for text in [
            format!("alice:{KEY}\nbob:{OTHER}\n"),
            format!("# who\n\n  alice {KEY}  # her laptop\r\nbob:\t{OTHER}"),
            format!("alice: {KEY}\n   # bob {KEY}\nbob {OTHER}\n"),
        ] {
            let keys = parse(&text).unwrap();
            assert_eq!(keys.names().collect::<Vec<_>>(), ["alice", "bob"], "{text}");
            assert_eq!((found(&keys, KEY), found(&keys, OTHER)), (Some("alice"), Some("bob")));
            for wrong in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef ", "alice"] {
                assert_eq!(found(&keys, wrong), None, "{wrong:?}");
            }
        }
        let unnamed = parse(&format!("{KEY}\nb:{OTHER}\n{KEY}0\n")).unwrap();
        assert_eq!(unnamed.names().collect::<Vec<_>>(), ["key-1", "b", "key-3"]);
        let rotated = parse(&format!("a:{KEY}\na:{OTHER}\n")).unwrap();
        assert_eq!((found(&rotated, KEY), found(&rotated, OTHER)), (Some("a"), Some("a")));
        let with_colons = parse(&format!("a:x:{KEY}")).unwrap();
        assert_eq!(found(&with_colons, &format!("x:{KEY}")), Some("a"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_never_shown() {
        for (text, problem) in [
            ("", "the API key in keys is missing"),
            ("# nothing\n", "the API key in keys is missing"),
            ("a:0123456789abcde", "the API key in keys:1 has 15 characters; at least 16"),
            ("\na:", "the API key in keys:2 has 0 characters"),
            ("a:0123456789abcdef x", "the API key in keys:1 is not the only thing"),
            ("a b 0123456789abcdef", "the API key in keys:1 is not the only thing"),
            ("a:0123456789abcdef\nb:0123456789abcdef", "the API key in keys:2 is the same as that of `a`"),
            ("a:0123456789abcd\u{e9}f", "the API key in keys:1 has characters other than"),
            (":0123456789abcdef", "the API key in keys:1 has a name that can't be used"),
            ("\u{e9}:0123456789abcdef", "the API key in keys:1 has a name that can't be used"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.starts_with(problem), "{text:?}: {refused}");
            assert!(!refused.contains("0123456789"), "{refused}");
        }
        assert!(parse(&format!("a:{}", "x".repeat(4097))).unwrap_err().contains("at most 4096"));
        assert!(parse(&format!("{}:{KEY}", "n".repeat(65))).unwrap_err().contains("name"));
    }

    #[test]
    fn a_key_of_the_environment_is_the_whole_text() {
        let single = |text: &str| Keys::single(text, KeyKind::Admin, "KR_ADMIN_KEY");
        let key = single(" a:b,0123456789abcdef\n").unwrap();
        assert_eq!(found(&key, "a:b,0123456789abcdef"), Some("admin"));
        let refused = |key: &str| single(key).unwrap_err().to_string();
        assert!(refused("short").contains("KR_ADMIN_KEY has 5 characters; at least 16"));
        assert!(refused("0123456789 abcdef").contains("ASCII"));
        assert!(refused("").contains("0 characters"));
    }

    #[test]
    fn all_keys_are_compared_whichever_is_presented() {
        let text: String = (0..20).map(|i| format!("n{i}:{KEY}{i}\n")).collect();
        let keys = parse(&text).unwrap();
        for presented in [format!("{KEY}0"), format!("{KEY}7"), format!("{KEY}19"), "none of them".into()] {
            let mut compared = 0;
            let name = keys.find_by(&Digest::of(presented.as_bytes()), |a, b| {
                compared += 1;
                constant_time_eq_32(a, b)
            });
            assert_eq!(compared, 20, "{presented}");
            assert_eq!(name.is_some(), presented.starts_with(KEY));
        }
    }

    #[test]
    fn neither_keys_nor_digests_are_shown() {
        let keys = parse(&format!("alice:{KEY}")).unwrap();
        assert_eq!(format!("{keys:?}"), r#"{"alice"}"#);
        assert_eq!(format!("{:?}", Digest::of(KEY.as_bytes())), "Digest(…)");
    }

    proptest! {
        #[test]
        fn no_text_panics_or_gives_a_short_key(text in "([a-z:# \\n]|[!-~]{16,20}){0,30}") {
            if let Ok(keys) = parse(&text) {
                prop_assert!(!keys.is_empty());
                for word in text.split_whitespace().filter(|word| word.len() < MIN_LEN) {
                    prop_assert_eq!(found(&keys, word), None);
                }
            }
        }
    }
}
