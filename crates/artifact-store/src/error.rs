//! What can go wrong with a store, each with what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytesize::ByteSize;

use crate::{
    Digest, Holder,
    printable::{reason as quoted, shown},
};

/// Everything the store reports. The text is meant for people; [`std::error::Error::source`] has the cause, where
/// there is one ([`with_causes`] writes both).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The platform names no folder for the store.
    #[error("the home folder is not known; set KR_CACHE_DIR to the folder of the artifact store")]
    NoCacheDir,

    /// The folder is not there, and was not to be created.
    #[error("there is no artifact store at {}; create one with `cache-tool --store {} import SOURCE`", shown(.0), shown(.0))]
    NoStore(PathBuf),

    /// The operating system refused something.
    #[error("cannot {action} {}", shown(path))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// No artifact has this name or digest.
    #[error(
        "no artifact named `{name}` in {store}; stored are: {}. Import it with \
         `cache-tool --store {store} import FOLDER_OR_GGUF --name {name}`",
        known_names(known), name = quoted(name), store = shown(store)
    )]
    UnknownArtifact {
        /// What was asked for.
        name: String,
        /// Folder of the store.
        store: PathBuf,
        /// Every name there is.
        known: Vec<String>,
    },

    /// Several artifacts begin with these digits.
    #[error("`{}` is the beginning of {count} digests; give more digits", quoted(prefix))]
    AmbiguousDigest {
        /// What was asked for.
        prefix: String,
        /// How many digests match.
        count: usize,
    },

    /// Not a name that the store can keep.
    #[error(
        "`{}` cannot be a name: use 1 to 200 letters, digits, `.`, `_`, `-` and `/`, beginning and \
         ending with a letter or digit, and not the form of a digest", quoted(.0)
    )]
    BadName(String),

    /// There is a name that is the same but for upper and lower case.
    #[error(
        "`{}` differs from the stored name `{existing}` only in upper and lower case, which some file systems take for \
         the same: use that name, another one, or `cache-tool remove {existing}` first",
        quoted(name)
    )]
    SimilarName {
        /// What was asked for.
        name: String,
        /// The name there is.
        existing: String,
    },

    /// A stored file is not what the store says it is.
    #[error(
        "{} is damaged: {}; it is not used. Import the model again, which replaces it",
        shown(path),
        quoted(reason)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },

    /// A file of the artifact failed its verification and was set aside.
    #[error(
        "`{}` of {artifact} is not what was stored; it was set aside as {}. Import or pull the same source \
         again, which repairs it, or give the artifact up with `cache-tool remove {artifact}`",
        quoted(file), shown(path), artifact = quoted(artifact)
    )]
    Quarantined {
        /// The name or digest of the artifact.
        artifact: String,
        /// The file's name in the artifact.
        file: String,
        /// Where its bytes are now.
        path: PathBuf,
    },

    /// A manifest that a later version of this program wrote.
    #[error(
        "{} has format {format}, and this program reads formats up to {readable}: use a newer version of it. \
         The artifact is left as it is",
        shown(path)
    )]
    NewerFormat {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        format: u64,
        /// The newest format that can be read.
        readable: u32,
    },

    /// The artifact has no file of this kind.
    #[error("artifact {digest} has no {what}; import the model from a source that has one")]
    MissingFile {
        /// The artifact.
        digest: Digest,
        /// What is missing.
        what: &'static str,
    },

    /// What was to be imported is not usable.
    #[error("cannot import {}: {}", shown(path), quoted(reason))]
    BadSource {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },

    /// The disk is too small for what was to be written.
    #[error(
        "the disk of {} needs {} and has {} left: free some space, for example with `cache-tool prune`, \
         or choose another folder with --store", shown(path), ByteSize(*needed), ByteSize(*available)
    )]
    NoSpace {
        /// Folder of the store.
        path: PathBuf,
        /// Bytes that would be written, with a margin.
        needed: u64,
        /// Bytes the file system offers.
        available: u64,
    },

    /// The limit of the store leaves no room, even after removing all that may be removed.
    #[error(
        "the store at {} may have {}, {} are to be added, and {} of what it has are pinned or in use: allow more \
         with --max-size or `cache.max_size_bytes`, `cache-tool unpin` something, or unload a model",
        shown(path), ByteSize(*limit), ByteSize(*needed), ByteSize(*held)
    )]
    OverLimit {
        /// Folder of the store.
        path: PathBuf,
        /// Bytes that were to be added.
        needed: u64,
        /// Bytes the store may have.
        limit: u64,
        /// Bytes that can't be removed.
        held: u64,
    },

    /// A process uses the artifact.
    #[error("{} is in use{}: unload the model or end the process first", quoted(artifact), by_whom(holders))]
    InUse {
        /// The name or digest of the artifact.
        artifact: String,
        /// Who uses it, where the platform tells.
        holders: Vec<Holder>,
    },

    /// The user pinned the artifact.
    #[error("{artifact} is pinned: `cache-tool unpin {artifact}` first, or give --force", artifact = quoted(artifact))]
    Pinned {
        /// The name or digest of the artifact.
        artifact: String,
    },

    /// A process holds a lock of the store and does not let go.
    #[error(
        "{} is locked{} and was not released for {seconds} seconds: end that process, or wait until it is done, and \
         try again",
        shown(path),
        by_whom(holders)
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, where the platform tells.
        holders: Vec<Holder>,
        /// How long was waited.
        seconds: u64,
    },

    /// An artifact was to be written to a folder that has something in it.
    #[error("{} exists and is not an empty folder; name another one", shown(.0))]
    ExportTarget(PathBuf),

    /// The observer asked to stop.
    #[error("cancelled; the store is as it was")]
    Cancelled,

    /// The store was opened for reading only.
    #[error("the store at {} was opened for reading only", shown(.0))]
    ReadOnly(PathBuf),
}

