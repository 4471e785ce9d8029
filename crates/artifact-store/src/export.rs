//! Writing an artifact as a folder that other programs open.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    Artifact, FileRole, ImportEvent, Manifest, Observer, StoreError, error::IoContext, files::folder_of,
    observer::tell, python_json,
};

const CONFIG: &str = "config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const TEMPLATES: &str = "additional_chat_templates";
const INDEX: &str = "model.safetensors.index.json";
/// The weights of a module, in its own folder.
const MODULE_WEIGHTS: &str = "model.safetensors";
/// What others may do with exported files; the umask of the process is not asked.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// What [`Artifact::export`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The folder.
    pub folder: PathBuf,
    /// Names of the files in it, sorted.
    pub files: Vec<String>,
    /// Bytes of these.
    pub bytes: u64,
}

impl Artifact {
    /// Writes the artifact to `folder`, which must not exist or be empty, as
    /// Hugging Face and mlx-community publish models: weights, tokenizer,
    /// `config.json`, settings, chat template. Importing that folder stores no
    /// weights anew. Where the file system can, copies share their blocks with
    /// the store. The folder appears when it is complete.
    pub fn export(&self, folder: &Path, observer: &mut Observer<'_>) -> Result<Exported, StoreError> {
        let is_free = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => fs::symlink_metadata(folder).is_err(),
        };
        if !is_free {
            return Err(StoreError::ExportTarget(folder.to_owned()));
        }
        let parent = match folder_of(folder) {
            parent if parent.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        };
        fs::create_dir_all(parent).context("create", parent)?;
        let prefix = tempfile::Builder::new().prefix(".export-").tempdir_in(parent);
        let staged = prefix.context("create a folder in", parent)?;
        tell(observer, ImportEvent::Planned(self.manifest.files.iter().map(|file| file.size).sum()))?;
        self.copy_files(staged.path(), observer)?;
        for (name, bytes) in self.made_files()? {
            let path = staged.path().join(name);
            fs::write(&path, bytes).context("write", &path)?;
        }

        fs::set_permissions(staged.path(), Permissions::from_mode(FOLDER_MODE)).context("protect", folder)?;
        fs::rename(staged.path(), folder).context("move the exported files to", folder)?;
        drop(staged.keep());
        exported(folder)
    }

    /// The blobs, under their names.
    fn copy_files(&self, folder: &Path, observer: &mut Observer<'_>) -> Result<(), StoreError> {
        for file in &self.manifest.files {
            if !is_plain(&file.name) {
                let manifest = self.store.layout.manifest(self.digest);
                return Err(StoreError::damaged(&manifest, format!("`{}` is not a file name", file.name)));
            }
            let path = folder.join(&file.name);
            if folder_of(&path) != folder {
                fs::create_dir_all(folder_of(&path)).context("create", &path)?;
            }
            drop(self.open_blob(file)?);
            // The kernel copies, sharing blocks where the file system can.
            fs::copy(self.blob_path(file), &path).context("write", &path)?;
            fs::set_permissions(&path, Permissions::from_mode(FILE_MODE)).context("protect", &path)?;
            tell(observer, ImportEvent::Advanced(file.size))?;
        }
        Ok(())
    }

    /// What the blobs do not have and the manifest knows.
    fn made_files(&self) -> Result<BTreeMap<&'static str, Vec<u8>>, StoreError> {
        let manifest = &self.manifest;
        let mut files = BTreeMap::new();
        // What mlx-lm reads of an adapter is what is stored.
        if manifest.base.is_some() {
            return Ok(files);
        }
        let mut add = |name, value: &Value| -> Result<(), StoreError> {
            let bytes = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
            files.insert(name, bytes.context("write", Path::new(name))?);
            Ok(())
        };
        // Import may have changed the weights, and the configuration with them.
        if self.stored_config()?.as_ref() != Some(&manifest.config) {
            add(CONFIG, &manifest.config)?;
        }
        let has = |name: &str| manifest.files.iter().any(|file| file.name == name);
        let writes_tokenizer_config = !has(TOKENIZER_CONFIG);
        if writes_tokenizer_config {
            add(TOKENIZER_CONFIG, &tokenizer_config(manifest))?;
        }
        if !has(GENERATION_CONFIG) && !manifest.eos_token_ids.is_empty() {
            add(GENERATION_CONFIG, &json!({ "eos_token_id": manifest.eos_token_ids }))?;
        }
        if self.files(FileRole::Weights).filter(|(_, file)| !file.name.contains('/')).count() > 1 {
            add(INDEX, &index(manifest))?;
        }
        if let Some(template) = manifest.chat_template.as_ref().filter(|_| writes_tokenizer_config)
            && !has(CHAT_TEMPLATE)
        {
            files.insert(CHAT_TEMPLATE, template.clone().into_bytes());
        }
        Ok(files)
    }

    /// The `config.json` that came with the source, if it was kept.
    fn stored_config(&self) -> Result<Option<Value>, StoreError> {
        let Some(file) = self.manifest.files.iter().find(|file| file.name == CONFIG) else { return Ok(None) };
        Ok(python_json::from_slice(&self.read_blob(file)?).ok())
    }
}

