//! A configuration file, read and checked.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_saphyr::{Location, MessageFormatter as _, UserMessageFormatter};

use crate::{
    error::SettingsError,
    lines::Lines,
    schema::{REQUEST_MEMORY_FACTOR, Settings, Tls},
};

/// Where settings are looked for when no file is named.
pub const DEFAULT_FILE: &str = "config/runtime.yaml";

/// How similar a known key must be to be suggested; from 0 to 1.
const SIMILAR: f64 = 0.7;

/// What a file says, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// The settings; keys that the file leaves out have their defaults.
    pub settings: Settings,
    path: PathBuf,
    lines: Lines,
}

impl File {
    /// Reads the file that `path` names, which must exist. Without one, [`DEFAULT_FILE`] is read if it exists; if not,
    /// everything is a default.
    pub fn load(path: Option<&Path>) -> Result<Self, SettingsError> {
        let (path, may_be_missing) = path.map_or((Path::new(DEFAULT_FILE), true), |path| (path, false));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => Self::parse(path, ""),
            Err(source) => Err(SettingsError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads a text; `path` is for messages. An empty text, or one of comments alone, means the defaults.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        // Follows the reader to the key at which it fails.
        let mut track = serde_path_to_error::Track::new();
        let parsed: Result<Option<Settings>, _> =
            serde_saphyr::with_deserializer_from_str(text, |deserializer| {
                Option::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
            });
        let settings =
            parsed.map_err(|error| refused(path, &track.path().to_string(), &error))?.unwrap_or_default();
        let file = Self { settings, path: path.to_owned(), lines: Lines::of(text) };
        file.check()?;
        Ok(file)
    }

    /// Whether the file itself sets `key`, such as `server.port`.
    pub fn sets(&self, key: &str) -> bool {
        self.lines.get(key).is_some()
    }

    /// Where it was read, or looked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about the value of `key`, such as `server.port`. `problem` continues "`key` ".
    pub fn refuse(&self, key: &str, problem: impl Into<String>) -> SettingsError {
        SettingsError::Key {
            path: self.path.clone(),
            line: self.lines.get(key),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    /// Values that contradict each other.
    fn check(&self) -> Result<(), SettingsError> {
        let Settings { server, workers, stream_registry, .. } = &self.settings;
        let least = REQUEST_MEMORY_FACTOR * server.max_body_bytes;
        if server.request_memory_bytes < least {
            let problem = format!(
                "is {}, but must be at least {REQUEST_MEMORY_FACTOR} times `server.max_body_bytes` ({least})",
                server.request_memory_bytes
            );
            return Err(self.refuse("server.request_memory_bytes", problem));
        }
        if let Some((set, missing)) = half(&server.tls) {
            return Err(self.refuse(set, format!("is set without `{missing}`; HTTPS needs both")));
        }
        let (first, max) = (workers.restart_backoff_ms, workers.max_restart_backoff_ms);
        if max < first {
            let problem = format!(
                "is {}, less than `workers.restart_backoff_ms` ({})",
                max.as_millis(),
                first.as_millis()
            );
            return Err(self.refuse("workers.max_restart_backoff_ms", problem));
        }
        let limits = &stream_registry.adaptive_limits;
        if let Some(min) = limits.min_streams
            && limits.max_streams < min
        {
            let problem = format!("is {}, less than `min_streams` ({min})", limits.max_streams);
            return Err(self.refuse("stream_registry.adaptive_limits.max_streams", problem));
        }
        Ok(())
    }
}

/// The key that is set and the one that is missing, if only one of the two is set.
fn half(tls: &Tls) -> Option<(&'static str, &'static str)> {
    let (cert, key) = ("server.tls.cert_file", "server.tls.key_file");
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => Some((cert, key)),
        (None, Some(_)) => Some((key, cert)),
        _ => None,
    }
}

/// Translates an error of the YAML reader, met at `key`.
fn refused(path: &Path, key: &str, error: &serde_saphyr::Error) -> SettingsError {
    let error = error.without_snippet();
    let at = error.location().unwrap_or(Location::UNKNOWN);
    let message = UserMessageFormatter.format_message(error).into_owned();
    let keyed = |key: String, problem| SettingsError::Key {
        path: path.to_owned(),
        line: Some(at.line()).filter(|line| *line > 0),
        key,
        problem,
    };
    match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            let parents = key.strip_suffix(field.as_str()).unwrap_or(key).trim_end_matches('.');
            let full =
                |name: &str| if parents.is_empty() { name.into() } else { format!("{parents}.{name}") };
            keyed(full(field), unknown(field, expected, full))
        }
        // No key is at fault.
        _ if key.is_empty() || key == "." || key.ends_with('?') => SettingsError::Syntax {
            path: path.to_owned(),
            line: at.line(),
            column: at.column(),
            problem: message,
        },
        // From `value.rs`.
        serde_saphyr::Error::Message { .. } => keyed(key.into(), message),
        _ => keyed(key.into(), format!("can't be read: {message}")),
    }
}

/// What to say of the unknown key `name` where the keys `known` are possible.
fn unknown(name: &str, known: &[&str], full: impl Fn(&str) -> String) -> String {
    let similarity = |known: &str| strsim::jaro_winkler(name, known);
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let hint = nearest.filter(|nearest| similarity(nearest) >= SIMILAR);
    let hint = hint.map_or(String::new(), |nearest| format!("; did you mean `{}`?", full(nearest)));
    format!("is not a known key{hint} (known here: {})", known.join(", "))
}
