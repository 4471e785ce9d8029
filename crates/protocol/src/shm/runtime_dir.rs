//! Where segments and sockets of one gateway live.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

/// A folder that only this user can enter; it and all in it are removed on drop.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// Its path. Short, because a socket's path may not be longer than 104 bytes on some systems.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for RuntimeDir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and nothing depends on it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a new folder for this process, with mode 0700: in `XDG_RUNTIME_DIR`, else in `/dev/shm`, else in the
/// folder for temporary files. The first two are in memory; on a disk, the kernel may write the rings back now and then.
///
/// # Errors
/// If none of these can be written to; the last one's error, with its path.
pub fn runtime_dir() -> io::Result<RuntimeDir> {
    let parents =
        [env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some("/dev/shm".into()), Some(env::temp_dir())];
    first_usable(parents.into_iter().flatten().filter(|parent| parent.is_absolute()))
}

fn first_usable(parents: impl Iterator<Item = PathBuf>) -> io::Result<RuntimeDir> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no folder for runtime files");
    for parent in parents {
        match create_in(&parent) {
            Ok(dir) => return Ok(dir),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn create_in(parent: &Path) -> io::Result<RuntimeDir> {
    // Containers may share the parent and have equal process ids; dead processes may have left a folder.
    for attempt in 0..1000 {
        let path = parent.join(format!("kr-mlx-{}-{attempt}", process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(RuntimeDir { path }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{}: remove the kr-mlx-{}-* folders in it", parent.display(), process::id()),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn first_usable_parent_wins_and_the_folder_is_private_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let parents =
            [PathBuf::from("/nonexistent"), parent.path().to_owned(), PathBuf::from("/never/reached")];
        let one = first_usable(parents.clone().into_iter()).unwrap();
        let two = first_usable(parents.into_iter()).unwrap();
        assert_ne!(one.path(), two.path());
        assert_eq!(one.path().parent(), Some(parent.path()));
        assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(one.path().join("left"), b"behind").unwrap();
        drop((one, two));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn failure_names_the_path() {
        let error = first_usable([PathBuf::from("/nonexistent")].into_iter()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/kr-mlx-"), "{error}");
    }
}