/// Whether a name stays in the folder: it is that of a file in it, in its folder of named chat templates, or of the settings
/// or the weights in another folder.
fn is_plain(name: &str) -> bool {
    let part = match name.split_once('/') {
        Some((TEMPLATES, file)) => file,
        Some((folder, CONFIG | MODULE_WEIGHTS)) => folder,
        _ => name,
    };
    Path::new(part).file_name().is_some_and(|file| file == part)
}

/// What the tokenizer's user has to know, as Hugging Face's library reads it.
fn tokenizer_config(manifest: &Manifest) -> Value {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    let mut add = |key: &str, value: Option<Value>| value.map(|value| config.insert(key.into(), value));
    add("bos_token", manifest.bos_token.clone().map(Value::from));
    add("eos_token", manifest.eos_token.clone().map(Value::from));
    let default = manifest.chat_template.clone();
    if manifest.named_chat_templates.is_empty() {
        add("chat_template", default.map(Value::from));
    } else {
        let named = manifest.named_chat_templates.iter().map(|(name, text)| (name.clone(), text.clone()));
        let all = default.map(|text| ("default".to_owned(), text)).into_iter().chain(named);
        let list: Vec<Value> =
            all.map(|(name, template)| json!({ "name": name, "template": template })).collect();
        add("chat_template", Some(list.into()));
    }
    config.into()
}

/// Which tensor is in which shard. Those of modules in folders of their own are not the model's.
fn index(manifest: &Manifest) -> Value {
    let file = |tensor: &crate::TensorEntry| {
        manifest.files.get(tensor.file).map(|file| file.name.as_str()).filter(|name| !name.contains('/'))
    };
    let own = manifest.tensors.iter().filter_map(|tensor| Some((tensor, file(tensor)?)));
    let total: u64 = own.clone().map(|(tensor, _)| tensor.len).sum();
    let map: Map<String, Value> =
        own.map(|(tensor, file)| (tensor.name.clone(), Value::from(file.to_owned()))).collect();
    json!({ "metadata": { "total_size": total }, "weight_map": map })
}

fn exported(folder: &Path) -> Result<Exported, StoreError> {
    let mut files = crate::files::file_names(folder)?;
    let folders: Vec<String> = files.extract_if(.., |name| folder.join(name).is_dir()).collect();
    for inner in folders {
        let names = crate::files::file_names(&folder.join(&inner))?;
        files.extend(names.into_iter().map(|name| format!("{inner}/{name}")));
    }
    files.sort();
    let sizes = files.iter().map(|name| fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len()));
    Ok(Exported { folder: folder.to_owned(), bytes: sizes.sum(), files })
}
