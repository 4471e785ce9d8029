//! What can be wrong with a configuration.

use std::{fmt, io, path::PathBuf};

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not YAML, or not a mapping of keys to values.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        problem: String,
    },
    /// A key is unknown, or its value can't be used.
    #[error("{}`{key}` {problem}", place(path, *line))]
    Key {
        /// The file.
        path: PathBuf,
        /// Line, from 1; `None` if the key is not in the file, and its default can't be used.
        line: Option<u64>,
        /// The key, with its parents.
        key: String,
        /// What is wrong with it; continues "`key` ".
        problem: String,
    },
}

/// `runtime.yaml:7: `, or nothing.
fn place(path: &std::path::Path, line: Option<u64>) -> impl fmt::Display {
    line.map_or(String::new(), |line| format!("{}:{line}: ", path.display()))
}
