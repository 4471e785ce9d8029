//! A GGUF file: converted for MLX into one safetensors file, with a `tokenizer.json` made from its metadata.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufReader,
    path::Path,
    thread,
};

use safetensors::Dtype;
use serde_json::Value;

use super::{
    ImportOptions, Staging,
    folder::MAX_TOKENIZER,
    rewrite::{Change, Conversion, Plan},
    servable,
    source::SourceFile,
    templates, tensor_entry,
};
use crate::{
    Digest, FileEntry, FileRole, ImportEvent, Manifest, Observer, Quantization, Source, SourceFormat,
    StoreError, Transform,
    error::{IoContext, with_causes},
    gguf::{
        GgufError, RopeFactors,
        architectures::{self, Mapped},
        metadata::Metadata,
        reader::Gguf,
        rope::{FACTORS, LONG_FACTORS, SHORT_FACTORS},
        tokenizer::Tokenizer,
        types::{Form, TensorType},
    },
    manifest::FORMAT,
    observer::tell,
    writer::{Staged, Writer},
};

const WEIGHTS: &str = "model.safetensors";
/// Longest tensor of rotary factors, in bytes: heads of 8192.
const MAX_ROPE_FACTORS: u64 = 4096 * 4;

pub(super) fn stage(
    writer: &Writer<'_>,
    path: &Path,
    options: &ImportOptions,
    observer: &mut Observer<'_>,
) -> Result<Staging, StoreError> {
    let bad = |error: GgufError| StoreError::bad_source(path, with_causes(&error));
    let file = SourceFile::open(path)?;
    let gguf = Gguf::read(BufReader::new(file.reader()), file.len()).map_err(bad)?;
    check_whole(&gguf.metadata).map_err(bad)?;
    let factors = rope_factors(&gguf, &file)?;
    let model = architectures::map(&gguf, &factors, options.quantize).map_err(bad)?;
    let tokenizer = Tokenizer::read(&gguf.metadata).map_err(bad)?;
    check_vocabulary(&tokenizer, &model.config).map_err(bad)?;
    servable::check_config(&model.config)
        .map_err(|reason| StoreError::bad_source(path, reason.to_string()))?;
    let mut templates = tokenizer.chat_templates;
    templates::check(&templates).map_err(|reason| StoreError::bad_source(path, reason))?;
    let json = tokenizer_bytes(&tokenizer.json, path)?;
    let conversions = model.tensors.iter().map(conversion).collect();
    let plan = Plan::new(conversions).map_err(|reason| StoreError::bad_source(path, reason))?;
    tell(observer, ImportEvent::Planned(plan.len()))?;

    // The file's own digest takes as long as the rest: beside it.
    let (digest, weights) = thread::scope(|scope| {
        let digest = scope.spawn(|| Digest::of_reader(&mut file.reader()));
        let weights = plan.stage(writer, &file, observer)?;
        let (digest, _) =
            digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("read", path)?;
        Ok::<_, StoreError>((digest, weights))
    })?;
    let tokens = writer.stage_readable_by(file.readers(), |out| {
        out.write_all(&json).context("write the tokenizer of", path)
    })?;
    file.check_unchanged()?;
    let manifest = Manifest {
        format: FORMAT,
        source: Source { format: SourceFormat::Gguf, digest: Some(digest) },
        transforms: transforms(&model, options.quantize),
        base: None,
        config: model.config,
        chat_template: templates.remove(templates::DEFAULT),
        named_chat_templates: templates,
        bos_token: tokenizer.bos_token,
        eos_token: tokenizer.eos_token,
        special_tokens: BTreeMap::new(),
        embedding: None,
        eos_token_ids: tokenizer.eos_token_ids,
        files: vec![
            entry(FileRole::Weights, WEIGHTS, &weights),
            entry(FileRole::Tokenizer, "tokenizer.json", &tokens),
        ],
        tensors: plan.tensors.into_iter().map(|tensor| tensor_entry(tensor, 0)).collect(),
    };
    let (files, readers) = (vec![weights, tokens], file.readers());
    Ok(Staging { manifest, files, readers, warnings: Vec::new() })
}

/// `tokenizer.json`, no longer than one of a folder may be.
fn tokenizer_bytes(json: &Value, path: &Path) -> Result<Vec<u8>, StoreError> {
    let bytes = serde_json::to_vec(json).map_err(std::io::Error::from);
    let bytes = bytes.context("write the tokenizer of", path)?;
    if bytes.len() as u64 > MAX_TOKENIZER {
        let reason = format!("its tokenizer takes {} bytes, more than {MAX_TOKENIZER}", bytes.len());
        return Err(StoreError::bad_source(path, reason));
    }
    Ok(bytes)
}

