//! Exit codes, all of them.

use std::{io::ErrorKind, process::ExitCode};

use artifact_store::StoreError;

/// The table, as `--help` shows it.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  another failure, such as a file that cannot be read
  2  the command line is wrong
  3  no such artifact, or no such store
  4  the source cannot be imported
  5  something stored is damaged
  6  not enough space on the disk, or within the limit of the store
  7  the artifact is in use, or pinned, or the store is locked";

/// Something stored is damaged.
pub(crate) const DAMAGED: u8 = 5;

/// The code for an error; the command line's own errors end in `clap`, with 2.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref::<StoreError>() {
        Some(StoreError::BadName(_) | StoreError::SimilarName { .. }) => 2,
        Some(
            StoreError::UnknownArtifact { .. } | StoreError::AmbiguousDigest { .. } | StoreError::NoStore(_),
        ) => 3,
        Some(StoreError::BadSource { .. }) => 4,
        Some(
            StoreError::Damaged { .. }
            | StoreError::Quarantined { .. }
            | StoreError::NewerFormat { .. }
            | StoreError::MissingFile { .. },
        ) => DAMAGED,
        Some(StoreError::NoSpace { .. } | StoreError::OverLimit { .. }) => 6,
        Some(StoreError::Io { source, .. }) if is_full(source.kind()) => 6,
        Some(StoreError::InUse { .. } | StoreError::Pinned { .. } | StoreError::Locked { .. }) => 7,
        _ => 1,
    };
    ExitCode::from(code)
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
