//! A GGUF file: repacked for MLX into one safetensors file, with a
//! `tokenizer.json` made from its metadata.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Seek, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use safetensors::Dtype;
use serde_json::Value;

use super::source;
use crate::{
    Digest, FileEntry, FileRole, ImportEvent, Manifest, Observer, Source, SourceFormat, StoreError,
    TensorEntry, Transform,
    error::IoContext,
    gguf::{
        GgufError,
        block::Part,
        llama::{self, Mapped},
        metadata::required,
        reader::Gguf,
        tokenizer::Tokenizer,
    },
    manifest::{FORMAT, byte_len},
    observer::tell,
    weights,
    writer::{Staged, Writer},
};

/// About as many bytes are read at a time.
const CHUNK: u64 = 1 << 20;
const WEIGHTS: &str = "model.safetensors";

/// A tensor to write.
struct Output<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    part: Part,
    from: &'a Mapped<'a>,
}

pub(super) fn stage(
    writer: &Writer<'_>,
    path: &Path,
    observer: &mut Observer<'_>,
) -> Result<(Manifest, Vec<Staged>), StoreError> {
    let bad = |error: GgufError| StoreError::bad_source(path, error.to_string());
    let (mut file, size) = source::open(path)?;
    let gguf = Gguf::read(BufReader::new(&file), size).map_err(bad)?;
    check_architecture(&gguf).map_err(bad)?;
    let (config, mapped) = llama::map(&gguf).map_err(bad)?;
    let tokenizer = Tokenizer::read(&gguf.metadata).map_err(bad)?;
    check_vocabulary(&tokenizer, &config).map_err(bad)?;
    let outputs = outputs(&mapped).map_err(bad)?;

    let described = outputs.iter().map(|out| (out.name.clone(), out.dtype, out.shape.clone())).collect();
    let (header, placed) =
        weights::write_header(described).map_err(|error| StoreError::bad_source(path, error.to_string()))?;
    let data: u64 = placed.iter().map(|tensor| tensor.len).sum();
    writer.check_space(data)?;
    tell(observer, ImportEvent::Planned(data))?;

    file.rewind().context("read", path)?;
    let (digest, _) = Digest::of_reader(&mut file).context("read", path)?;
    let weights = writer.stage(|out| {
        out.write_all(&header).context("write the weights of", path)?;
        outputs.iter().try_for_each(|output| write_tensor(output, &file, path, out, observer))
    })?;
    let json = serde_json::to_vec(&tokenizer.json).map_err(std::io::Error::from);
    let tokens = writer.stage_bytes(&json.context("write the tokenizer of", path)?)?;
    let manifest = Manifest {
        format: FORMAT,
        source: Source { format: SourceFormat::Gguf, digest: Some(digest) },
        transforms: vec![Transform::RepackAffine, Transform::UnpermuteRope],
        config,
        chat_template: tokenizer.chat_template,
        named_chat_templates: BTreeMap::new(),
        bos_token: tokenizer.bos_token,
        eos_token: tokenizer.eos_token,
        eos_token_ids: tokenizer.eos_token_ids,
        files: vec![
            entry(FileRole::Weights, WEIGHTS, &weights),
            entry(FileRole::Tokenizer, "tokenizer.json", &tokens),
        ],
        tensors: placed.into_iter().map(tensor_entry).collect(),
    };
    Ok((manifest, vec![weights, tokens]))
}

fn check_architecture(gguf: &Gguf) -> Result<(), GgufError> {
    let key = "general.architecture";
    match required(gguf.metadata.text(key)?, key)? {
        "llama" => Ok(()),
        other => Err(GgufError::Unsupported(format!(
            "its architecture is `{other}`; from GGUF only `llama` can be imported, for others use the original \
             safetensors folder"
        ))),
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

/// What to write, in an order that aligns each tensor (see [`weights::alignment_rank`]).
fn outputs<'a>(mapped: &'a [Mapped<'a>]) -> Result<Vec<Output<'a>>, GgufError> {
    let mut outputs = Vec::new();
    for from in mapped {
        let parts = from.tensor.kind.parts(&from.tensor.shape);
        let parts = parts.ok_or_else(|| {
            GgufError::Unsupported(format!("tensor `{}` is quantized and not a matrix", from.tensor.name))
        })?;
        for (part, dtype, shape) in parts {
            let field = match part {
                Part::Dense | Part::Weight => from.field,
                Part::Scales => "scales",
                Part::Biases => "biases",
            };
            outputs.push(Output { name: format!("{}.{field}", from.module), dtype, shape, part, from });
        }
    }
    outputs.sort_by_key(|output| {
        weights::alignment_rank(byte_len(output.dtype, &output.shape).unwrap_or_default())
    });
    Ok(outputs)
}

/// Reads whole rows (of a permuted tensor, whole heads), puts them in order,
/// converts and writes them.
fn write_tensor(
    output: &Output<'_>,
    file: &File,
    path: &Path,
    out: &mut dyn Write,
    observer: &mut Observer<'_>,
) -> Result<(), StoreError> {
    let tensor = output.from.tensor;
    let rows = tensor.shape[0];
    let row_len = tensor.len / rows;
    let rows_at_once = output.from.unpermute.unwrap_or_else(|| (CHUNK / row_len).clamp(1, rows));
    let mut done = 0;
    while done < rows {
        let count = rows_at_once.min(rows - done);
        let mut chunk = vec![0; (count * row_len) as usize];
        file.read_exact_at(&mut chunk, tensor.offset + done * row_len).context("read", path)?;
        let mut converted = Vec::new();
        for row in 0..count {
            let from = output.from.unpermute.map_or(row, |head_dim| interleaved(row, head_dim));
            let blocks = &chunk[(from * row_len) as usize..((from + 1) * row_len) as usize];
            tensor.kind.convert(output.part, blocks, &mut converted).map_err(|error| {
                StoreError::bad_source(path, format!("tensor `{}`: {error}", tensor.name))
            })?;
        }
        out.write_all(&converted).context("write the weights of", path)?;
        tell(observer, ImportEvent::Advanced(converted.len() as u64))?;
        done += count;
    }
    Ok(())
}

/// Where llama.cpp puts row `row` of a head. Hugging Face rotates the first
/// half of a head's rows with the second half; llama.cpp rotates neighbours,
/// and interleaves the halves for it.
fn interleaved(row: u64, head_dim: u64) -> u64 {
    let half = head_dim / 2;
    (row % half) * 2 + row / half
}

fn entry(role: FileRole, name: &str, staged: &Staged) -> FileEntry {
    FileEntry { role, name: name.to_owned(), blob: staged.digest, size: staged.size }
}

fn tensor_entry(tensor: weights::HeaderTensor) -> TensorEntry {
    let weights::HeaderTensor { name, dtype, shape, offset, len } = tensor;
    TensorEntry { name, dtype, shape, file: 0, offset, len }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversion that Hugging Face to GGUF makes: reshape each head to
    /// (2, half), swap, flatten.
    #[test]
    fn rows_of_a_head_come_back_to_their_order() {
        let head_dim = 6;
        let permuted: Vec<u64> = (0..3).flat_map(|i| [i, i + 3]).collect();
        let back: Vec<u64> = (0..head_dim).map(|row| permuted[interleaved(row, head_dim) as usize]).collect();
        assert_eq!(back, [0, 1, 2, 3, 4, 5]);
    }
}
