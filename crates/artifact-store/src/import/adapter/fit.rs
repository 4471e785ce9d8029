//! Whether an adapter's tensors fit the base's.

use std::collections::{BTreeMap, HashMap};

use crate::{Dtype, Manifest};

use super::names::PARTS;

/// Stands before the names of a language model that is part of a larger one. mlx-lm and others leave it out or not.
const LANGUAGE_MODEL: &str = "language_model.";
/// In names of the modules that can't be adapted, and what they are.
const REFUSED: [(&str, &str); 3] =
    [("embed_tokens", "an embedding"), ("switch_mlp", "experts"), (".experts.", "experts")];

/// Why an adapter does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit(String);

/// The shapes of a pair.
#[derive(Default)]
struct Pair<'a>([Option<&'a [u64]>; 2]);

impl Misfit {
    pub(super) fn describe(&self, base: &str) -> String {
        format!("{}; it was to adapt `{base}`", self.0)
    }
}

/// Checks tensors (name, type, shape), whose rank the configuration says.
pub(super) fn check<'a>(
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [u64])>,
    rank: u64,
    base: &Manifest,
) -> Result<(), Misfit> {
    let mut pairs: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
    for (name, dtype, shape) in tensors {
        if ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(&dtype) {
            return Err(Misfit(format!("tensor `{name}` is of type {dtype}, not F32, F16 or BF16")));
        }
        let (module, part) = name.rsplit_once('.').unwrap_or_default();
        let place = PARTS
            .iter()
            .position(|known| *known == part)
            .map(|at| &mut pairs.entry(module).or_default().0[at]);
        match place {
            Some(place @ None) => *place = Some(shape),
            _ => return Err(Misfit(format!("tensor `{name}` is there twice"))),
        }
    }
    if pairs.is_empty() {
        return Err(Misfit("it has no matrices".to_owned()));
    }
    let shapes: HashMap<&str, &[u64]> =
        base.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
    pairs.iter().try_for_each(|(module, pair)| pair.check(module, rank, &shapes))
}

impl Pair<'_> {
    fn check(&self, module: &str, rank: u64, base: &HashMap<&str, &[u64]>) -> Result<(), Misfit> {
        if let Some((_, what)) = REFUSED.iter().find(|(part, _)| module.contains(part)) {
            return Err(Misfit(format!(
                "it adapts `{module}`, {what}, which can't be served: train it without, or fuse it with its base and \
                 import the result as a separate model"
            )));
        }
        let [Some(a), Some(b)] = self.0 else {
            return Err(Misfit(format!("of `{module}` there is only one of {} and {}", PARTS[0], PARTS[1])));
        };
        let Some(weight) = find(base, module, "weight") else {
            return Err(Misfit(format!("it adapts `{module}`, which the base does not have")));
        };
        let (&[inputs, of_a], &[of_b, outputs]) = (a, b) else {
            return Err(Misfit(format!(
                "the matrices of `{module}` have shapes {a:?} and {b:?}, not two dimensions"
            )));
        };
        if of_a != rank || of_b != rank {
            return Err(Misfit(format!(
                "the matrices of `{module}` have shapes {a:?} and {b:?}; the configuration says rank {rank}"
            )));
        }
        let quantized = find(base, module, "scales").is_some();
        let fits = match *weight {
            [rows, columns] => rows == outputs && inputs_fit(inputs, columns, quantized),
            _ => false,
        };
        if fits { Ok(()) } else { Err(misshapen(module, [inputs, outputs], weight, quantized)) }
    }
}

/// Whether a row of `columns` numbers, which may be words of packed ones, has so many inputs.
fn inputs_fit(inputs: u64, columns: u64, quantized: bool) -> bool {
    let words = columns.checked_mul(32);
    let packed = |bits: u64| words.is_some() && words == inputs.checked_mul(bits);
    if quantized { [2, 3, 4, 5, 6, 8].into_iter().any(packed) } else { inputs == columns }
}

fn misshapen(module: &str, [inputs, outputs]: [u64; 2], weight: &[u64], quantized: bool) -> Misfit {
    let packed = if quantized { ", packed" } else { "" };
    Misfit(format!(
        "it adapts `{module}` with {inputs} inputs and {outputs} outputs; the base's matrix has shape {weight:?}{packed}"
    ))
}

/// The shape of a tensor of the base.
fn find<'a>(base: &HashMap<&str, &'a [u64]>, module: &str, part: &str) -> Option<&'a [u64]> {
    let named = |module: &str| base.get(format!("{module}.{part}").as_str()).copied();
    let inner = || module.strip_prefix(LANGUAGE_MODEL).and_then(named);
    named(module).or_else(inner).or_else(|| named(&format!("{LANGUAGE_MODEL}{module}")))
}
