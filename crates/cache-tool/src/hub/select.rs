//! Which files of a repository a model needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::Context;
use serde::Deserialize;

use super::{RemoteFile, Snapshot};

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
/// Without these there is nothing to import.
const REQUIRED: [&str; 2] = ["config.json", TOKENIZER];
const OPTIONAL: [&str; 10] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    INDEX,
];
/// Named chat templates.
const TEMPLATES: &str = "additional_chat_templates/";
/// Most named chat templates.
const MAX_TEMPLATES: usize = 64;
/// Largest `tokenizer.json`, index, and other small file, in bytes: what `import` takes.
const MAX_TOKENIZER: u64 = 128 << 20;
const MAX_INDEX: u64 = 64 << 20;
const MAX_SETTINGS: u64 = 32 << 20;
/// File names that an error lists at most.
const MAX_LISTED: usize = 20;

/// Which file has which tensor.
#[derive(Deserialize)]
pub(crate) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads a file that is no larger than [`settings()`] allows. `None`: it can't be read, and is not needed, since one
    /// file has the whole model.
    pub(crate) fn read(path: &Path, snapshot: &Snapshot) -> anyhow::Result<Option<Self>> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        match serde_json::from_slice(&bytes) {
            Err(_) if snapshot.files.contains_key(WHOLE) => Ok(None),
            read => read.map(Some).map_err(|error| {
                snapshot
                    .repository
                    .error(format!("its {INDEX} does not say which file has which tensor: {error}"))
            }),
        }
    }
}

/// A single GGUF file.
pub(crate) fn gguf_file<'a>(snapshot: &'a Snapshot, path: &str) -> anyhow::Result<&'a RemoteFile> {
    let found = snapshot.files.get(path).filter(|file| is_gguf(file));
    found.ok_or_else(|| {
        let reason = match listed_gguf(snapshot) {
            Some(names) => format!("it has no GGUF file `{path}`; its GGUF files are: {names}"),
            None => format!("it has no GGUF file `{path}`, and no other one"),
        };
        snapshot.repository.error(reason)
    })
}

/// The small files of a model in safetensors; the index of its weights may be one of them.
pub(crate) fn settings(snapshot: &Snapshot) -> anyhow::Result<Vec<&RemoteFile>> {
    let refused = |reason: String| Err(snapshot.repository.error(reason));
    if !snapshot.files.values().any(is_weights) {
        return refused(match listed_gguf(snapshot) {
            Some(names) => format!("it has GGUF files; name one with --file: {names}"),
            None => "it has neither safetensors nor GGUF files".to_owned(),
        });
    }
    if let Some(missing) = REQUIRED.iter().find(|name| !snapshot.files.contains_key(**name)) {
        return refused(format!(
            "it has no {missing}, which models here need; look for a conversion of it that has one"
        ));
    }
    let named = REQUIRED.iter().chain(&OPTIONAL).filter_map(|name| snapshot.files.get(*name));
    let templates: Vec<_> = snapshot.files.values().filter(|file| is_template(file)).collect();
    if templates.len() > MAX_TEMPLATES {
        return refused(format!("it has {} chat templates, more than {MAX_TEMPLATES}", templates.len()));
    }
    let modules = snapshot.files.values().filter(|file| file.is_of_module());
    let settings: Vec<_> = named.chain(templates).chain(modules).collect();
    match settings.iter().find(|file| file.size > max_size(file)) {
        Some(file) => {
            refused(format!("its {} has {} bytes, more than {}", file.path, file.size, max_size(file)))
        }
        None => Ok(settings),
    }
}

/// The weights: those that the index names, if the model has one.
pub(crate) fn weights<'a>(
    snapshot: &'a Snapshot,
    index: Option<&Index>,
) -> anyhow::Result<Vec<&'a RemoteFile>> {
    // Others beside it repeat it in another form.
    let whole = snapshot.files.get(WHOLE);
    let Some(index) = index else {
        let all: Vec<_> = snapshot.files.values().filter(|file| is_weights(file)).collect();
        return match (whole, &all[..]) {
            (Some(file), _) | (None, &[file]) => Ok(vec![file]),
            (None, several) => {
                let reason = format!("it has {} safetensors files and no {INDEX}", several.len());
                Err(snapshot.repository.error(reason))
            }
        };
    };
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let found =
        names.into_iter().map(|name| snapshot.files.get(name).filter(|it| is_weights(it)).ok_or(name));
    match (found.collect::<Result<Vec<_>, _>>(), whole) {
        (Ok(files), _) => Ok(files),
        // The index is left over from another form of the model; `import` sees that, too.
        (Err(_), Some(whole)) => Ok(vec![whole]),
        (Err(name), None) => {
            Err(snapshot.repository.error(format!("its {INDEX} names `{name}`, which it does not have")))
        }
    }
}

/// The index, if it is among the files.
pub(crate) fn index_of<'a>(files: &[&'a RemoteFile]) -> Option<&'a RemoteFile> {
    files.iter().find(|file| file.path == INDEX).copied()
}

fn listed_gguf(snapshot: &Snapshot) -> Option<String> {
    let names: Vec<&str> =
        snapshot.files.values().filter(|file| is_gguf(file)).map(|file| file.path.as_str()).collect();
    let more = if names.len() > MAX_LISTED { ", …" } else { "" };
    (!names.is_empty()).then(|| names[..names.len().min(MAX_LISTED)].join(", ") + more)
}

fn is_gguf(file: &RemoteFile) -> bool {
    let name = file.name();
    name.len() > ".gguf".len() && name.to_ascii_lowercase().ends_with(".gguf") && !name.starts_with('.')
}

/// Weights in the top folder.
fn is_weights(file: &RemoteFile) -> bool {
    !file.path.contains('/') && file.path.ends_with(".safetensors")
}

fn is_template(file: &RemoteFile) -> bool {
    let name = file.path.strip_prefix(TEMPLATES);
    name.is_some_and(|name| !name.contains('/') && name.ends_with(".jinja") && !name.starts_with('.'))
}

fn max_size(file: &RemoteFile) -> u64 {
    match file.path.as_str() {
        TOKENIZER => MAX_TOKENIZER,
        INDEX => MAX_INDEX,
        _ => MAX_SETTINGS,
    }
}
