//! A folder as Hugging Face and mlx-community publish models.
//!
//! Its weights are stored unchanged, one blob a file.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::source;
use crate::{
    Digest, FileEntry, FileRole, ImportEvent, Manifest, Observer, Source, SourceFormat, StoreError,
    TensorEntry,
    error::IoContext,
    manifest::FORMAT,
    observer::tell,
    store::file_names,
    weights,
    writer::{Staged, Writer},
};

/// Largest configuration or index file, in bytes.
const MAX_SETTINGS: u64 = 64 << 20;
/// Largest `tokenizer.json`, in bytes; the largest in use are about 35 MB.
const MAX_TOKENIZER: u64 = 512 << 20;
const COPY_BUFFER: usize = 1 << 20;
/// Files whose content the manifest takes over, kept for reference.
const SETTINGS: [&str; 4] =
    ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// A folder, with its small files read.
struct Folder {
    path: PathBuf,
    config: Value,
    generation_config: Value,
    tokenizer: Value,
    tokenizer_config: Value,
    /// File names of the weights, sorted.
    shards: Vec<String>,
    /// What the index says: tensor to file name. Empty without an index.
    weight_map: BTreeMap<String, String>,
}

/// Chat templates by name; the default one is named `default`.
type Templates = BTreeMap<String, String>;

pub(super) fn stage(
    writer: &Writer<'_>,
    path: &Path,
    observer: &mut Observer<'_>,
) -> Result<(Manifest, Vec<Staged>), StoreError> {
    let folder = Folder::read(path)?;
    let mut templates = folder.chat_templates()?;
    let sources = folder.files()?;
    let sizes = sources.iter().map(|(_, name)| Ok(source::metadata(&path.join(name))?.len()));
    let sizes = sizes.collect::<Result<Vec<u64>, StoreError>>()?;
    tell(observer, ImportEvent::Planned(sizes.iter().sum()))?;

    let known: BTreeMap<Digest, u64> = writer.used_blobs().unwrap_or_default();
    let mut manifest = Manifest {
        format: FORMAT,
        source: Source { format: SourceFormat::HuggingFace, digest: None },
        transforms: Vec::new(),
        config: folder.config.clone(),
        chat_template: templates.remove("default"),
        named_chat_templates: templates,
        bos_token: token_text(&folder.tokenizer_config["bos_token"]),
        eos_token: token_text(&folder.tokenizer_config["eos_token"]),
        eos_token_ids: folder.eos_token_ids(),
        files: Vec::new(),
        tensors: Vec::new(),
    };
    let mut files = Vec::new();
    for (index, (role, name)) in sources.into_iter().enumerate() {
        let staged = stage_file(writer, &path.join(&name), &known, observer)?;
        if role == FileRole::Weights {
            // The header of the bytes that were hashed, not of a file that may change.
            let tensors = read_header(&writer.staged_path(&staged), &path.join(&name))?;
            manifest.tensors.extend(tensors.into_iter().map(|tensor| tensor_entry(tensor, index)));
        }
        manifest.files.push(FileEntry { role, name, blob: staged.digest, size: staged.size });
        files.push(staged);
    }
    folder.check_tensors(&manifest)?;
    Ok((manifest, files))
}

impl Folder {
    fn read(path: &Path) -> Result<Self, StoreError> {
        let config = read_json(&path.join("config.json"), MAX_SETTINGS)?;
        if config["model_type"].as_str().is_none() {
            return Err(StoreError::bad_source(&path.join("config.json"), "it has no \"model_type\""));
        }
        let tokenizer = read_json(&path.join("tokenizer.json"), MAX_TOKENIZER)?;
        if !tokenizer["model"].is_object() {
            let reason = "it has no \"model\": it is not of the tokenizers library";
            return Err(StoreError::bad_source(&path.join("tokenizer.json"), reason));
        }
        let weight_map = read_weight_map(&path.join("model.safetensors.index.json"))?;
        let shards = match weight_map.values().cloned().collect::<BTreeSet<_>>() {
            named if named.is_empty() => vec![only_shard(path)?],
            named => named.into_iter().collect(),
        };
        // All of this again on the copied bytes; here before hours of copying.
        for shard in &shards {
            let shard = path.join(shard);
            read_header(&shard, &shard)?;
        }
        Ok(Self {
            path: path.to_owned(),
            config,
            generation_config: read_optional_json(&path.join("generation_config.json"))?,
            tokenizer,
            tokenizer_config: read_optional_json(&path.join("tokenizer_config.json"))?,
            shards,
            weight_map,
        })
    }

