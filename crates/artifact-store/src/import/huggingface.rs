//! A folder as Hugging Face and mlx-community publish models.
//!
//! A weights file is stored unchanged, one blob a file, if each of its tensors can be mapped in place and none is to be
//! quantized; otherwise it is written anew.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Value, json};

use super::{
    ImportOptions, Staging,
    folder::{CONFIG, Folder, TOKENIZER},
    foreign::{ForeignMatrices, ForeignMatrix},
    gpt_oss,
    pipeline::in_order,
    rewrite::{Change, Conversion, Plan},
    shards::{Shard, read_header},
    source::SourceFile,
    templates, tensor_entry,
};
use crate::{
    Digest, Dtype, FileEntry, FileRole, ImportEvent, Manifest, Observer, Quantization, Source, SourceFormat,
    StoreError, Transform,
    error::IoContext,
    gguf::types::TensorType,
    manifest::FORMAT,
    observer::tell,
    weights::HeaderTensor,
    writer::{Staged, Writer},
};

/// About as many bytes are read at a time.
const CHUNK: u64 = 1 << 20;

pub(super) fn stage(
    writer: &Writer<'_>,
    path: &Path,
    options: &ImportOptions,
    observer: &mut Observer<'_>,
) -> Result<Staging, StoreError> {
    let mut folder = Folder::read(path, &writer.store.layout.blobs())?;
    let mut transforms = Vec::new();
    if let Some(quantization) = options.quantize {
        quantize_config(&mut folder, quantization)?;
        transforms.push(Transform::Quantize(quantization));
    }
    if folder.shards.all.iter().any(|shard| !shard.is_aligned()) {
        transforms.push(Transform::Align);
    }
    if folder.tokenizer.is_some() {
        transforms.push(Transform::AddTokens);
    }
    let mut templates = std::mem::take(&mut folder.templates);
    let mut special_tokens = std::mem::take(&mut folder.special_tokens);
    if gpt_oss::is_original(&folder.config) {
        gpt_oss::describe(&mut folder.config);
        transforms.push(Transform::SplitExperts);
    }
    if !folder.foreign.is_empty() {
        folder.foreign.describe(&mut folder.config);
        transforms.push(Transform::RepackAffine);
    }
    let mut manifest = Manifest {
        format: FORMAT,
        source: Source { format: SourceFormat::HuggingFace, digest: None },
        transforms,
        base: None,
        config: folder.config.clone(),
        chat_template: templates.remove(templates::DEFAULT),
        named_chat_templates: templates,
        bos_token: special_tokens.remove("bos_token"),
        eos_token: special_tokens.remove("eos_token"),
        special_tokens,
        eos_token_ids: std::mem::take(&mut folder.eos_token_ids),
        embedding: folder.embedding.config.clone(),
        files: Vec::new(),
        tensors: Vec::new(),
    };
    let files = stage_files(writer, &folder, options, &mut manifest, observer)?;
    folder.root.check_unchanged()?;
    Ok(Staging { manifest, files, readers: folder.root.readers(), warnings: folder.warnings })
}

/// The weights first.
fn stage_files(
    writer: &Writer<'_>,
    folder: &Folder,
    options: &ImportOptions,
    manifest: &mut Manifest,
    observer: &mut Observer<'_>,
) -> Result<Vec<Staged>, StoreError> {
    let bad = |shard: &Shard, reason| StoreError::bad_source(&folder.root.path_of(&shard.name), reason);
    let is_described = |it: &Transform| {
        matches!(it, Transform::SplitExperts | Transform::Quantize(_) | Transform::RepackAffine)
    };
    let described = manifest.transforms.iter().any(is_described);
    let rewriting = Rewriting {
        quantize: options.quantize,
        layers: layers(&folder.config).unwrap_or_default(),
        gpt_oss: gpt_oss::is_one(&folder.config),
        stacked: has_stacked_experts(&folder.config),
        foreign: &folder.foreign,
    };
    let plan = |shard| plan(shard, rewriting).map_err(|reason| bad(shard, reason));
    let plans = folder.shards.all.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    for (index, (shard, plan)) in folder.shards.all.iter().zip(&plans).enumerate() {
        let tensors = plan.as_ref().map_or(&shard.tensors, |plan| &plan.tensors);
        let named = tensors.iter().cloned().map(|tensor| match &shard.module {
            Some(module) => HeaderTensor { name: format!("{module}.{}", tensor.name), ..tensor },
            None => tensor,
        });
        manifest.tensors.extend(named.map(|tensor| tensor_entry(tensor, index)));
    }
    folder.shards.check_names(folder.root.path(), &manifest.tensors)?;

    let others = folder.other_files()?;
    let weights = folder
        .shards
        .all
        .iter()
        .zip(plans)
        .map(|(shard, plan)| (FileRole::Weights, shard.name.clone(), plan));
    let sources: Vec<_> = weights.chain(others.into_iter().map(|(role, name)| (role, name, None))).collect();
    let mut reused = reusable(writer, folder, &sources, observer)?;

    let mut files = Vec::new();
    for (role, name, plan) in sources {
        let source = folder.root.open_file(&name)?;
        let expected = plan.as_ref().map(|plan| plan.tensors.clone());
        let staged = match plan {
            Some(plan) => plan.stage(writer, &source, observer)?,
            None if name == CONFIG && described => {
                let json = serde_json::to_vec_pretty(&folder.config).map_err(std::io::Error::from);
                stage_made(writer, &source, &json.context("write", source.path())?)?
            }
            None if name == TOKENIZER && folder.tokenizer.is_some() => {
                stage_made(writer, &source, folder.tokenizer.as_deref().unwrap_or_default())?
            }
            None => match reused.remove(&name) {
                Some(stored) => {
                    tell(observer, ImportEvent::Advanced(source.len()))?;
                    stored
                }
                None => stage_copy(writer, &source, observer)?,
            },
        };
        if role == FileRole::Weights {
            // The header of the bytes that were hashed.
            let copy = SourceFile::open(&writer.staged_path(&staged))?;
            let tensors = expected.as_ref().unwrap_or(&folder.shards.all[files.len()].tensors);
            if read_header(&copy, source.path())? != *tensors {
                return Err(source.changed());
            }
        }
        source.check_unchanged()?;
        manifest.files.push(FileEntry { role, name, blob: staged.digest, size: staged.size });
        files.push(staged);
    }
    Ok(files)
}

