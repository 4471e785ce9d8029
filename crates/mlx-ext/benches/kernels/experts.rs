//! Feed-forward networks of experts, each beside a dense one that takes as many products for a row.

use std::collections::BTreeSet;

use mlx_ext::cpu::{self, ExpertSet, Experts, Gate, Linear, Matrix, Routing};
use mlx_rs::{Array, random, transforms::eval};

use super::{
    peak::Peak,
    weights::{Format, Place, Storage, Weight, Weights},
    work::{self, Work},
};

const HIDDEN: i32 = 2048;
pub(crate) const INNER: i32 = 1024;
pub(crate) const EXPERTS: usize = 64;
pub(crate) const CHOSEN: usize = 8;
/// Rows of activations: decode of one sequence, of some, and a part of a prompt.
const ROWS: [i32; 3] = [1, 8, 64];
/// Calls of one measurement, each with rows of its own: together they read more weights than caches hold.
const CALLS: usize = 8;

/// Prints a table of experts and dense networks.
pub(crate) fn run(peak: Option<&Peak>) {
    println!(
        "\nFeed-forward networks with {CHOSEN} of {EXPERTS} experts of {HIDDEN}-{INNER}, and dense ones of {HIDDEN}-{}: GB/s \
         of the weights that are read, beside a plain read of the same, and billion multiply-adds/s\n",
        INNER * CHOSEN as i32
    );
    work::header();
    let affine = |bits| Storage::Affine { bits, group: 64 };
    for (name, storage) in [("4 bits", affine(4)), ("8 bits", affine(8)), ("mxfp4", Storage::Mxfp4)] {
        of_experts(&format!("experts, {name}"), storage, peak);
        dense(&format!("dense, {name}"), storage, peak);
    }
}

fn of_experts(layer: &str, storage: Storage, peak: Option<&Peak>) {
    let weights = Weights::of_copies(&formats(INNER, storage), Place::MappedFile, EXPERTS);
    let part =
        |part: usize| -> Vec<Matrix<'_>> { weights.copies.iter().map(|copy| copy[part].matrix()).collect() };
    let [gates, ups, downs] = [0, 1, 2].map(part);
    let set = ExpertSet::new([&gates, &ups, &downs], HIDDEN, INNER).unwrap();
    for rows in ROWS {
        let calls: Vec<[Array; 2]> =
            (0..CALLS).map(|_| [normal(rows, HIDDEN), normal(rows, EXPERTS as i32)]).collect();
        let read = calls.iter().flat_map(|[_, router]| chosen(router));
        let words = read.flat_map(|expert| weights.words_of(expert)).collect();
        let mut compute = || {
            for [x, router] in &calls {
                let job = Experts {
                    x,
                    router,
                    routing: Routing::softmax(CHOSEN as i32, true),
                    set: &set,
                    gate: Gate::Silu,
                    residual: None,
                    int8: false,
                };
                eval([&cpu::experts(&job).unwrap()]).unwrap();
            }
        };
        Work { layer, rows, products: products(rows), words, compute: &mut compute }.measure(peak);
    }
}

fn dense(layer: &str, storage: Storage, peak: Option<&Peak>) {
    let weights = Weights::of_copies(&formats(INNER * CHOSEN as i32, storage), Place::MappedFile, CALLS);
    for rows in ROWS {
        let x = normal(rows, HIDDEN);
        let mut compute = || weights.copies.iter().for_each(|copy| eval([&feed_forward(&x, copy)]).unwrap());
        let words = weights.words();
        Work { layer, rows, products: products(rows), words, compute: &mut compute }.measure(peak);
    }
}

fn feed_forward(x: &Array, copy: &[Weight]) -> Array {
    let product = |x: &Array, weights: &[Weight], gate| {
        let matrices: Vec<Matrix<'_>> = weights.iter().map(Weight::matrix).collect();
        cpu::linear(&Linear { x, norm: None, matrices: &matrices, gate, residual: None, int8: false })
            .unwrap()
    };
    product(&product(x, &copy[..2], Some(Gate::Silu)), &copy[2..], None)
}

/// Multiply-adds of one measurement.
fn products(rows: i32) -> f64 {
    f64::from(rows * HIDDEN) * f64::from(3 * INNER) * (CHOSEN * CALLS) as f64
}

/// Gate, up and down.
pub(crate) fn formats(inner: i32, storage: Storage) -> [Format; 3] {
    let up = Format { outputs: inner, inputs: HIDDEN, storage };
    [up, up, Format { outputs: HIDDEN, inputs: inner, storage }]
}

/// The experts that any row chooses.
pub(crate) fn chosen(router: &Array) -> BTreeSet<usize> {
    let of_row = |scores: &[f32]| {
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(CHOSEN);
        order
    };
    router.as_slice::<f32>().chunks(EXPERTS).flat_map(of_row).collect()
}

fn normal(rows: i32, columns: i32) -> Array {
    let array = random::normal::<f32>(&[rows, columns], None, None, None).unwrap();
    eval([&array]).unwrap();
    array
}
