//! From an artifact's tensors to matrices that fit the model's products.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    os::unix::fs::FileExt,
    sync::Mutex,
};

use artifact_store::{Artifact, Digest, Dtype, FileRole, TensorEntry, python_json::as_float};
use half::{bf16, f16};
use mlx_rs::Array;

use super::{
    Adaptable, Adapter, AdapterError, LowRank,
    sites::{SitePart, SiteShape},
};

const DOWN: &str = "lora_a";
const UP: &str = "lora_b";

/// The tensors of an adapter, by module.
struct Stored<'a> {
    modules: BTreeMap<&'a str, Pair<'a>>,
    /// Once they are needed.
    files: HashMap<usize, File>,
    scale: f32,
}

/// Those of a module: `[inputs, rank]` and `[rank, outputs]`.
#[derive(Clone, Copy)]
struct Pair<'a> {
    down: &'a TensorEntry,
    up: &'a TensorEntry,
    rank: usize,
    inputs: usize,
    outputs: usize,
}

impl Adaptable {
    /// Bytes that the matrices of an adapter of the model `base` take.
    ///
    /// # Errors
    /// It is of another base, or does not fit the model.
    pub fn size(&self, artifact: &Artifact, base: Digest) -> Result<u64, AdapterError> {
        let stored = Stored::read(artifact, base, self.prefix)?;
        self.check(&stored)?;
        let bytes = |site: &SiteShape| {
            let rank: usize = stored.of(site).iter().map(|(_, pair)| pair.rank).sum();
            (4 * rank as u64).saturating_mul((site.inputs + site.outputs()) as u64)
        };
        Ok(self.sites.iter().map(bytes).sum())
    }

    /// Loads an adapter of the model `base` that takes at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`size`](Self::size), and that it is larger or can't be read.
    pub fn load(&self, artifact: Artifact, base: Digest, limit: u64) -> Result<Adapter, AdapterError> {
        let bytes = self.size(&artifact, base)?;
        if bytes > limit {
            return Err(AdapterError::TooLarge { bytes, limit });
        }
        let mut stored = Stored::read(&artifact, base, self.prefix)?;
        for (index, entry) in artifact.files(FileRole::Weights) {
            stored.files.insert(index, artifact.open_blob(entry)?);
        }
        let deltas =
            self.sites.iter().map(|site| self.delta(site, &stored)).collect::<Result<Vec<_>, _>>()?;
        Ok(Adapter { artifact, bytes, deltas: Mutex::new(deltas) })
    }

    /// Every pair has to fit, and to have an effect.
    fn check(&self, stored: &Stored<'_>) -> Result<(), AdapterError> {
        for (&module, pair) in &stored.modules {
            let parts = || {
                let all = self.sites.iter().flat_map(|site| site.parts.iter().map(move |part| (site, part)));
                all.filter(|(_, part)| &*part.module == module)
            };
            // A module may be cut into several parts.
            let Some(outputs) = parts().map(|(_, part)| part.first + part.outputs).max() else {
                return Err(AdapterError::NoSite { module: module.to_owned() });
            };
            let fits = pair.outputs == outputs && parts().all(|(site, _)| site.inputs == pair.inputs);
            if !fits {
                let inputs = parts().map(|(site, _)| site.inputs).max().unwrap_or_default();
                return Err(misfit(
                    module,
                    format!(
                        "have {} inputs and {} outputs; the module has {inputs} and {outputs}",
                        pair.inputs, pair.outputs
                    ),
                ));
            }
        }
        Ok(())
    }

    /// What is added to one product: the ranks of its modules stand side by side.
    fn delta(&self, site: &SiteShape, stored: &Stored<'_>) -> Result<Option<LowRank>, AdapterError> {
        let modules = stored.of(site);
        let (rank, outputs) = (modules.iter().map(|(_, pair)| pair.rank).sum::<usize>(), site.outputs());
        if rank == 0 {
            return Ok(None);
        }
        let (mut down, mut up) = (vec![0.0; rank * site.inputs], vec![0.0; outputs * rank]);
        let mut first_rank = 0;
        for (module, pair) in modules {
            let values = stored.values(pair.down)?;
            for (input, row) in values.chunks_exact(pair.rank).enumerate() {
                for (at, value) in row.iter().enumerate() {
                    down[(first_rank + at) * site.inputs + input] = *value;
                }
            }
            let values = stored.values(pair.up)?;
            let mut row = 0;
            for part in &site.parts {
                if &*part.module == module {
                    let of_part = &mut up[row * rank..(row + part.outputs) * rank];
                    for (at, values) in values.chunks_exact(pair.outputs).enumerate() {
                        let values = &values[part.first..];
                        for (row, value) in of_part.chunks_exact_mut(rank).zip(values) {
                            row[first_rank + at] = stored.scale * value;
                        }
                    }
                }
                row += part.outputs;
            }
            first_rank += pair.rank;
        }
        let array = |values: &[f32], rows: usize| {
            Array::from_slice(values, &[rows as i32, (values.len() / rows) as i32])
        };
        let [down, up] = self.backend.low_rank([array(&down, rank), array(&up, outputs)]);
        Ok(Some(LowRank { down, up }))
    }
}

