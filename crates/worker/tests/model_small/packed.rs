//! Models that other programs have packed, beside the dense ones that their matrices stand for.

use std::collections::BTreeMap;

use half::f16;
use serde_json::{Value, json};

use super::{
    load,
    on::{On, alone, on_every_backend},
    tiny::{Float, Spec, SplitMix, Tensor, Tiny, reference},
};

/// Inputs that share a scale.
const GROUP: usize = 32;
const BITS: usize = 4;

/// Where AWQ has each of eight outputs in a word.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// A matrix as integers, row-major: outputs, then inputs; zeros and scales by output, then group.
struct Matrix {
    outputs: usize,
    inputs: usize,
    integers: Vec<u32>,
    zeros: Vec<u32>,
    scales: Vec<f16>,
}

impl Matrix {
    fn random(outputs: usize, inputs: usize, random: &mut SplitMix) -> Self {
        let groups = outputs * inputs / GROUP;
        let mut within = |low: u64, count: u64| (low + random.next() % count) as u32;
        let integers = (0..outputs * inputs).map(|_| within(0, 16)).collect();
        let zeros = (0..groups).map(|_| within(6, 4)).collect();
        // So that activations keep their size from layer to layer.
        let scale = 0.25 / (inputs as f64).sqrt();
        let scales = (0..groups).map(|_| f16::from_f64(random.between(0.5, 1.5) * scale)).collect();
        Self { outputs, inputs, integers, zeros, scales }
    }

    fn groups(&self) -> usize {
        self.inputs / GROUP
    }

    fn values(&self) -> Vec<f64> {
        let value = |(index, &q): (usize, &u32)| {
            let group = index / GROUP;
            self.scales[group].to_f64() * (f64::from(q) - f64::from(self.zeros[group]))
        };
        self.integers.iter().enumerate().map(value).collect()
    }

    fn q(&self, output: usize, input: usize) -> u32 {
        self.integers[output * self.inputs + input]
    }

    /// As GPTQ has it: eight inputs of an output in a word, eight zeros less 1 in a word.
    fn gptq(&self) -> [(&'static str, Tensor); 4] {
        let weights =
            words(self.inputs / 8, self.outputs, |row, output, place| self.q(output, 8 * row + place));
        let zeros = words(self.groups(), self.outputs / 8, |group, column, place| {
            self.zeros[(8 * column + place) * self.groups() + group] - 1
        });
        let order = (0..self.inputs).flat_map(|input| ((input / GROUP) as u32).to_le_bytes()).collect();
        let order = Tensor { dtype: "I32", shape: vec![self.inputs], bytes: order };
        [("qweight", weights), ("qzeros", zeros), ("scales", self.scales_by_group()), ("g_idx", order)]
    }

    /// As AWQ has it: eight outputs of an input in a word, zeros likewise.
    fn awq(&self) -> [(&'static str, Tensor); 3] {
        let output = |column: usize, place: usize| 8 * column + AWQ_ORDER[place];
        let weights =
            words(self.inputs, self.outputs / 8, |input, column, place| self.q(output(column, place), input));
        let zeros = words(self.groups(), self.outputs / 8, |group, column, place| {
            self.zeros[output(column, place) * self.groups() + group]
        });
        [("qweight", weights), ("qzeros", zeros), ("scales", self.scales_by_group())]
    }

    fn scales_by_group(&self) -> Tensor {
        let places =
            (0..self.groups()).flat_map(|group| (0..self.outputs).map(move |output| (group, output)));
        let bytes =
            places.flat_map(|(group, output)| self.scales[output * self.groups() + group].to_le_bytes());
        Tensor { dtype: "F16", shape: vec![self.groups(), self.outputs], bytes: bytes.collect() }
    }
}

/// Words, each with eight integers of row, column and place.
fn words(rows: usize, columns: usize, integer: impl Fn(usize, usize, usize) -> u32) -> Tensor {
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let word =
        |(row, column)| (0..8).fold(0, |word, place| word | integer(row, column, place) << (BITS * place));
    let bytes = places.flat_map(|place| word(place).to_le_bytes()).collect();
    Tensor { dtype: "I32", shape: vec![rows, columns], bytes }
}

/// A model with float16 embedding and norms whose matrices are packed, and the same with dense float32 matrices.
fn models(settings: Value, pack: impl Fn(&Matrix) -> BTreeMap<&'static str, Tensor>) -> [Tiny; 2] {
    let spec = Spec { dense: Float::F16, norms: Float::F16, kv_heads: 2, ..Spec::default() };
    let [mut packed, mut dense] = [(); 2].map(|()| Tiny::new(spec.clone(), 27));
    let mut random = SplitMix(28);
    let names: Vec<_> = dense.tensors.keys().filter(|name| name.ends_with("_proj.weight")).cloned().collect();
    for name in names {
        let module = name.trim_end_matches(".weight");
        let [outputs, inputs] = dense.tensors[&name].shape[..] else { panic!("{name} is no matrix") };
        let matrix = Matrix::random(outputs, inputs, &mut random);
        let values = matrix.values();
        packed.tensors.remove(&name);
        packed.tensors.extend(pack(&matrix).into_iter().map(|(part, it)| (format!("{module}.{part}"), it)));
        dense.tensors.insert(name.clone(), Float::F32.tensor(vec![outputs, inputs], &values));
        dense.values.insert(module.to_owned(), values);
    }
    packed.config["quantization_config"] = settings;
    packed.spec = Spec { quantization: Some((GROUP, BITS)), scales: Float::F16, ..packed.spec };
    dense.spec = Spec { dense: Float::F32, ..dense.spec };
    [packed, dense]
}

/// Both give the logits that follow from the values of the packed matrices.
fn agree(on: On, [packed, dense]: [Tiny; 2]) {
    let on = On { float: None, ..on };
    let tokens = SplitMix(29).tokens(9, dense.spec.vocab);
    let expected = reference::logits(&dense, &tokens);
    for tiny in [packed, dense] {
        let loaded = load(&tiny, on);
        let mut kv = loaded.model.new_kv();
        on.agrees(&tiny.spec, &alone(&loaded.model, &mut kv, &tokens[..7]), &expected[6]);
        on.agrees(&tiny.spec, &alone(&loaded.model, &mut kv, &tokens[7..]), &expected[8]);
        assert_eq!(loaded.model.private_bytes(), 0, "it is mapped as it is stored");
    }
}

fn a_gptq_model_is_the_dense_one(on: On) {
    let settings = json!({ "quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": false });
    agree(on, models(settings, |matrix| BTreeMap::from(matrix.gptq())));
}

fn an_awq_model_is_the_dense_one(on: On) {
    let settings = json!({ "quant_method": "awq", "bits": BITS, "group_size": GROUP, "version": "gemm" });
    agree(on, models(settings, |matrix| BTreeMap::from(matrix.awq())));
}

on_every_backend![a_gptq_model_is_the_dense_one, an_awq_model_is_the_dense_one];