    /// What is stored: the weights first.
    fn files(&self) -> Result<Vec<(FileRole, String)>, StoreError> {
        let mut files: Vec<_> = self.shards.iter().map(|name| (FileRole::Weights, name.clone())).collect();
        files.push((FileRole::Tokenizer, "tokenizer.json".to_owned()));
        let present = file_names(&self.path)?;
        let settings = SETTINGS.iter().filter(|name| present.iter().any(|other| other == *name));
        files.extend(settings.map(|name| (FileRole::Settings, (*name).to_owned())));
        Ok(files)
    }

    /// `chat_template.jinja` counts more than `tokenizer_config.json`, which
    /// holds one template or a list of named ones.
    fn chat_templates(&self) -> Result<Templates, StoreError> {
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
            let text = String::from_utf8(source::read(&path, MAX_SETTINGS)?)
                .map_err(|_| StoreError::bad_source(&path, "it is not UTF-8 text"))?;
            templates.insert("default".to_owned(), text);
        }
        Ok(templates)
    }

    /// Every end token that any of the files names.
    fn eos_token_ids(&self) -> Vec<u32> {
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

    /// Every tensor once, and where the index says it is.
    fn check_tensors(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut homes: HashMap<&str, &str> = HashMap::new();
        for tensor in &manifest.tensors {
            let shard = manifest.files[tensor.file].name.as_str();
            if let Some(other) = homes.insert(&tensor.name, shard) {
                let reason = format!("tensor `{}` is in `{other}` too", tensor.name);
                return Err(StoreError::bad_source(&self.path.join(shard), reason));
            }
        }
        for (tensor, shard) in &self.weight_map {
            if homes.get(tensor.as_str()) != Some(&shard.as_str()) {
                let reason =
                    format!("the index places tensor `{tensor}` here, and it is not; download it again");
                return Err(StoreError::bad_source(&self.path.join(shard), reason));
            }
        }
        Ok(())
    }
}

/// Copies a file to `tmp/`, unless the store has the same bytes already.
fn stage_file(
    writer: &Writer<'_>,
    path: &Path,
    known: &BTreeMap<Digest, u64>,
    observer: &mut Observer<'_>,
) -> Result<Staged, StoreError> {
    let (mut file, size) = source::open(path)?;
    // Reading twice is worth it only where a blob of this size exists.
    if known.values().any(|&other| other == size) {
        let (digest, read) = Digest::of_reader(&mut file).context("read", path)?;
        if let Some(stored) = writer.stored(digest, read) {
            tell(observer, ImportEvent::Advanced(size))?;
            return Ok(stored);
        }
        file = source::open(path)?.0;
    }
    writer.check_space(size)?;
    writer.stage(|out| {
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            let n = file.read(&mut buffer).context("read", path)?;
            if n == 0 {
                return Ok(());
            }
            out.write_all(&buffer[..n]).context("copy", path)?;
            tell(observer, ImportEvent::Advanced(n as u64))?;
        }
    })
}

/// `named` is the file that an error names.
fn read_header(path: &Path, named: &Path) -> Result<Vec<weights::HeaderTensor>, StoreError> {
    let (file, size): (File, u64) = source::open(path)?;
    weights::read_header(&mut BufReader::new(file), size)
        .map_err(|error| StoreError::bad_source(named, error.to_string()))
}

fn tensor_entry(tensor: weights::HeaderTensor, file: usize) -> TensorEntry {
    let weights::HeaderTensor { name, dtype, shape, offset, len } = tensor;
    TensorEntry { name, dtype, shape, file, offset, len }
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

/// Empty if there is no such file. File names that are more than a name could
/// lead out of the folder and are refused.
fn read_weight_map(path: &Path) -> Result<BTreeMap<String, String>, StoreError> {
    let index = read_optional_json(path)?;
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

fn read_json(path: &Path, limit: u64) -> Result<Value, StoreError> {
    let bytes = source::read(path, limit)?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::bad_source(path, format!("not JSON: {error}")))
}

/// Null if there is no such file.
fn read_optional_json(path: &Path) -> Result<Value, StoreError> {
    if path.exists() { read_json(path, MAX_SETTINGS) } else { Ok(Value::Null) }
}

/// A token is written as its text, or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}
