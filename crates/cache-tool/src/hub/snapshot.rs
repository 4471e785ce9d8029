//! What a hub says that a revision of a repository has.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::bail;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::{COMPONENT, Repository, checksum::Checksum};

/// Most files of a repository; the hub itself advises against more.
const MAX_FILES: usize = 100_000;
/// Where transformers keeps named chat templates; `import` looks for them there.
const TEMPLATES: &str = "additional_chat_templates/";

/// How the paths of a pooling's settings end, where sentence-transformers keeps them: `1_Pooling/config.json`.
const POOLING: &str = "_Pooling/config.json";

/// How those of matrices behind it end, and their weights: `2_Dense/model.safetensors`.
const DENSE: [&str; 2] = ["_Dense/config.json", "_Dense/model.safetensors"];

/// A revision of a repository, as the hub describes it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) repository: Repository,
    /// What the revision stands for now. Its files never change.
    pub(crate) commit: String,
    /// By path.
    pub(crate) files: BTreeMap<String, RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// With its folders.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// What its bytes are, if the hub says so.
    pub(crate) checksum: Option<Checksum>,
}

/// The part of the hub's answer that matters. It is read without a tree of the rest, which could be of any form.
#[derive(Deserialize)]
struct Description {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Snapshot {
    /// Reads the hub's description of `repository`.
    pub(super) fn read(repository: &Repository, json: &[u8]) -> anyhow::Result<Self> {
        let Some(described) = serde_json::from_slice::<Description>(json).ok() else {
            bail!("a commit and files with sizes are missing");
        };
        if !is_commit(&described.sha) {
            bail!("its commit is not 40 hex digits");
        }
        if described.siblings.len() > MAX_FILES {
            bail!("it names {} files, more than {MAX_FILES}", described.siblings.len());
        }
        let mut files = BTreeMap::new();
        // No model has a file with another kind of name.
        for sibling in described.siblings.into_iter().filter(|sibling| is_plain(&sibling.rfilename)) {
            let file = RemoteFile::described(sibling)?;
            if let Some(file) = files.insert(file.path.clone(), file) {
                bail!("it names the file `{}` twice", file.path);
            }
        }
        Ok(Self { repository: repository.clone(), commit: described.sha, files })
    }
}

impl RemoteFile {
    fn described(sibling: Sibling) -> anyhow::Result<Self> {
        let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
        let Some(size) = lfs.as_ref().and_then(|lfs| lfs.size).or(size) else {
            bail!("the size of `{path}` is missing");
        };
        // Of a large file, the blob is only a pointer.
        let checksum = match (lfs, blob_id) {
            (Some(Lfs { sha256: Some(text), .. }), _) => match text.to_ascii_lowercase().parse() {
                Ok(digest) => Some(Checksum::Sha256(digest)),
                Err(_) => bail!("the SHA-256 of `{path}` is not 64 hex digits"),
            },
            (None, Some(id)) => git_blob(&id).map(Checksum::GitBlob),
            _ => None,
        };
        Ok(Self { path, size, checksum })
    }

    /// Without its folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether it belongs to a module of sentence-transformers behind the model.
    pub(crate) fn is_of_module(&self) -> bool {
        let number = DENSE.iter().chain([&POOLING]).find_map(|end| self.path.strip_suffix(end));
        number.is_some_and(|number| number.len() == 1 && number != "/")
    }

    /// Where it is put in the folder of the download. Two files never have the same place.
    pub(crate) fn local(&self) -> PathBuf {
        let is_template = self.path.strip_prefix(TEMPLATES).is_some_and(|name| !name.contains('/'));
        if is_template || self.is_of_module() || !self.path.contains('/') {
            return PathBuf::from(&self.path);
        }
        utf8_percent_encode(&self.path, COMPONENT).to_string().into()
    }
}

/// Whether a file may have this name in a folder.
fn is_plain(path: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(is_plain) && !path.chars().any(|c| c.is_control() || c == '\\')
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The 20 bytes of a Git blob's name; `None` for the longer ones of repositories with another hash.
fn git_blob(text: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use artifact_store::Digest;
    use serde_json::{Value, json};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(siblings: Value) -> Result<Snapshot, String> {
        let json =
            json!({ "id": "org/model", "sha": COMMIT, "siblings": siblings, "tags": [[1], {"a": null}] });
        let repository = Repository::parse("org/model").unwrap();
        Snapshot::read(&repository, json.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn files_have_sizes_and_checksums() {
        let sha256 = Digest::of(b"x");
        let files = read(json!([
            { "rfilename": "model.safetensors", "size": 1, "blobId": COMMIT,
              "lfs": { "sha256": sha256.to_string().to_uppercase(), "size": 7, "pointerSize": 130 } },
            { "rfilename": "config.json", "size": 2, "blobId": COMMIT, "lfs": null },
            { "rfilename": "README.md", "size": 3 },
        ]));
        let files = files.unwrap().files;
        let found = |name: &str| (files[name].size, files[name].checksum);
        assert_eq!(found("model.safetensors"), (7, Some(Checksum::Sha256(sha256))));
        assert!(matches!(found("config.json"), (2, Some(Checksum::GitBlob(_)))));
        assert_eq!(found("README.md"), (3, None));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |siblings| read(siblings).unwrap_err();
        assert!(refused(json!([{ "rfilename": "a" }])).contains("size of `a`"));
        assert!(refused(json!([{ "rfilename": "a", "size": -1 }])).contains("missing"));
        assert!(
            refused(json!([{ "rfilename": "a", "size": 1 }, { "rfilename": "a", "size": 2 }]))
                .contains("twice")
        );
        assert!(
            refused(json!([{ "rfilename": "a", "lfs": { "sha256": "0", "size": 1 } }])).contains("SHA-256")
        );
        let many: Vec<Value> =
            (0..=MAX_FILES).map(|i| json!({ "rfilename": i.to_string(), "size": 1 })).collect();
        assert!(refused(many.into()).contains("more than 100000"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_left_out_and_places_are_distinct() {
        let names = [
            "../x",
            "a/../x",
            "/x",
            "a//x",
            "./x",
            "x\u{1b}[2J",
            "a\\x",
            "",
            "a/",
            "Q4/x.gguf",
            "Q8/x.gguf",
            "x.gguf",
        ];
        let siblings: Vec<Value> = names.iter().map(|name| json!({ "rfilename": name, "size": 1 })).collect();
        let snapshot = read(siblings.into()).unwrap();
        let places: Vec<_> = snapshot.files.values().map(RemoteFile::local).collect();
        assert_eq!(places, ["Q4%2Fx.gguf", "Q8%2Fx.gguf", "x.gguf"].map(PathBuf::from));
    }
}