/// The files whose bytes the store has already, by name; what is not to be rewritten is read for it. Announces the work,
/// and refuses what can't fit before anything is written.
fn reusable(
    writer: &Writer<'_>,
    folder: &Folder,
    sources: &[(FileRole, String, Option<Plan>)],
    observer: &mut Observer<'_>,
) -> Result<BTreeMap<String, Staged>, StoreError> {
    let lens = sources.iter().map(|(_, name, plan)| match plan {
        Some(plan) => Ok(plan.len()),
        None => folder.root.open_file(name).map(|source| source.len()),
    });
    let lens = lens.collect::<Result<Vec<_>, _>>()?;
    tell(observer, ImportEvent::Planned(lens.iter().sum()))?;
    let known = writer.stored_sizes()?;
    let (mut reused, mut surely_new) = (BTreeMap::new(), 0);
    for ((_, name, plan), len) in sources.iter().zip(lens) {
        // Reading twice is worth it only where a blob of this size exists.
        if known.contains(&len) {
            // What a rewritten file will be is not known yet; it may be stored.
            if plan.is_some() {
                continue;
            }
            let source = folder.root.open_file(name)?;
            let (digest, read) = Digest::of_reader(&mut source.reader()).context("read", source.path())?;
            if let Some(stored) = writer.stored(digest, read) {
                reused.insert(name.clone(), stored);
                continue;
            }
        }
        surely_new += len;
    }
    writer.check_possible(surely_new)?;
    Ok(reused)
}

/// Says in the configuration what will be quantized, as mlx-community does.
fn quantize_config(folder: &mut Folder, quantization: Quantization) -> Result<(), StoreError> {
    let path = folder.root.path_of(CONFIG);
    if ["quantization", "quantization_config"].iter().any(|key| !folder.config[*key].is_null()) {
        return Err(StoreError::bad_source(
            &path,
            "the model is quantized already; import it without --quantize",
        ));
    }
    let stacked = has_stacked_experts(&folder.config);
    let is_quantized = |tensor: &&HeaderTensor| quantizable(tensor, quantization, stacked).is_some();
    if !folder.shards.tensors().any(|tensor| is_quantized(&tensor)) {
        let reason = format!("none of its matrices can have {quantization}; import it without --quantize");
        return Err(StoreError::bad_source(folder.root.path(), reason));
    }
    let describe = |to: Quantization| json!({ "group_size": to.group_size, "bits": to.bits });
    let mut entry = describe(quantization);
    if quantization.high_bits.is_some() {
        let layers = layers(&folder.config);
        let Some(layers) = layers else {
            return Err(StoreError::bad_source(
                &path,
                "it does not say `num_hidden_layers`, by which the recipe chooses; import it with a number of bits",
            ));
        };
        for tensor in folder.shards.tensors().filter(is_quantized) {
            let module = tensor.name.trim_end_matches(WEIGHT);
            let own = quantization.of(module, layers);
            if own.bits != quantization.bits {
                entry[module] = describe(own);
            }
        }
    }
    folder.config["quantization"] = entry.clone();
    folder.config["quantization_config"] = entry;
    Ok(())
}

/// How many layers the model has, as its configuration says.
fn layers(config: &Value) -> Option<u64> {
    let said = |config: &Value| config["num_hidden_layers"].as_u64();
    said(config).or_else(|| said(&config["text_config"]))
}

/// Whether the matrices of all experts are in tensors with names of [`STACKED`], an output's inputs one behind the other.
fn has_stacked_experts(config: &Value) -> bool {
    matches!(config["model_type"].as_str(), Some("gemma4" | "gemma4_text"))
}

