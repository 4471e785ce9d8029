//! An artifact's tensors by name, as views of the mapped blobs.

use std::collections::HashMap;

use artifact_store::{Artifact, Dtype as StoredDtype, FileRole, TensorEntry};
use mlx_ext::{MapError, MappedFile};
use mlx_rs::{Array, Dtype, error::Exception};
use tracing::warn;

pub(super) use super::packing::Packing;
use super::{
    ModelError,
    adapters::{Site, Sites},
    config::Settings,
    packing::Packings,
};
use crate::backend::{Backend, Kernels, Matrix, Storage};

/// The embedding of a decoder that is stored without the `model.` before its names.
const BARE_EMBEDDING: &str = "embed_tokens.weight";

/// How many superfluous tensors an error names.
const NAMES_IN_ERROR: usize = 5;

/// The tensors of an artifact that nobody has taken yet, and the backend that will compute with them.
pub(super) struct Weights<'a> {
    tensors: HashMap<&'a str, &'a TensorEntry>,
    files: HashMap<usize, MappedFile>,
    /// Stands before every name that is asked for.
    prefix: &'static str,
    /// Is put behind `model.`.
    inner_prefix: &'static str,
    /// What the model is loaded for.
    purpose: Purpose,
    /// The `model.` of names that are asked for is not in those that are stored.
    is_bare: bool,
    bytes: u64,
    /// Of what is not a view of a file.
    private_bytes: u64,
    backend: Backend,
    packings: Packings<'a>,
    sites: Sites,
}

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Generate,
    /// It needs no output head.
    Embed,
}

/// What is left when everything has been taken.
pub(super) struct Taken {
    /// Bytes of what was taken, as it is stored.
    pub(super) bytes: u64,
    /// Bytes of copies and of matrices in another form, which every worker has for itself.
    pub(super) private_bytes: u64,
    /// To be kept while the tensors are computed with.
    pub(super) files: Vec<MappedFile>,
    /// Where adapters change the model.
    pub(super) sites: Sites,
    /// Stands before the names of all tensors.
    pub(super) prefix: &'static str,
}

impl<'a> Weights<'a> {
    /// Maps the weights files.
    pub(super) fn open(
        artifact: &'a Artifact,
        kernels: Kernels,
        purpose: Purpose,
    ) -> Result<Self, ModelError> {
        let mut files = HashMap::new();
        for (index, entry) in artifact.files(FileRole::Weights) {
            let opened = artifact.open_blob(entry)?;
            let mapped = MappedFile::map(&opened)
                .map_err(|source| ModelError::Map { what: entry.name.clone(), source })?;
            files.insert(index, mapped);
        }
        let tensors: HashMap<_, _> =
            artifact.manifest.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        // sentence-transformers stores a decoder without what is around it.
        let is_bare = purpose == Purpose::Embed && tensors.contains_key(BARE_EMBEDDING);
        let backend = Backend::new(kernels, main_float(&artifact.manifest.tensors));
        let packings = Packings::parse(Settings::new(&artifact.manifest.config)?)?;
        Ok(Self {
            tensors,
            files,
            prefix: "",
            inner_prefix: "",
            purpose,
            is_bare,
            bytes: 0,
            private_bytes: 0,
            backend,
            packings,
            sites: Sites::default(),
        })
    }

    /// What will compute with the tensors.
    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether the model embeds text, and needs no output head.
    pub(super) fn embeds(&self) -> bool {
        self.purpose == Purpose::Embed
    }

    /// Where adapters change a product with these matrices, if they can.
    pub(super) fn site(&self, matrices: &[Matrix]) -> Option<Site> {
        self.sites.add(matrices)
    }

