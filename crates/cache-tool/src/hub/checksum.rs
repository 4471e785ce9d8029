//! What the hub says of a file's bytes.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use anyhow::Context;
use artifact_store::Digest;
use sha1::{Digest as _, Sha1};

const BUFFER: usize = 256 << 10;

/// A checksum of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// Of large files.
    Sha256(Digest),
    /// Of files that are in the Git repository itself: the name of the blob.
    GitBlob([u8; 20]),
}

impl Checksum {
    /// Whether the file at `path` has `size` bytes and this checksum.
    pub(crate) fn fits(self, path: &Path, size: u64) -> anyhow::Result<bool> {
        let cannot_read = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(cannot_read)?;
        if file.metadata().with_context(cannot_read)?.len() != size {
            return Ok(false);
        }
        let mut reader = BufReader::with_capacity(BUFFER, file);
        match self {
            Self::Sha256(expected) => {
                Ok(Digest::of_reader(&mut reader).with_context(cannot_read)?.0 == expected)
            }
            Self::GitBlob(expected) => Ok(git_blob(&mut reader, size).with_context(cannot_read)? == expected),
        }
    }
}

/// The name that Git gives a blob of `size` bytes.
fn git_blob(reader: &mut impl Read, size: u64) -> io::Result<[u8; 20]> {
    let mut hasher = Sha1::new_with_prefix(format!("blob {size}\0"));
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn a_file_fits_its_own_checksums_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "hello\n").unwrap();
        // `git hash-object`.
        let blob = *b"\xce\x01\x36\x25\x03\x0b\xa8\xdb\xa9\x06\xf7\x56\x96\x7f\x9e\x9c\xa3\x94\x46\x4a";
        for checksum in [Checksum::Sha256(Digest::of(b"hello\n")), Checksum::GitBlob(blob)] {
            fs::write(&path, "hello\n").unwrap();
            assert!(checksum.fits(&path, 6).unwrap());
            assert!(!checksum.fits(&path, 7).unwrap());
            fs::write(&path, "hellO\n").unwrap();
            assert!(!checksum.fits(&path, 6).unwrap());
        }
        assert!(Checksum::GitBlob(blob).fits(&folder.path().join("y"), 6).is_err());
    }
}