fn check_whole(metadata: &Metadata) -> Result<(), GgufError> {
    match metadata.unsigned("split.count")? {
        Some(parts @ 2..) => Err(GgufError::Unsupported(format!(
            "it is one of {parts} parts of a model; merge them with `llama-gguf-split --merge` first"
        ))),
        _ => Ok(()),
    }
}

/// A token without a row of the embedding would read beyond it.
fn check_vocabulary(tokenizer: &Tokenizer, config: &Value) -> Result<(), GgufError> {
    let rows = config["vocab_size"].as_u64().unwrap_or_default();
    if tokenizer.size <= rows {
        return Ok(());
    }
    Err(GgufError::Damaged(format!("{} tokens and {rows} embeddings", tokenizer.size)))
}

/// The tensors of rotary factors, of those that there are.
fn rope_factors(gguf: &Gguf, file: &SourceFile) -> Result<RopeFactors, StoreError> {
    let read = |name: &str| {
        let Some(tensor) = gguf.tensors.iter().find(|tensor| tensor.name == name) else {
            return Ok(None);
        };
        if tensor.kind != TensorType::F32 || tensor.len > MAX_ROPE_FACTORS {
            let reason = format!("tensor `{}` is not a short list of F32 numbers", tensor.name);
            return Err(StoreError::bad_source(file.path(), reason));
        }
        let mut bytes = vec![0; tensor.len as usize];
        file.read_exact_at(&mut bytes, tensor.offset)?;
        let (numbers, _) = bytes.as_chunks();
        Ok(Some(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()))
    };
    Ok(RopeFactors { llama3: read(FACTORS)?, long: read(LONG_FACTORS)?, short: read(SHORT_FACTORS)? })
}

fn conversion(mapped: &Mapped<'_>) -> Conversion {
    let tensor = mapped.tensor;
    let change = match (mapped.quantize, tensor.kind.form()) {
        (Some(quantization), _) => Change::Quantize(tensor.kind, quantization),
        (None, Form::Dense(_)) if mapped.plus_one => Change::SubtractOne,
        (None, Form::Dense(dtype)) => Change::Copy(dtype),
        (None, Form::Affine { .. } | Form::MicroScaled) => Change::Repack(tensor.kind),
        (None, Form::Dequantized) => Change::Dequantize(tensor.kind),
    };
    let name = match change {
        Change::Copy(_) | Change::SubtractOne | Change::Alternate { .. } | Change::Dequantize(_) => {
            format!("{}.{}", mapped.module, mapped.field)
        }
        Change::Repack(_) | Change::Quantize(..) | Change::Repackage(_) => mapped.module.clone(),
    };
    Conversion {
        source: tensor.name.clone(),
        name,
        shape: tensor.shape.clone(),
        offset: tensor.offset,
        len: tensor.len,
        change,
        unpermute: mapped.unpermute,
    }
}

/// What is done to the tensors, in the order in which a reader would undo it last.
fn transforms(model: &architectures::Model<'_>, quantize: Option<Quantization>) -> Vec<Transform> {
    let tensors = &model.tensors;
    let forms =
        || tensors.iter().filter(|mapped| mapped.quantize.is_none()).map(|mapped| mapped.tensor.kind.form());
    let mut transforms = Vec::new();
    if forms().any(|form| matches!(form, Form::Affine { .. })) {
        transforms.push(Transform::RepackAffine);
    }
    if forms().any(|form| form == Form::MicroScaled) {
        transforms.push(Transform::RepackMicroScaled);
    }
    if tensors.iter().any(|mapped| mapped.plus_one) {
        transforms.push(Transform::SubtractOne);
    }
    if tensors.iter().any(|mapped| mapped.unpermute.is_some()) {
        transforms.push(Transform::UnpermuteRope);
    }
    let dequantized: BTreeSet<_> = tensors
        .iter()
        .map(|mapped| mapped.tensor.kind)
        .filter(|kind| kind.form() == Form::Dequantized)
        .collect();
    if !dequantized.is_empty() {
        let from = dequantized.into_iter().map(|kind| kind.name().to_owned()).collect();
        transforms.push(Transform::Dequantize { from, to: Dtype::F16 });
    }
    let quantized = tensors.iter().any(|mapped| mapped.quantize.is_some());
    transforms.extend(quantize.filter(|_| quantized).map(Transform::Quantize));
    if model.rope_recovered {
        transforms.push(Transform::RecoverRopeScaling);
    }
    transforms
}

fn entry(role: FileRole, name: &str, staged: &Staged) -> FileEntry {
    FileEntry { role, name: name.to_owned(), blob: staged.digest, size: staged.size }
}