impl SiteShape {
    fn outputs(&self) -> usize {
        self.parts.iter().map(|part| part.outputs).sum()
    }
}

impl<'a> Pair<'a> {
    fn new(module: &str, halves: [Option<&'a TensorEntry>; 2]) -> Result<Self, AdapterError> {
        let [Some(down), Some(up)] = halves else {
            return Err(misfit(module, "are not two".to_owned()));
        };
        if [down, up].iter().any(|tensor| ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(&tensor.dtype)) {
            return Err(misfit(module, format!("are of types {} and {}", down.dtype, up.dtype)));
        }
        match (&down.shape[..], &up.shape[..]) {
            (&[inputs, rank], &[of_up, outputs])
                if rank == of_up && rank > 0 && inputs > 0 && outputs > 0 =>
            {
                let [rank, inputs, outputs] = [rank, inputs, outputs].map(|size| size as usize);
                Ok(Self { down, up, rank, inputs, outputs })
            }
            (down, up) => Err(misfit(module, format!("have shapes {down:?} and {up:?}"))),
        }
    }
}

impl<'a> Stored<'a> {
    fn read(artifact: &'a Artifact, base: Digest, prefix: &str) -> Result<Self, AdapterError> {
        let manifest = &artifact.manifest;
        if manifest.base != Some(base) {
            return Err(AdapterError::OtherBase { base, found: manifest.base });
        }
        let scale = as_float(&manifest.config["lora_parameters"]["scale"]).map(|scale| scale as f32);
        let scale = scale.filter(|scale| scale.is_finite()).ok_or(AdapterError::NoScale)?;
        let mut halves: BTreeMap<&str, [Option<&TensorEntry>; 2]> = BTreeMap::new();
        for tensor in &manifest.tensors {
            let (module, part) = tensor.name.rsplit_once('.').unwrap_or_default();
            let module = module.strip_prefix(prefix).unwrap_or(module);
            match [DOWN, UP].iter().position(|known| *known == part) {
                Some(at) => halves.entry(module).or_default()[at] = Some(tensor),
                None => return Err(AdapterError::NoSite { module: tensor.name.clone() }),
            }
        }
        let pair = |(module, halves)| Pair::new(module, halves).map(|pair| (module, pair));
        let modules = halves.into_iter().map(pair).collect::<Result<_, _>>()?;
        Ok(Self { modules, files: HashMap::new(), scale })
    }

    /// The pairs of a site's modules, each once.
    fn of<'s>(&'s self, site: &'s SiteShape) -> Vec<(&'s str, Pair<'a>)> {
        let mut pairs: Vec<(&str, Pair<'a>)> = Vec::new();
        for SitePart { module, .. } in &site.parts {
            let module: &str = module;
            let known = pairs.iter().any(|(other, _)| *other == module);
            if let Some(pair) = self.modules.get(module).filter(|_| !known) {
                pairs.push((module, *pair));
            }
        }
        pairs
    }

    fn values(&self, tensor: &TensorEntry) -> Result<Vec<f32>, AdapterError> {
        let mut bytes = vec![0; tensor.len as usize];
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let file = self.files.get(&tensor.file).ok_or_else(missing)?;
        file.read_exact_at(&mut bytes, tensor.offset)?;
        let halves = || bytes.chunks_exact(2).map(|half| [half[0], half[1]]);
        Ok(match tensor.dtype {
            Dtype::F16 => halves().map(|half| f16::from_le_bytes(half).to_f32()).collect(),
            Dtype::BF16 => halves().map(|half| bf16::from_le_bytes(half).to_f32()).collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
        })
    }
}

fn misfit(module: &str, problem: String) -> AdapterError {
    AdapterError::Misfit { module: module.to_owned(), problem }
}
