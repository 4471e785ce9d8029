//! An artifact store that one test may change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{MODEL, STORE, binary, variable};

/// Imports the folder or file `source` into `store` under `name`.
///
/// # Panics
/// cache-tool refuses it.
pub fn import(store: &Path, source: &Path, name: &str) {
    let mut command = Command::new(binary("cache-tool"));
    command.arg("--store").arg(store).arg("import").arg(source).args(["--name", name]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Imports the folder `source` with an adapter of the model `base`.
///
/// # Panics
/// cache-tool refuses it.
pub fn import_adapter(store: &Path, source: &Path, base: &str, name: &str) {
    let mut command = Command::new(binary("cache-tool"));
    command.arg("--store").arg(store).arg("import").arg(source).args(["--adapter-of", base, "--name", name]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A copy of the tests' store. Blobs are links where the file system allows it.
pub struct PrivateStore {
    folder: TempDir,
}

impl PrivateStore {
    /// A copy that holds [`MODEL`] under `names` as well.
    ///
    /// # Panics
    /// The tests' store can't be copied.
    pub fn with_names(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&variable(STORE), folder.path()).unwrap();
        let refs = folder.path().join("refs");
        for name in names {
            // A name is one file, whatever is in it.
            fs::copy(refs.join(MODEL), refs.join(name.replace('/', "%2F"))).unwrap();
        }
        Self { folder }
    }

    /// Its folder.
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The digest of [`MODEL`].
    ///
    /// # Panics
    /// The store has no such name.
    pub fn digest(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("refs").join(MODEL)).unwrap();
        text.trim().trim_start_matches("sha256:").to_string()
    }

    /// Changes the bytes of [`MODEL`]'s weights; the tests' own store keeps what it has.
    ///
    /// # Panics
    /// The store's files are not where they should be.
    pub fn damage_weights(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let manifest = self.folder.path().join(format!("artifacts/{}.json", self.digest()));
        let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        let files = manifest["files"].as_array().unwrap();
        let weights = files.iter().find(|file| file["role"] == "weights").unwrap();
        let blob = weights["blob"].as_str().unwrap().trim_start_matches("sha256:");
        let path = self.folder.path().join(format!("blobs/sha256/{}/{blob}", &blob[..2]));
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        // Another file under the same name: the old one may be a link to the tests' store.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&source, &target)?;
        } else if from.components().all(|part| part.as_os_str() != "blobs")
            || fs::hard_link(&source, &target).is_err()
        {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