/// The type of a matrix that is quantized, or `None` for what stays as it is. Experts may be `stacked`.
fn quantizable(tensor: &HeaderTensor, quantization: Quantization, stacked: bool) -> Option<TensorType> {
    let kind = match tensor.dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::Bf16,
        _ => return None,
    };
    let is_matrix = match tensor.shape.len() {
        2 => tensor.name.ends_with(WEIGHT),
        3 => stacked && STACKED.iter().any(|end| tensor.name.ends_with(end)),
        _ => false,
    };
    let row = tensor.shape.last()?;
    let whole_groups = tensor.len > 0 && row.is_multiple_of(quantization.group_size.into());
    (is_matrix && whole_groups).then_some(kind)
}

const WEIGHT: &str = ".weight";

/// Ends of the names of experts, which transformers stores without [`WEIGHT`].
const STACKED: [&str; 2] = [".experts.gate_up_proj", ".experts.down_proj"];

/// What changes in the shards of a model.
#[derive(Clone, Copy)]
struct Rewriting<'a> {
    quantize: Option<Quantization>,
    /// Of the model.
    layers: u64,
    /// Whether there may be experts for `gpt_oss.rs` to take apart.
    gpt_oss: bool,
    /// Whether there may be experts that are quantized as they are.
    stacked: bool,
    /// What another program has packed.
    foreign: &'a ForeignMatrices,
}

impl Rewriting<'_> {
    /// What becomes of a tensor.
    fn conversions(self, tensor: &HeaderTensor) -> Result<Vec<Conversion>, String> {
        if self.gpt_oss
            && let Some(split) = gpt_oss::conversions(tensor)?
        {
            return Ok(split);
        }
        if self.foreign.takes(&tensor.name) {
            return Ok(self
                .foreign
                .matrix(&tensor.name)
                .map(|matrix| repackage(tensor, matrix))
                .into_iter()
                .collect());
        }
        let HeaderTensor { name, dtype, shape, offset, len } = tensor.clone();
        let module = name.trim_end_matches(WEIGHT);
        let change = self
            .quantize
            .and_then(|to| Some((quantizable(tensor, to, self.stacked)?, to.of(module, self.layers))));
        let change = change.map(|(kind, to)| Change::Quantize(kind, to));
        let new_name = if change.is_some() { module } else { &name };
        Ok(vec![Conversion {
            name: new_name.to_owned(),
            source: name,
            shape,
            offset,
            len,
            change: change.unwrap_or(Change::Copy(dtype)),
            unpermute: None,
        }])
    }
}

/// A packed matrix in place of the integers that it had.
fn repackage(integers: &HeaderTensor, matrix: &Arc<ForeignMatrix>) -> Conversion {
    Conversion {
        source: integers.name.clone(),
        name: matrix.module.clone(),
        shape: matrix.size().to_vec(),
        offset: integers.offset,
        len: integers.len,
        change: Change::Repackage(Arc::clone(matrix)),
        unpermute: None,
    }
}

/// How a shard is written anew; `None`: it is stored as it is.
fn plan(shard: &Shard, rewriting: Rewriting<'_>) -> Result<Option<Plan>, String> {
    // Modules behind the model are small, and stay as they are.
    let quantize = rewriting.quantize.filter(|_| shard.module.is_none());
    let rewriting = Rewriting { quantize, ..rewriting };
    let conversions = shard.tensors.iter().map(|tensor| rewriting.conversions(tensor));
    let conversions = conversions.collect::<Result<Vec<_>, _>>()?.concat();
    let changes = |conversion: &Conversion| {
        !matches!(conversion.change, Change::Copy(_)) || conversion.name != conversion.source
    };
    let changed = conversions.iter().any(changes)
        || shard.tensors.iter().any(|tensor| rewriting.foreign.takes(&tensor.name));
    if changed || !shard.is_aligned() { Plan::new(conversions).map(Some) } else { Ok(None) }
}

/// Stages what was made of a small file.
fn stage_made(writer: &Writer<'_>, source: &SourceFile, bytes: &[u8]) -> Result<Staged, StoreError> {
    writer.stage_readable_by(source.readers(), |out| out.write_all(bytes).context("write", source.path()))
}

/// Copies a file to `tmp/`.
pub(super) fn stage_copy(
    writer: &Writer<'_>,
    source: &SourceFile,
    observer: &mut Observer<'_>,
) -> Result<Staged, StoreError> {
    let chunks: Vec<u64> = (0..source.len()).step_by(CHUNK as usize).collect();
    writer.stage_readable_by(source.readers(), |out| {
        let read = |offset: &u64| {
            let mut bytes = vec![0; CHUNK.min(source.len() - offset) as usize];
            source.read_exact_at(&mut bytes, *offset).map(|()| bytes)
        };
        in_order(&chunks, read, |_, bytes| {
            out.write_all(&bytes).context("copy", source.path())?;
            tell(observer, ImportEvent::Advanced(bytes.len() as u64))
        })
    })
}
