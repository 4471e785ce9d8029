//! A folder as Hugging Face and mlx-community publish models: its small files, and which weights it has.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{
    embedding::{self, EmbeddingFiles},
    foreign::{self, ForeignMatrices},
    gpt_oss,
    root::Root,
    servable,
    shards::Shards,
    source::SourceFile,
    templates::{self, Templates},
    tokens::{Additions, TokenFiles},
    vocabulary::Vocabulary,
};
use crate::{FileRole, StoreError, python_json, weights::HeaderTensor};

/// Largest `config.json`, in bytes; with settings for each of many modules, they have some hundred thousand.
const MAX_CONFIG: u64 = 8 << 20;
/// Largest other file of settings, in bytes; with thousands of added tokens, they have about a million.
const MAX_SETTINGS: u64 = 32 << 20;
/// Largest `tokenizer.json`, in bytes; the largest in use are about 35 MB.
pub(super) const MAX_TOKENIZER: u64 = 128 << 20;
pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
/// Files that are kept for reference; the manifest has what loading needs of them.
const SETTINGS: [&str; 7] = [
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    ADDED_TOKENS,
    "chat_template.jinja",
    "chat_template.json",
];
/// Tensors that have a row for each token, by the end of their names.
const EMBEDDINGS: [&str; 4] =
    ["embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "word_embeddings.weight"];
/// Tokens that a warning names.
const MAX_NAMED: usize = 3;

/// A folder, with its small files read.
pub(super) struct Folder {
    pub(super) root: Root,
    pub(super) config: Value,
    /// `tokenizer.json` with what only other files say, if they say anything.
    pub(super) tokenizer: Option<Vec<u8>>,
    pub(super) shards: Shards,
    /// What another program has packed.
    pub(super) foreign: ForeignMatrices,
    pub(super) templates: Templates,
    /// Texts of special tokens, by their names.
    pub(super) special_tokens: BTreeMap<String, String>,
    /// Ascending.
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) embedding: EmbeddingFiles,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

/// Refuses a `config.json` of a model that could not be served, for example before its weights are downloaded.
///
/// # Errors
/// [`StoreError::BadSource`] with the reason.
pub fn check_config_file(path: &Path) -> Result<(), StoreError> {
    let bad = |reason: String| StoreError::bad_source(path, reason);
    let bytes = SourceFile::open(path)?.read_all(MAX_CONFIG)?;
    let config = python_json::from_slice(&bytes).map_err(|error| bad(error.reason()))?;
    servable::check_config(&config).map_err(|reason| bad(reason.to_string()))
}

impl Folder {
    /// Reads the folder. Whatever the store can't serve or read again is refused.
    pub(super) fn read(path: &Path, store_blobs: &Path) -> Result<Self, StoreError> {
        let mut root = Root::open(path, store_blobs)?;
        let config = read_json(&mut root, CONFIG, MAX_CONFIG)?;
        let bad_config = |reason: String| StoreError::bad_source(&path.join(CONFIG), reason);
        if config["model_type"].as_str().is_none() {
            return Err(bad_config("it has no \"model_type\"".to_owned()));
        }
        servable::check_config(&config).map_err(|reason| bad_config(reason.to_string()))?;
        let bad_tokenizer = |reason: String| StoreError::bad_source(&path.join(TOKENIZER), reason);
        let tokenizer = root.read(TOKENIZER, MAX_TOKENIZER)?;
        let mut vocabulary = Vocabulary::read(&tokenizer).map_err(bad_tokenizer)?;
        let mut optional = |name| read_optional_json(&mut root, name);
        let tokenizer_config = optional(TOKENIZER_CONFIG)?;
        let files = TokenFiles {
            config: &config,
            generation_config: &optional(GENERATION_CONFIG)?,
            tokenizer_config: &tokenizer_config,
            special_tokens_map: &optional(SPECIAL_TOKENS_MAP)?,
            added_tokens: &optional(ADDED_TOKENS)?,
            vocabulary: &vocabulary,
        };
        let special_tokens = files.special_tokens().map_err(|reason| StoreError::bad_source(path, reason))?;
        let eos_token_ids = files.end_tokens().map_err(|reason| StoreError::bad_source(path, reason))?;
        let additions = files.additions();
        let tokenizer = completed(&tokenizer, &additions, files.post_processor()).map_err(bad_tokenizer)?;
        if let Some(bytes) = &tokenizer {
            vocabulary = Vocabulary::read(bytes).map_err(bad_tokenizer)?;
        }
        let templates = templates::read(&mut root, &tokenizer_config)?;
        let embedding = embedding::read(&mut root)?;
        let mut shards = Shards::read(&mut root)?;
        for module in embedding.config.iter().flat_map(|config| &config.dense) {
            shards.add_module(&mut root, &module.name)?;
        }
        let foreign = match foreign::said(&config).map_err(bad_config)? {
            Some(said) => ForeignMatrices::read(&root, &shards, &said)?,
            None => ForeignMatrices::default(),
        };
        // Import takes these blocks apart.
        let is_blocks = |name: &str| gpt_oss::is_original(&config) && name.ends_with("_blocks");
        let is_taken = |tensor: &&HeaderTensor| is_blocks(&tensor.name) || foreign.takes(&tensor.name);
        servable::check_tensors(shards.tensors().filter(|tensor| !is_taken(tensor)))
            .map_err(|reason| StoreError::bad_source(path, reason.to_string()))?;
        let warnings = [
            shards.warning.clone(),
            misplaced(&additions),
            without_embedding(&vocabulary, &shards, &config),
            embedding.warning.clone(),
        ];
        let warnings = warnings.into_iter().flatten().collect();
        Ok(Self {
            root,
            config,
            tokenizer,
            shards,
            foreign,
            templates,
            special_tokens,
            eos_token_ids,
            embedding,
            warnings,
        })
    }

    /// What is stored beside the weights.
    pub(super) fn other_files(&self) -> Result<Vec<(FileRole, String)>, StoreError> {
        let mut files = vec![(FileRole::Tokenizer, TOKENIZER.to_owned())];
        let present = self.root.names("")?;
        let settings = SETTINGS.iter().filter(|name| present.iter().any(|other| other == *name));
        files.extend(settings.map(|name| (FileRole::Settings, (*name).to_owned())));
        let named = templates::names(&self.root)?.into_iter();
        files.extend(named.map(|name| (FileRole::Settings, format!("{}/{name}", templates::FOLDER))));
        files.extend(self.embedding.names.iter().map(|name| (FileRole::Settings, name.clone())));
        Ok(files)
    }
}

/// `tokenizer.json` with further tokens and another post-processor; `None` without either.
fn completed(
    tokenizer: &[u8],
    additions: &Additions,
    post_processor: Option<Value>,
) -> Result<Option<Vec<u8>>, String> {
    if additions.tokens.is_empty() && post_processor.is_none() {
        return Ok(None);
    }
    let complete = || {
        let mut json: Value = serde_json::from_slice(tokenizer)?;
        let added = &mut json["added_tokens"];
        if !added.is_array() {
            *added = Value::Array(Vec::new());
        }
        if let Value::Array(added) = added {
            added.extend(additions.tokens.iter().cloned());
        }
        if let Some(post_processor) = post_processor {
            json["post_processor"] = post_processor;
        }
        serde_json::to_vec(&json)
    };
    complete().map(Some).map_err(|error: serde_json::Error| error.to_string())
}

fn misplaced(additions: &Additions) -> Option<String> {
    let (text, id) = additions.misplaced.first()?;
    let others = additions.misplaced.len() - 1;
    let more = if others > 0 { format!(" and {others} more") } else { String::new() };
    Some(format!(
        "the settings of the tokenizer define {text:?} as token {id}{more}, which {TOKENIZER} does not have and can't be \
         given; in a prompt it is plain text"
    ))
}

/// Tokens that a prompt can contain and the model has no embedding for. transformers imports such a model too.
fn without_embedding(vocabulary: &Vocabulary, shards: &Shards, config: &Value) -> Option<String> {
    let is_embedding = |name: &str| EMBEDDINGS.iter().any(|end| name.ends_with(end));
    let embedding = shards.tensors().find(|tensor| is_embedding(&tensor.name));
    let said = || config["vocab_size"].as_u64().or(config["text_config"]["vocab_size"].as_u64());
    let rows = embedding.and_then(|tensor| tensor.shape.first().copied()).or_else(said)?;
    let beyond = vocabulary.beyond(rows);
    if beyond.is_empty() {
        return None;
    }
    let named: Vec<_> = beyond.iter().take(MAX_NAMED).map(|(id, text)| format!("{text:?} ({id})")).collect();
    let more = if beyond.len() > MAX_NAMED {
        format!(" and {} more", beyond.len() - MAX_NAMED)
    } else {
        String::new()
    };
    Some(format!(
        "{TOKENIZER} has tokens without an embedding: {}{more}; the model has {rows} embeddings. A prompt that contains \
         one of these tokens can't be answered",
        named.join(", ")
    ))
}

fn read_json(root: &mut Root, name: &str, limit: u64) -> Result<Value, StoreError> {
    let bytes = root.read(name, limit)?;
    python_json::from_slice(&bytes)
        .map_err(|error| StoreError::bad_source(&root.path_of(name), error.reason()))
}

fn read_optional_json(root: &mut Root, name: &str) -> Result<Value, StoreError> {
    match root.read_optional(name, MAX_SETTINGS)? {
        None => Ok(Value::Null),
        Some(bytes) => python_json::from_slice(&bytes)
            .map_err(|error| StoreError::bad_source(&root.path_of(name), error.reason())),
    }
}
