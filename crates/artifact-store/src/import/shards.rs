//! Which weights files a folder has.
//!
//! With several, `model.safetensors.index.json` tells where each tensor is. It may have been left over from another
//! form of the model: transformers reads `model.safetensors` where there is one, whatever an index says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::BufReader,
    path::Path,
};

use super::{root::Root, source::SourceFile};
use crate::{
    StoreError, TensorEntry, python_json,
    weights::{self, HeaderTensor},
};

/// The only weights file of a model that has one.
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const EXTENSION: &str = ".safetensors";
/// Largest index, in bytes: a million tensors or so.
const MAX_INDEX: u64 = 64 << 20;

/// A weights file.
pub(super) struct Shard {
    pub(super) name: String,
    /// If it is of a module behind the model: stands before the names of its tensors in the manifest.
    pub(super) module: Option<String>,
    /// In the order of their data.
    pub(super) tensors: Vec<HeaderTensor>,
}

/// The weights files of a folder, sorted by name; behind them those of modules in folders of their own.
pub(super) struct Shards {
    pub(super) all: Vec<Shard>,
    /// What the user should know about them.
    pub(super) warning: Option<String>,
}

/// What an index says: tensor to file name.
type WeightMap = BTreeMap<String, String>;

impl Shards {
    pub(super) fn read(root: &mut Root) -> Result<Self, StoreError> {
        let names = root.names("")?;
        let has_whole = names.iter().any(|name| name == WHOLE);
        if !names.iter().any(|name| name == INDEX) {
            let name = if has_whole { WHOLE.to_owned() } else { only_shard(root, names)? };
            return Ok(Self { all: vec![Shard::read(root, name)?], warning: None });
        }
        let (indexed, weight_map) = match read_index(root) {
            Ok(weight_map) => (indexed(root, &weight_map), weight_map),
            Err(error) => (Err(error), WeightMap::new()),
        };
        match indexed {
            Err(error @ StoreError::BadSource { .. }) if has_whole => {
                let whole = Shard::read(root, WHOLE.to_owned())?;
                if !is_complete(&whole, &weight_map) {
                    return Err(error);
                }
                let warning = format!(
                    "{INDEX} does not fit the folder and was not used, since {WHOLE} has the whole model ({})",
                    reason_of(&error)
                );
                Ok(Self { all: vec![whole], warning: Some(warning) })
            }
            indexed => Ok(Self { all: indexed?, warning: None }),
        }
    }

    /// Every tensor of the artifact once.
    pub(super) fn check_names(&self, folder: &Path, tensors: &[TensorEntry]) -> Result<(), StoreError> {
        let mut homes = HashMap::new();
        for tensor in tensors {
            let shard = self.all[tensor.file].name.as_str();
            if let Some(other) = homes.insert(&tensor.name, shard) {
                let reason = format!("tensor `{}` is in `{other}` too", tensor.name);
                return Err(StoreError::bad_source(&folder.join(shard), reason));
            }
        }
        Ok(())
    }

    /// Adds the weights of a module in the folder of its name.
    pub(super) fn add_module(&mut self, root: &mut Root, module: &str) -> Result<(), StoreError> {
        let shard = Shard::read(root, format!("{module}/{WHOLE}"))?;
        self.all.push(Shard { module: Some(module.to_owned()), ..shard });
        Ok(())
    }

    /// Those of the model itself.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &HeaderTensor> {
        self.all.iter().filter(|shard| shard.module.is_none()).flat_map(|shard| &shard.tensors)
    }
}

impl Shard {
    pub(super) fn read(root: &mut Root, name: String) -> Result<Self, StoreError> {
        let file = root.open_file(&name)?;
        let tensors = read_header(&file, file.path())?;
        root.remember(&file);
        Ok(Self { name, module: None, tensors })
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

/// The files that the index names, with every tensor where the index says it is.
fn indexed(root: &mut Root, weight_map: &WeightMap) -> Result<Vec<Shard>, StoreError> {
    let names: BTreeSet<&String> = weight_map.values().collect();
    let shards =
        names.into_iter().map(|name| Shard::read(root, name.clone())).collect::<Result<Vec<_>, _>>()?;
    let tensors =
        |shard: &Shard| shard.tensors.iter().map(|tensor| tensor.name.clone()).collect::<HashSet<_>>();
    let homes: HashMap<&str, _> = shards.iter().map(|shard| (shard.name.as_str(), tensors(shard))).collect();
    for (tensor, shard) in weight_map {
        if !homes.get(shard.as_str()).is_some_and(|tensors| tensors.contains(tensor)) {
            let reason = format!("{INDEX} places tensor `{tensor}` here, and it is not; download it again");
            return Err(StoreError::bad_source(&root.path_of(shard), reason));
        }
    }
    Ok(shards)
}

/// The weights of a folder without an index.
fn only_shard(root: &Root, mut names: Vec<String>) -> Result<String, StoreError> {
    names.retain(|name| name.ends_with(EXTENSION));
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(found) if found.is_empty() => Err(StoreError::bad_source(
            root.path(),
            "it has no safetensors file; other formats have to be converted first",
        )),
        Err(found) => {
            let reason = format!(
                "it has {} safetensors files, and no {INDEX} that says which of them belong to the model; download \
                 that too",
                found.len()
            );
            Err(StoreError::bad_source(root.path(), reason))
        }
    }
}

/// File names that are more than a name could lead out of the folder and are refused.
fn read_index(root: &mut Root) -> Result<WeightMap, StoreError> {
    let path = root.path_of(INDEX);
    let bad = |reason: &str| StoreError::bad_source(&path, reason);
    let index = python_json::from_slice(&root.read(INDEX, MAX_INDEX)?);
    let index = index.map_err(|error| bad(&error.reason()))?;
    let map = index["weight_map"].as_object().ok_or_else(|| bad("it has no \"weight_map\""))?;
    let mut weight_map = WeightMap::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().ok_or_else(|| bad("a file name in \"weight_map\" is not text"))?;
        let plain =
            Path::new(shard).file_name().is_some_and(|name| name == shard) && !shard.contains(['/', '\\']);
        if !plain || !shard.ends_with(EXTENSION) {
            return Err(bad(&format!("`{shard}` is not the name of a safetensors file in this folder")));
        }
        weight_map.insert(tensor.clone(), shard.to_owned());
    }
    if weight_map.is_empty() { Err(bad("its \"weight_map\" is empty")) } else { Ok(weight_map) }
}

/// Whether a file has the whole model that an index is of. Its tensors may have other names when it was converted, but
/// it has every layer.
fn is_complete(whole: &Shard, weight_map: &WeightMap) -> bool {
    let names: HashSet<&str> = whole.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let layers: HashSet<u64> = names.iter().filter_map(|name| layer_of(name)).collect();
    weight_map.keys().all(|name| match layer_of(name) {
        Some(layer) => layers.contains(&layer),
        // An output matrix that is the embedding's may be left out.
        None => !layers.is_empty() || names.contains(name.as_str()),
    })
}

/// The number after `layers`.
fn layer_of(name: &str) -> Option<u64> {
    name.split('.').skip_while(|part| *part != "layers").nth(1)?.parse().ok()
}

fn reason_of(error: &StoreError) -> String {
    match error {
        StoreError::BadSource { path, reason } => {
            format!("{}: {reason}", path.file_name().unwrap_or_default().display())
        }
        other => other.to_string(),
    }
}
