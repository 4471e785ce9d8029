//! Layers with a state: steps of some sequences, and a part of a prompt.

use mlx_ext::cpu::{self, Convolution, GatedDelta, StatePool, StateRow, StateStep};
use mlx_rs::{Array, random, transforms::eval};

use super::{bandwidth, peak::Peak, timing, work};

/// States of all layers together, read and written, at least: more than caches hold.
const BYTES: usize = 192 << 20;
/// Layers at most: where states are small, models have no more, and caches hold them.
const MAX_LAYERS: usize = 48;
/// Sequences, and new tokens of each.
const STEPS: [(i32, i32); 4] = [(1, 1), (8, 1), (32, 1), (1, 512)];

/// A kind of layer with a state.
#[derive(Clone, Copy)]
enum Kind {
    /// As in Qwen 3 Next.
    Delta { key_heads: i32, value_heads: i32, dim: i32 },
    /// As in LFM 2: gated.
    Convolution { channels: i32, taps: i32 },
}

const KINDS: [(&str, Kind); 2] = [
    ("gated delta net, 32 heads of 128 x 128", Kind::Delta { key_heads: 16, value_heads: 32, dim: 128 }),
    ("short convolution, 2048 channels, 3 taps", Kind::Convolution { channels: 2048, taps: 3 }),
];

/// A kind of layer, many times, in a pool with two states of each sequence.
struct Bench {
    kind: Kind,
    layers: usize,
    pool: StatePool,
    sequences: i32,
    /// What the tokens bring, and what does not depend on them.
    inputs: Vec<Array>,
}

/// Prints a table of kinds of layers and steps.
pub(crate) fn run(peak: Option<&Peak>) {
    println!(
        "\nRecurrent states: GB/s of states (float32, read and written) and of what tokens bring and get, beside a plain copy \
         of half as many bytes; billion multiply-adds/s\n"
    );
    println!(
        "| layer | sequences x tokens | microseconds | kernel | plain copy | share | multiply-adds | share of the peak |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (name, kind) in KINDS {
        STEPS.into_iter().for_each(|(sequences, tokens)| kind.measure(name, sequences, tokens, peak));
    }
}

impl Kind {
    fn measure(self, name: &str, sequences: i32, tokens: i32, peak: Option<&Peak>) {
        let bench = Bench::new(self, sequences, sequences * tokens);
        // Memory that was never written is not memory yet.
        for turn in 0..2 {
            bench.compute(&bench.step(tokens, turn, false));
        }
        let step = bench.step(tokens, 0, true);
        let bytes = bench.layers * self.bytes(sequences, tokens);
        let (from, mut to) = (vec![1_u32; bytes / 8], vec![2_u32; bytes / 8]);
        let [ours, copied] =
            timing::in_turns([&mut || bench.compute(&step), &mut || bandwidth::copy(&from, &mut to)]);
        let products = bench.layers as f64 * self.products(sequences * tokens);
        println!(
            "| {name} | {sequences} x {tokens} | {:.1} | {:.1} | {:.1} | {:.0} % | {:.1} | {} |",
            ours / bench.layers as f64 * 1e6,
            bytes as f64 / ours / 1e9,
            bytes as f64 / copied / 1e9,
            100.0 * copied / ours,
            products / ours / 1e9,
            work::share(products / ours, peak),
        );
    }

    /// Floats of a layer's state.
    fn state(self) -> usize {
        let floats = match self {
            Self::Delta { value_heads, dim, .. } => value_heads * dim * dim,
            Self::Convolution { channels, taps } => (taps - 1) * channels,
        };
        floats as usize
    }

    /// Floats that a token brings and gets.
    fn of_token(self) -> usize {
        let floats = match self {
            Self::Delta { key_heads, value_heads, dim } => {
                2 * (key_heads + value_heads) * dim + 2 * value_heads
            }
            Self::Convolution { channels, .. } => 4 * channels,
        };
        floats as usize
    }

    /// Of one layer: states are read and written, tokens read or written.
    fn bytes(self, sequences: i32, tokens: i32) -> usize {
        let (states, tokens) = (2 * sequences as usize, (sequences * tokens) as usize);
        (states * self.state() + tokens * self.of_token()) * size_of::<f32>()
    }

    /// Multiply-adds of one layer. A token recalls from each number of a delta net's state, changes it, and is answered by it.
    fn products(self, tokens: i32) -> f64 {
        let of_token = match self {
            Self::Delta { value_heads, dim, .. } => 3 * value_heads * dim * dim,
            Self::Convolution { channels, taps } => taps * channels,
        };
        f64::from(tokens) * f64::from(of_token)
    }

    fn inputs(self, tokens: i32) -> Vec<Array> {
        match self {
            Self::Delta { key_heads, value_heads, dim } => {
                // Queries and keys of a length near 1 or below.
                let qkv = normal(&[tokens, (2 * key_heads + value_heads) * dim], 0.05);
                let gates = normal(&[tokens, 2 * value_heads], 1.0);
                vec![qkv, gates, normal(&[value_heads], 1.0), normal(&[value_heads], 1.0)]
            }
            Self::Convolution { channels, taps } => {
                vec![normal(&[tokens, 3 * channels], 1.0), normal(&[taps, channels], 1.0)]
            }
        }
    }
}

impl Bench {
    fn new(kind: Kind, sequences: i32, tokens: i32) -> Self {
        let of_layer = 2 * sequences as usize * kind.state() * size_of::<f32>();
        let layers = BYTES.div_ceil(of_layer).min(MAX_LAYERS);
        let pool = StatePool::new(layers * kind.state(), 2 * sequences).unwrap();
        Self { kind, layers, pool, sequences, inputs: kind.inputs(tokens) }
    }

    /// Each sequence writes the state `turn` of its two, and goes on from the other one, if it goes on.
    fn step(&self, tokens: i32, turn: i32, goes_on: bool) -> StateStep {
        let rows = (0..self.sequences).map(|sequence| StateRow {
            new_tokens: tokens,
            from: goes_on.then_some(2 * sequence + 1 - turn),
            to: 2 * sequence + turn,
            snapshots: &[],
        });
        self.pool.step(&rows.collect::<Vec<_>>()).unwrap()
    }

    fn compute(&self, step: &StateStep) {
        let results = (0..self.layers).map(|layer| self.layer(step, layer * self.kind.state()));
        eval(&results.collect::<Vec<_>>()).unwrap();
    }

    fn layer(&self, step: &StateStep, state_at: usize) -> Array {
        match (self.kind, &self.inputs[..]) {
            (Kind::Delta { key_heads, value_heads, dim }, [qkv, gates, log_rates, biases]) => {
                let (key_dim, value_dim) = (dim, dim);
                let job = GatedDelta {
                    qkv,
                    gates,
                    log_rates,
                    biases,
                    key_heads,
                    value_heads,
                    key_dim,
                    value_dim,
                    state_at,
                };
                cpu::gated_delta(step, &job).unwrap()
            }
            (Kind::Convolution { .. }, [x, weight]) => {
                let job = Convolution { x, weight, bias: None, gated: true, silu: false, state_at };
                cpu::convolution(step, &job).unwrap()
            }
            (_, inputs) => panic!("{} inputs", inputs.len()),
        }
    }
}

fn normal(shape: &[i32], scale: f32) -> Array {
    let array = random::normal::<f32>(shape, None, scale, None).unwrap();
    eval([&array]).unwrap();
    array
}