/// Gives an [`io::Result`] its action and path.
pub(crate) trait IoContext<T> {
    /// `action` is a verb that fits "cannot {action} {path}".
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { action, path: path.to_owned(), source })
    }
}

impl StoreError {
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn bad_source(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadSource { path: path.to_owned(), reason: reason.into() }
    }
}

/// An error with all its causes in one line, as `anyhow` prints them with `{:#}`.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn known_names(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// " by kr-worker (process 12)", or nothing where nobody is known.
fn by_whom(holders: &[Holder]) -> String {
    let holders: Vec<String> = holders.iter().map(Holder::to_string).collect();
    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    /// What a hostile file or client may put into a message.
    const FOREIGN: &str = "x\n2026 ERROR forged\u{1b}[2J\u{202e}";

    /// One of each.
    fn every_error() -> Vec<StoreError> {
        let (path, text) = (PathBuf::from(FOREIGN), FOREIGN.to_owned());
        let holders = vec![Holder { pid: 7, program: Some(text.clone()) }];
        let digest = Digest::of(b"x");
        let all = vec![
            StoreError::NoCacheDir,
            StoreError::NoStore(path.clone()),
            StoreError::Io {
                action: "open",
                path: path.clone(),
                source: io::Error::other("the disk is on fire"),
            },
            StoreError::UnknownArtifact { name: text.clone(), store: path.clone(), known: vec![] },
            StoreError::AmbiguousDigest { prefix: text.clone(), count: 2 },
            StoreError::BadName(text.clone()),
            StoreError::SimilarName { name: text.clone(), existing: "y".to_owned() },
            StoreError::Damaged { path: path.clone(), reason: text.clone() },
            StoreError::Quarantined { artifact: text.clone(), file: text.clone(), path: path.clone() },
            StoreError::NewerFormat { path: path.clone(), format: 9, readable: 1 },
            StoreError::MissingFile { digest, what: "tokenizer" },
            StoreError::BadSource { path: path.clone(), reason: text.clone() },
            StoreError::NoSpace { path: path.clone(), needed: 2, available: 1 },
            StoreError::OverLimit { path: path.clone(), needed: 2, limit: 1, held: 0 },
            StoreError::InUse { artifact: text.clone(), holders: holders.clone() },
            StoreError::Pinned { artifact: text },
            StoreError::Locked { path: path.clone(), holders, seconds: 30 },
            StoreError::ExportTarget(path.clone()),
            StoreError::Cancelled,
            StoreError::ReadOnly(path),
        ];
        // A new variant does not compile here until it is above.
        for error in &all {
            match error {
                StoreError::NoCacheDir
                | StoreError::NoStore(_)
                | StoreError::Io { .. }
                | StoreError::UnknownArtifact { .. }
                | StoreError::AmbiguousDigest { .. }
                | StoreError::BadName(_)
                | StoreError::SimilarName { .. }
                | StoreError::Damaged { .. }
                | StoreError::Quarantined { .. }
                | StoreError::NewerFormat { .. }
                | StoreError::MissingFile { .. }
                | StoreError::BadSource { .. }
                | StoreError::NoSpace { .. }
                | StoreError::OverLimit { .. }
                | StoreError::InUse { .. }
                | StoreError::Pinned { .. }
                | StoreError::Locked { .. }
                | StoreError::ExportTarget(_)
                | StoreError::Cancelled
                | StoreError::ReadOnly(_) => {}
            }
        }
        let kinds: std::collections::HashSet<_> = all.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), all.len(), "one is there twice, and another one may be missing");
        all
    }

    #[test]
    fn no_error_says_its_cause_twice() {
        for error in every_error() {
            let all = with_causes(&error);
            if let Some(cause) = error.source() {
                assert!(!error.to_string().contains(&cause.to_string()), "{error}");
                assert_eq!(all.matches(&cause.to_string()).count(), 1, "{all}");
            } else {
                assert_eq!(all, error.to_string());
            }
        }
    }

    #[test]
    fn no_error_prints_what_others_wrote_as_it_is() {
        for error in every_error() {
            let text = with_causes(&error);
            assert!(!text.chars().any(char::is_control) && !text.contains('\u{202e}'), "{text:?}");
        }
    }
}
