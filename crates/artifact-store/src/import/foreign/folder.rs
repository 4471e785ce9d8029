//! The packed matrices of a folder.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    matrix::{ForeignMatrix, Place},
    method::{Method, Said, Suffixes, remove_settings},
    shape::{Shape, Tensors},
};
use crate::{
    Dtype, StoreError,
    import::{root::Root, shards::Shards},
    weights::HeaderTensor,
};

/// What to do about a matrix that can't be converted.
const ADVICE: &str =
    "import another conversion, for example one for MLX, or the original model with --quantize 4";

/// What becomes of the tensors of a folder's packed matrices.
#[derive(Default)]
pub(in crate::import) struct ForeignMatrices {
    /// By the names of their integers.
    matrices: BTreeMap<String, Arc<ForeignMatrix>>,
    /// Tensors that become a part of a matrix, or nothing.
    absorbed: BTreeSet<String>,
}

/// A folder's tensors by name, with their places.
struct Source<'a> {
    suffixes: Suffixes,
    tensors: HashMap<&'a str, Tensor<'a>>,
}

/// A tensor, and where it is.
#[derive(Clone)]
struct Tensor<'a> {
    header: &'a HeaderTensor,
    place: Place,
}

impl ForeignMatrices {
    /// # Errors
    /// A matrix has parts that do not fit together, or values that MLX's packing can't have.
    pub(in crate::import) fn read(root: &Root, shards: &Shards, said: &Said) -> Result<Self, StoreError> {
        let source = Source::open(root, shards, said.method.suffixes())?;
        let modules = source.modules();
        let mut all = Self::default();
        for (module, integers) in &modules {
            let matrix = source.matrix(module, integers, said)?;
            all.absorbed.extend(source.parts_of(module));
            all.matrices.insert(integers.header.name.clone(), Arc::new(matrix));
        }
        if all.matrices.is_empty() {
            let reason =
                "config.json says that its matrices are packed, and none is; download the model again";
            return Err(StoreError::bad_source(root.path(), reason));
        }
        if matches!(said.method, Method::Gptq { .. }) {
            all.absorbed.extend(source.zero_biases(modules.keys())?);
        }
        Ok(all)
    }

    /// Whether there are none.
    pub(in crate::import) fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    /// Whether a tensor becomes another one, or a part of one, or nothing.
    pub(in crate::import) fn takes(&self, tensor: &str) -> bool {
        self.absorbed.contains(tensor)
    }

    /// The matrix that this tensor has the integers of.
    pub(in crate::import) fn matrix(&self, tensor: &str) -> Option<&Arc<ForeignMatrix>> {
        self.matrices.get(tensor)
    }

    /// Says in the configuration how they will be packed, as mlx-lm does: most of them, and those that differ.
    pub(in crate::import) fn describe(&self, config: &mut Value) {
        let packing = |matrix: &ForeignMatrix| (matrix.packing().0, matrix.packing().1);
        let mut counts = BTreeMap::new();
        for matrix in self.matrices.values() {
            *counts.entry(packing(matrix)).or_insert(0) += 1;
        }
        let Some((&usual, _)) = counts.iter().max_by_key(|(_, count)| **count) else { return };
        let describe = |(bits, group): (u64, u64)| json!({ "group_size": group, "bits": bits });
        let mut entry = describe(usual);
        for matrix in self.matrices.values().filter(|matrix| packing(matrix) != usual) {
            entry[&matrix.module] = describe(packing(matrix));
        }
        remove_settings(config);
        config["quantization"] = entry.clone();
        config["quantization_config"] = entry;
    }
}

impl<'a> Source<'a> {
    fn open(root: &Root, shards: &'a Shards, suffixes: Suffixes) -> Result<Self, StoreError> {
        let mut tensors = HashMap::new();
        for shard in &shards.all {
            let file = Arc::new(root.open_file(&shard.name)?);
            for header in &shard.tensors {
                let place = Place { file: Arc::clone(&file), offset: header.offset, len: header.len };
                tensors.insert(header.name.as_str(), Tensor { header, place });
            }
        }
        Ok(Self { suffixes, tensors })
    }

    /// Integers by module.
    fn modules(&self) -> BTreeMap<&'a str, Tensor<'a>> {
        let module = |name: &&'a str| name.strip_suffix(self.suffixes.integers);
        self.tensors.iter().filter_map(|(name, tensor)| Some((module(name)?, tensor.clone()))).collect()
    }

