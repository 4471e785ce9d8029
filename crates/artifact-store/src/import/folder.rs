//! A folder as Hugging Face and mlx-community publish models: its small files, and which weights it has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::BufReader,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::source::{self, Snapshot, SourceFile};
use crate::{
    FileRole, StoreError, TensorEntry,
    store::file_names,
    weights::{self, HeaderTensor},
};

/// Largest configuration or index file, in bytes.
const MAX_SETTINGS: u64 = 64 << 20;
/// Largest `tokenizer.json`, in bytes; the largest in use are about 35 MB.
const MAX_TOKENIZER: u64 = 512 << 20;
pub(super) const CONFIG: &str = "config.json";
/// Files that are kept for reference; the manifest has what loading needs of them.
const SETTINGS: [&str; 4] =
    [CONFIG, "generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// A folder, with its small files read.
pub(super) struct Folder {
    path: PathBuf,
    pub(super) config: Value,
    generation_config: Value,
    tokenizer: Value,
    tokenizer_config: Value,
    /// Sorted by name.
    pub(super) shards: Vec<Shard>,
    /// What the index says: tensor to file name. Empty without an index.
    weight_map: BTreeMap<String, String>,
    /// What each file was when it was read.
    seen: Vec<(PathBuf, Snapshot)>,
}

/// A weights file.
pub(super) struct Shard {
    pub(super) name: String,
    /// In the order of their data.
    pub(super) tensors: Vec<HeaderTensor>,
}

/// Chat templates by name; the default one is named `default`.
pub(super) type Templates = BTreeMap<String, String>;

impl Folder {
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let mut seen = Vec::new();
        let mut read = |name: &str, limit| read_json(&path.join(name), limit, &mut seen);
        let config = read(CONFIG, MAX_SETTINGS)?;
        if config["model_type"].as_str().is_none() {
            return Err(StoreError::bad_source(&path.join(CONFIG), "it has no \"model_type\""));
        }
        let tokenizer = read("tokenizer.json", MAX_TOKENIZER)?;
        if !tokenizer["model"].is_object() {
            let reason = "it has no \"model\": it is not of the tokenizers library";
            return Err(StoreError::bad_source(&path.join("tokenizer.json"), reason));
        }
        let mut optional =
            |name: &str| if path.join(name).exists() { read(name, MAX_SETTINGS) } else { Ok(Value::Null) };
        let generation_config = optional("generation_config.json")?;
        let tokenizer_config = optional("tokenizer_config.json")?;
        let index = "model.safetensors.index.json";
        let weight_map = weight_map(&optional(index)?, &path.join(index))?;
        let names = match weight_map.values().cloned().collect::<BTreeSet<_>>() {
            named if named.is_empty() => vec![only_shard(path)?],
            named => named.into_iter().collect(),
        };
        let shards =
            names.into_iter().map(|name| Shard::read(path, name, &mut seen)).collect::<Result<_, _>>()?;
        let path = path.to_owned();
        let folder =
            Self { path, config, generation_config, tokenizer, tokenizer_config, shards, weight_map, seen };
        folder.check_index()?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error if a file is not what it was when it was read.
    pub(super) fn check_unchanged(&self) -> Result<(), StoreError> {
        self.seen.iter().try_for_each(|(path, then)| then.check(path))
    }

    /// What is stored beside the weights.
    pub(super) fn other_files(&self) -> Result<Vec<(FileRole, String)>, StoreError> {
        let mut files = vec![(FileRole::Tokenizer, "tokenizer.json".to_owned())];
        let present = file_names(&self.path)?;
        let settings = SETTINGS.iter().filter(|name| present.iter().any(|other| other == *name));
        files.extend(settings.map(|name| (FileRole::Settings, (*name).to_owned())));
        Ok(files)
    }

    /// `chat_template.jinja` counts more than `tokenizer_config.json`, which
    /// holds one template or a list of named ones.
    pub(super) fn chat_templates(&mut self) -> Result<Templates, StoreError> {
        let mut templates = Templates::new();
        match &self.tokenizer_config["chat_template"] {
            Value::String(template) => {
                templates.insert("default".to_owned(), template.clone());
            }
            Value::Array(named) => {
                for entry in named {
                    if let (Some(name), Some(template)) = (entry["name"].as_str(), entry["template"].as_str())
                    {
                        templates.insert(name.to_owned(), template.to_owned());
                    }
                }
            }
            _ => {}
        }
        let path = self.path.join("chat_template.jinja");
        if path.exists() {
            let (bytes, then) = source::read(&path, MAX_SETTINGS)?;
            self.seen.push((path.clone(), then));
            let text = String::from_utf8(bytes)
                .map_err(|_| StoreError::bad_source(&path, "it is not UTF-8 text"))?;
            templates.insert("default".to_owned(), text);
        }
        Ok(templates)
    }

    /// Text of the tokens that begin and end a sequence.
    pub(super) fn special_tokens(&self) -> [Option<String>; 2] {
        ["bos_token", "eos_token"].map(|key| token_text(&self.tokenizer_config[key]))
    }

    /// Every end token that any of the files names.
    pub(super) fn eos_token_ids(&self) -> Vec<u32> {
        let mut ids = BTreeSet::new();
        for config in [&self.generation_config, &self.config, &self.config["text_config"]] {
            match &config["eos_token_id"] {
                Value::Array(several) => ids.extend(several.iter().filter_map(token_id)),
                one => ids.extend(token_id(one)),
            }
        }
        let text = token_text(&self.tokenizer_config["eos_token"]);
        let added = self.tokenizer["added_tokens"].as_array().into_iter().flatten();
        let named = added.filter(|token| text.is_some() && token["content"].as_str() == text.as_deref());
        ids.extend(named.filter_map(|token| token_id(&token["id"])));
        ids.into_iter().collect()
    }

    /// Every tensor of the source is where the index says it is.
    fn check_index(&self) -> Result<(), StoreError> {
        let tensors =
            |shard: &'_ Shard| shard.tensors.iter().map(|tensor| tensor.name.clone()).collect::<HashSet<_>>();
        let homes: HashMap<&str, _> =
            self.shards.iter().map(|shard| (shard.name.as_str(), tensors(shard))).collect();
        for (tensor, shard) in &self.weight_map {
            if !homes.get(shard.as_str()).is_some_and(|tensors| tensors.contains(tensor)) {
                let reason =
                    format!("the index places tensor `{tensor}` here, and it is not; download it again");
                return Err(StoreError::bad_source(&self.path.join(shard), reason));
            }
        }
        Ok(())
    }

    /// Every tensor of the artifact once.
    pub(super) fn check_names(&self, tensors: &[TensorEntry]) -> Result<(), StoreError> {
        let mut homes = HashMap::new();
        for tensor in tensors {
            let shard = self.shards[tensor.file].name.as_str();
            if let Some(other) = homes.insert(&tensor.name, shard) {
                let reason = format!("tensor `{}` is in `{other}` too", tensor.name);
                return Err(StoreError::bad_source(&self.path.join(shard), reason));
            }
        }
        Ok(())
    }
}

impl Shard {
    fn read(folder: &Path, name: String, seen: &mut Vec<(PathBuf, Snapshot)>) -> Result<Self, StoreError> {
        let path = folder.join(&name);
        let file = SourceFile::open(&path)?;
        let tensors = read_header(&file, &path)?;
        seen.push((path, file.snapshot().clone()));
        Ok(Self { name, tensors })
    }

    /// Whether each tensor starts at a multiple of its element's size, so that it can be used where it is mapped.
    pub(super) fn is_aligned(&self) -> bool {
        let aligned =
            |tensor: &HeaderTensor| tensor.offset.is_multiple_of((tensor.dtype.bitsize() as u64).div_ceil(8));
        self.tensors.iter().all(aligned)
    }
}

/// `named` is the file that an error names.
pub(super) fn read_header(file: &SourceFile, named: &Path) -> Result<Vec<HeaderTensor>, StoreError> {
    weights::read_header(&mut BufReader::new(file.reader()), file.len())
        .map_err(|error| StoreError::bad_source(named, error.to_string()))
}

/// The weights of a folder without an index.
fn only_shard(folder: &Path) -> Result<String, StoreError> {
    let mut found = file_names(folder)?;
    found.retain(|name| name.ends_with(".safetensors"));
    if let Some(place) = found.iter().position(|name| name == "model.safetensors") {
        return Ok(found.swap_remove(place));
    }
    match <[String; 1]>::try_from(found) {
        Ok([name]) => Ok(name),
        Err(found) if found.is_empty() => Err(StoreError::bad_source(
            folder,
            "it has no safetensors file; other formats have to be converted first",
        )),
        Err(found) => {
            let reason = format!("{} safetensors files and no model.safetensors.index.json", found.len());
            Err(StoreError::bad_source(folder, reason))
        }
    }
}

/// Of an index; empty if there is none. File names that are more than a name could lead out of the folder and are
/// refused.
fn weight_map(index: &Value, path: &Path) -> Result<BTreeMap<String, String>, StoreError> {
    if index.is_null() {
        return Ok(BTreeMap::new());
    }
    let bad = |reason: &str| StoreError::bad_source(path, reason);
    let map = index["weight_map"].as_object().ok_or_else(|| bad("it has no \"weight_map\""))?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().ok_or_else(|| bad("a file name in \"weight_map\" is not text"))?;
        let plain =
            Path::new(shard).file_name().is_some_and(|name| name == shard) && !shard.contains(['/', '\\']);
        if !plain || !shard.ends_with(".safetensors") {
            return Err(bad(&format!("`{shard}` is not the name of a safetensors file in this folder")));
        }
        weight_map.insert(tensor.clone(), shard.to_owned());
    }
    if weight_map.is_empty() { Err(bad("its \"weight_map\" is empty")) } else { Ok(weight_map) }
}

fn read_json(path: &Path, limit: u64, seen: &mut Vec<(PathBuf, Snapshot)>) -> Result<Value, StoreError> {
    let (bytes, then) = source::read(path, limit)?;
    seen.push((path.to_owned(), then));
    serde_json::from_slice(&bytes).map_err(|error| StoreError::bad_source(path, format!("not JSON: {error}")))
}

/// A token is written as its text, or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}
