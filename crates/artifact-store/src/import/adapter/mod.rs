//! A folder with an adapter of a stored model: low-rank matrices (LoRA) that are added to some of its own.
//!
//! ```text
//! config   what adapter_config.json says, in mlx-lm's form or in PEFT's
//! names    which matrix of the base a tensor adapts
//! fit      whether the tensors fit the base's
//! ```
//!
//! What is stored is what mlx-lm writes: `adapters.safetensors` with `<module>.lora_a` `[inputs, rank]` and
//! `<module>.lora_b` `[rank, outputs]`. PEFT stores both transposed and under other names: the file is written anew, with
//! the same values.

mod config;
mod fit;
mod names;

use std::path::Path;

use serde_json::Value;

use self::config::{AdapterConfig, AdapterFormat};
use super::{
    Staging,
    huggingface::stage_copy,
    root::Root,
    shards::{Shard, read_header},
    source::SourceFile,
    tensor_entry,
};
use crate::{
    Artifact, FileEntry, FileRole, ImportEvent, Manifest, Observer, Source, SourceFormat, StoreError,
    Transform,
    error::IoContext,
    manifest::FORMAT,
    observer::tell,
    python_json,
    weights::{self, HeaderTensor},
    writer::{Staged, Writer},
};

/// What mlx-lm calls the weights of an adapter, and the store, too.
const WEIGHTS: &str = "adapters.safetensors";
const CONFIG: &str = "adapter_config.json";
/// Largest configuration, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// A tensor of the source, and what becomes of it.
struct Taken {
    source: HeaderTensor,
    name: String,
    /// As it is stored.
    shape: Vec<u64>,
    transposed: bool,
}

/// The folder, read and compared with the base.
struct Folder {
    root: Root,
    config: AdapterConfig,
    shard: Shard,
    /// In the order in which they are written.
    taken: Vec<Taken>,
}

pub(super) fn stage(
    writer: &Writer<'_>,
    path: &Path,
    base: &Artifact,
    observer: &mut Observer<'_>,
) -> Result<Staging, StoreError> {
    if base.manifest.embeds() {
        let reason = format!(
            "`{}` embeds text, and adapters are for models that generate it; merge the adapter into that model and import the \
             result",
            base.name
        );
        return Err(StoreError::bad_source(path, reason));
    }
    let folder = Folder::read(path, base)?;
    let source = folder.root.open_file(&folder.shard.name)?;
    tell(observer, ImportEvent::Planned(source.len()))?;
    writer.check_possible(source.len())?;
    let (staged, tensors, transforms) = if folder.is_kept() {
        (stage_copy(writer, &source, observer)?, folder.shard.tensors.clone(), Vec::new())
    } else {
        let (staged, tensors) = folder.write(writer, &source, observer)?;
        let converted = folder.config.format == AdapterFormat::Peft;
        (staged, tensors, vec![if converted { Transform::ConvertAdapter } else { Transform::Align }])
    };
    // The header of the bytes that were hashed.
    let copy = SourceFile::open(&writer.staged_path(&staged))?;
    if read_header(&copy, source.path())? != tensors {
        return Err(source.changed());
    }
    folder.root.check_unchanged()?;
    let config = folder.config.stored.clone();
    let json = serde_json::to_vec_pretty(&config).map_err(std::io::Error::from);
    let json = json.context("write", &folder.root.path_of(CONFIG))?;
    let settings = writer.stage_readable_by(folder.root.readers(), |out| {
        out.write_all(&json).context("write", &folder.root.path_of(CONFIG))
    })?;
    let file = |role, name: &str, staged: &Staged| FileEntry {
        role,
        name: name.to_owned(),
        blob: staged.digest,
        size: staged.size,
    };
    let files = vec![file(FileRole::Weights, WEIGHTS, &staged), file(FileRole::Settings, CONFIG, &settings)];
    let format = match folder.config.format {
        AdapterFormat::Mlx => SourceFormat::MlxAdapter,
        AdapterFormat::Peft => SourceFormat::PeftAdapter,
    };
    let tensors = tensors.into_iter().map(|tensor| tensor_entry(tensor, 0)).collect();
    let manifest = Manifest {
        embedding: None,
        format: FORMAT,
        source: Source { format, digest: None },
        transforms,
        base: Some(base.digest),
        config,
        chat_template: None,
        named_chat_templates: Default::default(),
        bos_token: None,
        eos_token: None,
        special_tokens: Default::default(),
        eos_token_ids: Vec::new(),
        files,
        tensors,
    };
    let readers = folder.root.readers();
    Ok(Staging { manifest, files: vec![staged, settings], readers, warnings: Vec::new() })
}