    fn part(&self, module: &str, suffix: &str) -> Option<&Tensor<'a>> {
        self.tensors.get(format!("{module}{suffix}").as_str())
    }

    /// The names that a module's tensors have.
    fn parts_of(&self, module: &str) -> impl Iterator<Item = String> {
        let Suffixes { integers, scales, zeros, order, size } = self.suffixes;
        let suffixes = [Some(integers), Some(scales), Some(zeros), order, size];
        suffixes.into_iter().flatten().map(move |suffix| format!("{module}{suffix}"))
    }

    fn matrix(&self, module: &str, integers: &Tensor<'_>, said: &Said) -> Result<ForeignMatrix, StoreError> {
        let path = integers.place.file.path();
        let bad =
            |reason: String| StoreError::bad_source(path, format!("matrix `{module}`: {reason}; {ADVICE}"));
        let part = |suffix: Option<&str>| self.part(module, suffix?);
        let Some(scales) = part(Some(self.suffixes.scales)) else {
            return Err(bad(format!("it has no scales (`{}`)", self.suffixes.scales)));
        };
        let zeros = part(Some(self.suffixes.zeros));
        let size = part(self.suffixes.size).map(Tensor::size).transpose()?.flatten();
        let tensors = Tensors {
            integers: integers.header,
            scales: scales.header,
            zeros: zeros.map(|zeros| zeros.header),
            size,
        };
        let shape = Shape::of(said.method, tensors).map_err(&bad)?;
        match part(self.suffixes.order) {
            Some(order) if !order.is_order_of(shape)? => {
                return Err(bad(format!(
                    "its inputs are in groups in another order than their own (`{}`, as \"desc_act\" \
                                        or \"actorder\" make it)",
                    order.header.name
                )));
            }
            None if !said.has_groups_of(shape.group, shape.inputs) => {
                return Err(bad(format!(
                    "{} of its inputs share a scale, which config.json does not say",
                    shape.group
                )));
            }
            _ => {}
        }
        let places = [integers.place.clone(), scales.place.clone()];
        ForeignMatrix::new(module.to_owned(), shape, places, zeros.map(|zeros| zeros.place.clone()))
    }

    /// AutoGPTQ writes a bias of zeros where a module has none. Of each kind of module those that are zeros in all layers: a
    /// model that has biases has others somewhere.
    fn zero_biases<'m>(&self, modules: impl Iterator<Item = &'m &'m str>) -> Result<Vec<String>, StoreError> {
        let mut kinds: HashMap<&str, (Vec<String>, bool)> = HashMap::new();
        for module in modules {
            let Some(bias) = self.part(module, ".bias") else { continue };
            let kind = module.rsplit('.').next().unwrap_or(module);
            let (names, are_zeros) = kinds.entry(kind).or_insert((Vec::new(), true));
            *are_zeros = *are_zeros && bias.place.all(|bytes| bytes.iter().all(|byte| *byte == 0))?;
            names.push(bias.header.name.clone());
        }
        let kinds = kinds.into_values().filter(|(_, are_zeros)| *are_zeros);
        Ok(kinds.flat_map(|(names, _)| names).collect())
    }
}

impl Tensor<'_> {
    /// Two numbers, outputs and inputs; `None` if it is something else.
    fn size(&self) -> Result<Option<[u64; 2]>, StoreError> {
        if self.header.dtype != Dtype::I64 || self.header.shape != [2] {
            return Ok(None);
        }
        let mut size = None;
        self.place.all(|bytes| {
            size =
                <[[u8; 8]; 2]>::try_from(bytes.as_chunks().0).ok().map(|sides| sides.map(u64::from_le_bytes));
            true
        })?;
        Ok(size)
    }

    /// Whether it says of each input that it is in the group that it would be in by its place.
    fn is_order_of(&self, shape: Shape) -> Result<bool, StoreError> {
        if self.header.dtype != Dtype::I32 || self.header.shape != [shape.inputs] {
            return Ok(false);
        }
        let mut groups = (0..shape.inputs).map(|input| input / shape.group);
        self.place.all(|bytes| {
            let said = bytes.as_chunks().0.iter().map(|group| u64::from(u32::from_le_bytes(*group)));
            groups.by_ref().take(bytes.len() / 4).eq(said)
        })
    }
}
