//! Where things are in a store's folder, and which names it accepts.

use std::path::{Path, PathBuf};

use crate::{Digest, StoreError, files::folder_of};

/// Longest name, in bytes: with `/` written as three bytes, still a legal file name.
const MAX_NAME: usize = 200;
/// `/` in a name, as its file name has it. `%` itself is in no name.
const SLASH: &str = "%2F";
/// Between a model's name and that of its adapter.
const COLON: char = ':';
/// `:` as the file name has it.
const ENCODED_COLON: &str = "%3A";
/// How the files in `tmp/` begin that hold a name in waiting.
const WAITING: &str = "name-";
/// How the files in `tmp/` begin that say what goes for an artifact.
const EVICTIONS: &str = "evict-";

/// The paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// The folder that holds artifacts when nobody names one: `KR_CACHE_DIR`, or `kr-serve` in the user's cache folder. On
/// macOS, which may empty that folder, it is in `Application Support` instead, unless a store is in the cache folder
/// from earlier and none in its place.
pub fn default_store_dir() -> Result<PathBuf, StoreError> {
    if let Some(dir) = std::env::var_os("KR_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let is_store = |dir: &Path| Layout::new(dir).artifacts().is_dir();
    let kept = if cfg!(target_os = "macos") { dirs::data_dir() } else { None };
    default_dir(dirs::cache_dir(), kept, is_store).ok_or(StoreError::NoCacheDir)
}

/// `kept`: where the platform keeps files that `cache` would lose.
fn default_dir(
    cache: Option<PathBuf>,
    kept: Option<PathBuf>,
    is_store: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let [cache, kept] = [cache, kept].map(|dir| Some(dir?.join("kr-serve")));
    match (cache, kept) {
        (Some(cache), Some(kept)) if is_store(&cache) && !is_store(&kept) => Some(cache),
        (cache, kept) => kept.or(cache),
    }
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folders every store has, parents first; the others appear with what
    /// is in them.
    pub(crate) fn folders(&self) -> [PathBuf; 7] {
        let blobs = self.blobs();
        let parent = folder_of(&blobs).to_owned();
        [self.root.clone(), parent, blobs, self.artifacts(), self.refs(), self.leases(), self.tmp()]
    }

    /// All folders that a store may have in its own.
    pub(crate) fn all_folders(&self) -> impl Iterator<Item = PathBuf> {
        let others = [self.holds(), self.pins(), self.quarantine(), self.downloads()];
        self.folders().into_iter().skip(1).chain(others)
    }

    /// Whether something in the store's folder belongs to the store.
    pub(crate) fn is_ours(&self, path: &Path) -> bool {
        let files = [self.index(), self.lock(), self.blob_lock()];
        files.iter().any(|file| file == path) || self.all_folders().any(|folder| folder == path)
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join(".lock")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        let text = digest.to_string();
        self.blobs().join(&text[..2]).join(text)
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    pub(crate) fn manifest(&self, digest: Digest) -> PathBuf {
        self.artifacts().join(format!("{digest}.json"))
    }

    pub(crate) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// `name` has passed [`check_name`].
    pub(crate) fn reference(&self, name: &str) -> PathBuf {
        self.refs().join(file_name_of(name))
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(crate) fn lease(&self, digest: Digest) -> PathBuf {
        self.leases().join(digest.to_string())
    }

    /// See [`crate::lock::BlobLock`].
    pub(crate) fn blob_lock(&self) -> PathBuf {
        self.root.join(".blobs.lock")
    }

    /// See [`crate::BlobHold`].
    pub(crate) fn holds(&self) -> PathBuf {
        self.root.join("holds")
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where a name waits for its artifact to be complete; see [`name_in_waiting`].
    pub(crate) fn waiting_name(&self, name: &str) -> PathBuf {
        self.tmp().join(format!("{WAITING}{}", file_name_of(name)))
    }

    /// Which artifacts go once this one is complete; see [`evictions_in_waiting`].
    pub(crate) fn waiting_evictions(&self, digest: Digest) -> PathBuf {
        self.tmp().join(format!("{EVICTIONS}{digest}"))
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(crate) fn pin(&self, digest: Digest) -> PathBuf {
        self.pins().join(digest.to_string())
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(crate) fn quarantined(&self, blob: Digest) -> PathBuf {
        self.quarantine().join(blob.to_string())
    }
}

/// The name that waits in a file of `tmp/`, if it is such a file.
pub(crate) fn name_in_waiting(file_name: &str) -> Option<String> {
    Some(name_of_file(file_name.strip_prefix(WAITING)?)).filter(|name| check_name(name).is_ok())
}

/// The artifact for which others go, if a file of `tmp/` says so.
pub(crate) fn evictions_in_waiting(file_name: &str) -> Option<Digest> {
    file_name.strip_prefix(EVICTIONS)?.parse().ok()
}

/// The name whose reference has this file name.
pub(crate) fn name_of_file(file_name: &str) -> String {
    file_name.replace(SLASH, "/").replace(ENCODED_COLON, ":")
}

fn file_name_of(name: &str) -> String {
    name.replace('/', SLASH).replace(COLON, ENCODED_COLON)
}

/// Accepts names of models, and of adapters behind those of their models: `smollm2-135m:poems`.
pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    let Some((base, adapter)) = name.split_once(COLON) else { return check_model_name(name) };
    // `sha256:` begins a digest.
    let good = check_model_name(base).is_ok()
        && check_model_name(adapter).is_ok()
        && base != "sha256"
        && file_name_of(name).len() <= MAX_NAME;
    if good { Ok(()) } else { Err(StoreError::BadName(name.to_owned())) }
}

/// The name of a model's adapter.
pub(crate) fn adapter_name(base: &str, adapter: &str) -> Result<String, StoreError> {
    // Together they may be a name, and apart none.
    check_model_name(base)?;
    check_model_name(adapter)?;
    let name = format!("{base}{COLON}{adapter}");
    check_name(&name).map(|()| name)
}

/// Accepts names such as `smollm2-135m` and `mlx-community/Qwen3-4B`. What it
/// accepts can't leave the folder of references.
pub(crate) fn check_model_name(name: &str) -> Result<(), StoreError> {
    let encoded_len = file_name_of(name).len();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    let ends = name.bytes().next().zip(name.bytes().next_back());
    let good = ends.is_some_and(|(a, b)| a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric())
        && encoded_len <= MAX_NAME
        && name.bytes().all(legal)
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && name.parse::<Digest>().is_err();
    if good { Ok(()) } else { Err(StoreError::BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_accepted_and_become_one_file() {
        for name in [
            "smollm2-135m-instruct",
            "mlx-community/Qwen3-4B-4bit",
            "a",
            "Llama3.2_1B",
            "org/base:my-adapter",
        ] {
            assert!(check_name(name).is_ok(), "{name}");
            let path = Layout::new(Path::new("/s")).reference(name);
            assert_eq!(path.parent(), Some(Path::new("/s/refs")));
            assert_eq!(name_of_file(&path.file_name().unwrap_or_default().to_string_lossy()), name);
        }
    }

    #[test]
    fn a_store_is_where_it_is_kept_or_where_it_has_been() {
        let (cache, kept) = (Some(PathBuf::from("/cache")), Some(PathBuf::from("/kept")));
        let of = |cache: &Option<PathBuf>, kept: &Option<PathBuf>, stores: &[&str]| {
            let is_store = |dir: &Path| stores.iter().any(|store| dir.starts_with(store));
            default_dir(cache.clone(), kept.clone(), is_store)
        };
        let dir = |text: &str| Some(PathBuf::from(text).join("kr-serve"));
        assert_eq!(of(&cache, &None, &[]), dir("/cache"));
        assert_eq!(of(&cache, &None, &["/cache"]), dir("/cache"));
        assert_eq!(of(&cache, &kept, &[]), dir("/kept"));
        assert_eq!(of(&cache, &kept, &["/cache"]), dir("/cache"), "a store of an earlier version");
        assert_eq!(of(&cache, &kept, &["/cache", "/kept"]), dir("/kept"));
        assert_eq!(of(&None, &kept, &[]), dir("/kept"));
        assert_eq!(of(&None, &None, &[]), None);
    }

    #[test]
    fn other_names_are_refused() {
        let long = "a".repeat(MAX_NAME + 1);
        let digest = Digest::of(b"x").to_string();
        for name in [
            "", "..", "../x", "/x", "x/", "a//b", "a/../b", "a/./b", ".hidden", "a b", "a%2Fb", "ä", &long,
            &digest, "a:", ":a", "a:b:c", "sha256:a",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
