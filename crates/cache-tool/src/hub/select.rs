//! Which files of a repository a model needs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{RemoteFile, Snapshot};

const INDEX: &str = "model.safetensors.index.json";
/// Without these there is nothing to import.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 4] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", INDEX];
/// File names that an error lists at most.
const MAX_LISTED: usize = 20;

/// A single GGUF file.
pub(crate) fn gguf_file<'a>(snapshot: &'a Snapshot, path: &str) -> anyhow::Result<&'a RemoteFile> {
    let found = snapshot.files.iter().find(|file| file.path == path && is_gguf(file));
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
    let find = |name: &str| snapshot.files.iter().find(|file| file.path == name);
    if !snapshot.files.iter().any(|file| is_top_level(file) && file.path.ends_with(".safetensors")) {
        let reason = match listed_gguf(snapshot) {
            Some(names) => format!("it has GGUF files; name one with --file: {names}"),
            None => "it has neither safetensors nor GGUF files".to_owned(),
        };
        return Err(snapshot.repository.error(reason));
    }
    if let Some(missing) = REQUIRED.iter().find(|name| find(name).is_none()) {
        let reason =
            format!("it has no {missing}, which models here need; look for a conversion of it that has one");
        return Err(snapshot.repository.error(reason));
    }
    Ok(REQUIRED.iter().chain(&OPTIONAL).filter_map(|name| find(name)).collect())
}

/// The weights: those that the index names, if the model has one.
pub(crate) fn weights<'a>(
    snapshot: &'a Snapshot,
    index: Option<&Value>,
) -> anyhow::Result<Vec<&'a RemoteFile>> {
    let top_level = |file: &&RemoteFile| is_top_level(file) && file.path.ends_with(".safetensors");
    let Some(index) = index else {
        let all: Vec<_> = snapshot.files.iter().filter(top_level).collect();
        // Others beside it repeat it in another form.
        let main = all.iter().find(|file| file.path == "model.safetensors").copied();
        return match (main, &all[..]) {
            (Some(file), _) | (None, &[file]) => Ok(vec![file]),
            (None, several) => {
                let reason = format!("it has {} safetensors files and no {INDEX}", several.len());
                Err(snapshot.repository.error(reason))
            }
        };
    };
    let names = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
    let names: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
    let find = |name: &&str| {
        let found = snapshot.files.iter().filter(top_level).find(|file| file.path == **name);
        found.ok_or_else(|| {
            snapshot.repository.error(format!("its {INDEX} names `{name}`, which it does not have"))
        })
    };
    names.iter().map(find).collect()
}

/// The name of the index, if it is among the files.
pub(crate) fn index_of<'a>(files: &[&'a RemoteFile]) -> Option<&'a RemoteFile> {
    files.iter().find(|file| file.path == INDEX).copied()
}

fn listed_gguf(snapshot: &Snapshot) -> Option<String> {
    let names: Vec<&str> =
        snapshot.files.iter().filter(|file| is_gguf(file)).map(|file| file.path.as_str()).collect();
    let more = if names.len() > MAX_LISTED { ", …" } else { "" };
    (!names.is_empty()).then(|| names[..names.len().min(MAX_LISTED)].join(", ") + more)
}

fn is_gguf(file: &RemoteFile) -> bool {
    let name = file.name();
    name.len() > ".gguf".len() && name.to_ascii_lowercase().ends_with(".gguf") && !name.starts_with('.')
}

fn is_top_level(file: &RemoteFile) -> bool {
    !file.path.contains(['/', '\\'])
}