impl Folder {
    fn read(path: &Path, base: &Artifact) -> Result<Self, StoreError> {
        let mut root = Root::open(path, &base.store.layout.blobs())?;
        let json = root.read(CONFIG, MAX_CONFIG)?;
        let bad = |reason| StoreError::bad_source(&root.path_of(CONFIG), reason);
        let json: Value = python_json::from_slice(&json).map_err(|error| bad(error.reason()))?;
        let config = AdapterConfig::read(&json).map_err(|error| bad(error.to_string()))?;
        let name = config.format.weights();
        let shard = Shard::read(&mut root, name.to_owned())?;
        let bad = |reason: String| StoreError::bad_source(&root.path_of(name), reason);
        let mut taken = Vec::with_capacity(shard.tensors.len());
        for source in &shard.tensors {
            let name = names::stored(config.format, &source.name).map_err(|error| bad(error.to_string()))?;
            let transposed = config.format == AdapterFormat::Peft;
            let mut shape = source.shape.clone();
            if transposed {
                shape.reverse();
            }
            taken.push(Taken { source: source.clone(), name, shape, transposed });
        }
        let pairs = taken.iter().map(|taken| (taken.name.as_str(), taken.source.dtype, &taken.shape[..]));
        fit::check(pairs, config.rank, &base.manifest).map_err(|misfit| bad(misfit.describe(&base.name)))?;
        taken.sort_by_key(|taken| weights::alignment_rank(taken.source.len));
        Ok(Self { root, config, shard, taken })
    }

    /// Whether the file is stored as it is.
    fn is_kept(&self) -> bool {
        self.config.format == AdapterFormat::Mlx && self.shard.is_aligned()
    }

    /// Stages the file anew, and returns its tensors.
    fn write(
        &self,
        writer: &Writer<'_>,
        source: &SourceFile,
        observer: &mut Observer<'_>,
    ) -> Result<(Staged, Vec<HeaderTensor>), StoreError> {
        let described = self.taken.iter().map(|it| (it.name.clone(), it.source.dtype, it.shape.clone()));
        let (header, tensors) = weights::write_header(described.collect())
            .map_err(|error| StoreError::bad_source(source.path(), error.to_string()))?;
        let staged = writer.stage_readable_by(source.readers(), |out| {
            out.write_all(&header).context("write the weights of", source.path())?;
            for taken in &self.taken {
                let bytes = taken.read(source)?;
                out.write_all(&bytes).context("write the weights of", source.path())?;
                tell(observer, ImportEvent::Advanced(bytes.len() as u64))?;
            }
            Ok(())
        })?;
        Ok((staged, tensors))
    }
}

impl Taken {
    /// Its bytes as they are stored. What fits the base is small.
    fn read(&self, source: &SourceFile) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; self.source.len as usize];
        source.read_exact_at(&mut bytes, self.source.offset)?;
        let &[rows, columns] = &self.shape[..] else { return Ok(bytes) };
        if !self.transposed {
            return Ok(bytes);
        }
        let (rows, columns, size) = (rows as usize, columns as usize, self.source.dtype.bitsize() / 8);
        let mut turned = Vec::with_capacity(bytes.len());
        for row in 0..rows {
            for column in 0..columns {
                turned.extend_from_slice(&bytes[(column * rows + row) * size..][..size]);
            }
        }
        Ok(turned)
    }
}