    /// Whether there is a tensor whose name begins like this.
    pub(super) fn any(&self, beginning: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(beginning))
    }

    /// From now on `prefix` is put before every name that is asked for. It is what the language model's tensors have in
    /// common where there are others beside it, which are dropped: the prefixes `others`.
    pub(super) fn enter(&mut self, prefix: &'static str, others: &[&str]) {
        self.ignore(|name| others.iter().any(|other| name.starts_with(other)));
        self.prefix = prefix;
    }

    /// The same for a language model whose tensors, but for its head, have the prefix behind their `model.`.
    pub(super) fn enter_behind_model(&mut self, prefix: &'static str, others: &[&str]) {
        self.ignore(|name| others.iter().any(|other| name.starts_with(other)));
        self.inner_prefix = prefix;
    }

    fn full(&self, name: &str) -> String {
        match name.strip_prefix("model.") {
            Some(rest) if self.is_bare => rest.to_owned(),
            Some(rest) if !self.inner_prefix.is_empty() => format!("model.{}{rest}", self.inner_prefix),
            _ => format!("{}{name}", self.prefix),
        }
    }

    /// Whether a tensor is there and has not been taken.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(self.full(name).as_str())
    }

    /// The shape of a tensor that is there and has not been taken.
    pub(super) fn shape(&self, name: &str) -> Option<&[u64]> {
        self.tensors.get(self.full(name).as_str()).map(|tensor| &tensor.shape[..])
    }

    /// How the matrix `<module>.weight` `[outputs, inputs]` is packed, as configuration and tensors say; `None`: it is
    /// dense.
    ///
    /// # Errors
    /// They disagree, or are at odds with `inputs`.
    pub(super) fn packing(&self, module: &str, inputs: i32) -> Result<Option<Packing>, ModelError> {
        let module = self.full(module);
        let tensor = |part: &str| self.tensors.get(format!("{module}.{part}").as_str()).copied();
        self.packings.of(&module, tensor("weight"), tensor("scales"), inputs)
    }

    /// What `change` makes of a matrix that was taken. If that is something else, it is this process's own, and its bytes are
    /// counted.
    pub(super) fn changed(
        &mut self,
        storage: Storage,
        change: impl FnOnce(Storage) -> Result<Storage, Exception>,
    ) -> Result<Storage, ModelError> {
        let before = storage.bytes();
        let changed = change(storage)?;
        if changed.bytes() != before {
            self.count_private(changed.bytes());
        }
        Ok(changed)
    }

    /// Counts bytes that every worker has for itself.
    pub(super) fn count_private(&mut self, bytes: u64) {
        self.private_bytes = self.private_bytes.saturating_add(bytes);
    }

    /// Takes a tensor of floating-point numbers.
    pub(super) fn take_float(&mut self, name: &str, shape: &[i32]) -> Result<Array, ModelError> {
        let expected = "F32, F16 or BF16";
        self.take(name, shape, expected, float_of)
    }

    /// Takes a tensor of scales that have 8 bits.
    pub(super) fn take_bytes(&mut self, name: &str, shape: &[i32]) -> Result<Array, ModelError> {
        self.take(name, shape, "U8", |dtype| (dtype == StoredDtype::U8).then_some(Dtype::Uint8))
    }

    /// Takes a tensor of packed quantized values.
    pub(super) fn take_packed(&mut self, name: &str, shape: &[i32]) -> Result<Array, ModelError> {
        self.take(name, shape, "U32", |dtype| (dtype == StoredDtype::U32).then_some(Dtype::Uint32))
    }

    fn take(
        &mut self,
        name: &str,
        shape: &[i32],
        expected: &'static str,
        convert: fn(StoredDtype) -> Option<Dtype>,
    ) -> Result<Array, ModelError> {
        let name = self.full(name);
        let name = name.as_str();
        let missing = || ModelError::MissingTensor { name: name.to_owned() };
        let tensor = self.tensors.remove(name).ok_or_else(missing)?;
        if !tensor.shape.iter().copied().eq(shape.iter().map(|&dim| dim as u64)) {
            return Err(ModelError::WrongShape {
                name: name.to_owned(),
                found: tensor.shape.clone(),
                expected: format!("{shape:?}"),
            });
        }
        let dtype = convert(tensor.dtype).ok_or_else(|| ModelError::WrongDtype {
            name: name.to_owned(),
            found: tensor.dtype,
            expected,
        })?;
        let file = self.files.get(&tensor.file).ok_or_else(missing)?;
        self.bytes += tensor.len;
        let array = file.array(tensor.offset, shape, dtype).or_else(|error| match error {
            // Some writers put no padding behind the header.
            MapError::Misaligned { .. } => {
                warn!(tensor = name, "it is not aligned in its file and is copied");
                self.private_bytes = self.private_bytes.saturating_add(tensor.len);
                file.copy(tensor.offset, shape, dtype)
            }
            other => Err(other),
        });
        array.map_err(|source| ModelError::Map { what: name.to_owned(), source })
    }

    /// Drops tensors that a model can do without.
    pub(super) fn ignore(&mut self, unneeded: impl Fn(&str) -> bool) {
        let prefix = self.prefix;
        self.tensors.retain(|name, _| !unneeded(name.strip_prefix(prefix).unwrap_or(name)));
    }

    /// Refuses leftovers: a tensor without effect means that the model is not what it seems.
    pub(super) fn finish(self) -> Result<Taken, ModelError> {
        let mut names: Vec<&str> = self.tensors.into_keys().collect();
        if names.is_empty() {
            let Self { bytes, private_bytes, files, sites, prefix, .. } = self;
            return Ok(Taken { bytes, private_bytes, files: files.into_values().collect(), sites, prefix });
        }
        names.sort_unstable();
        names.truncate(NAMES_IN_ERROR);
        Err(ModelError::UnexpectedTensors { names: names.into_iter().map(str::to_owned).collect() })
    }
}

fn float_of(stored: StoredDtype) -> Option<Dtype> {
    match stored {
        StoredDtype::F32 => Some(Dtype::Float32),
        StoredDtype::F16 => Some(Dtype::Float16),
        StoredDtype::BF16 => Some(Dtype::Bfloat16),
        _ => None,
    }
}

/// The type that most of the matrices (or their scales) have, in which the model computes on a GPU.
///
/// Where all of them are packed without such scales, that of the others.
fn main_float(tensors: &[TensorEntry]) -> Dtype {
    let is_float = |tensor: &&TensorEntry| float_of(tensor.dtype).is_some();
    let mut elements = [(Dtype::Bfloat16, 0_u64), (Dtype::Float16, 0), (Dtype::Float32, 0)];
    let has_matrices = tensors.iter().filter(is_float).any(|tensor| tensor.shape.len() == 2);
    for tensor in tensors.iter().filter(|tensor| !has_matrices || tensor.shape.len() == 2) {
        let of_type = elements.iter_mut().find(|(dtype, _)| Some(*dtype) == float_of(tensor.dtype));
        if let Some((_, count)) = of_type {
            *count =
                count.saturating_add(tensor.shape.iter().fold(1, |all: u64, &dim| all.saturating_mul(dim)));
        }
    }
    elements.into_iter().max_by_key(|(_, count)| *count).map_or(Dtype::Float32, |(dtype, _)| dtype)
}
