//! Attention: decode over long contexts, and prefill.

use mlx_ext::cpu::{Attention, KvDtype, KvPool, KvShape, StepRow};
use mlx_rs::{
    Array,
    fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention},
    random,
    transforms::eval,
};

use super::{bandwidth, peak::Peak, timing, work};

/// Keys and values of all layers together, at least: more than caches hold.
const BYTES: usize = 192 << 20;
/// Tokens that are appended at a time while a context is made.
const CHUNK: i32 = 512;

#[derive(Clone, Copy)]
struct Heads {
    name: &'static str,
    queries: i32,
    kv: i32,
    dim: i32,
}

const MODELS: [Heads; 2] = [
    Heads { name: "9 heads on 3, 64 each", queries: 9, kv: 3, dim: 64 },
    Heads { name: "32 heads on 8, 128 each", queries: 32, kv: 8, dim: 128 },
];

/// Sequences and the tokens of each.
const DECODE: [(i32, i32); 3] = [(1, 8192), (8, 2048), (32, 1024)];
/// New tokens and those before them.
const PREFILL: [(i32, i32); 2] = [(512, 0), (512, 2048)];

/// Sequences with their keys and values in a pool.
struct Bench {
    heads: Heads,
    pool: KvPool,
    /// Blocks of each sequence.
    tables: Vec<Vec<i32>>,
    cos: Array,
    sin: Array,
}

/// Prints a table of decode and one of prefill.
pub(crate) fn run(peak: Option<&Peak>) {
    println!(
        "\nAttention, decode: GB/s of keys and values (float32), beside a plain read of as many bytes\n"
    );
    println!("| model | sequences x tokens | kernel | plain read | share | MLX's operation |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for heads in MODELS {
        DECODE.into_iter().for_each(|(rows, context)| decode(heads, rows, context));
    }
    println!("\nAttention, prefill: billion multiply-adds/s, and their share of the instruction's peak\n");
    println!("| model | new tokens, after | kernel | share of the peak | MLX's operation | ratio |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for heads in MODELS {
        PREFILL.into_iter().for_each(|(tokens, before)| prefill(heads, tokens, before, peak));
    }
    println!(
        "\nOurs also rotates queries and keys and writes keys and values to their blocks; MLX's operation does not."
    );
}

fn decode(heads: Heads, rows: i32, context: i32) {
    let layer_bytes = (rows * context * heads.kv * heads.dim) as usize * 2 * size_of::<f32>();
    let layers = BYTES.div_ceil(layer_bytes) as i32;
    let bytes = layer_bytes * layers as usize;
    let bench = Bench::new(heads, layers, rows, context);
    bench.fill(context - 1);
    let qkv = bench.qkv(rows);
    let memory = vec![1_u32; bytes / size_of::<u32>()];
    let [ours, read] = timing::in_turns([&mut || bench.attend(&qkv, 1, context - 1, None), &mut || {
        bandwidth::read(&[&memory])
    }]);
    drop(memory);
    let queries = normal(&[rows, heads.queries, 1, heads.dim]);
    let keys_values: Vec<[Array; 2]> =
        (0..layers).map(|_| [(); 2].map(|()| normal(&[rows, heads.kv, context, heads.dim]))).collect();
    let theirs = timing::patiently(|| {
        let results = keys_values.iter().map(|[keys, values]| {
            scaled_dot_product_attention(&queries, keys, values, heads.scale(), None, None).unwrap()
        });
        eval(&results.collect::<Vec<_>>()).unwrap();
    });
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    println!(
        "| {} | {rows} x {context} | {:.1} | {:.1} | {:.0} % | {:.2} |",
        heads.name,
        rate(ours),
        rate(read),
        100.0 * read / ours,
        rate(theirs)
    );
}

fn prefill(heads: Heads, tokens: i32, before: i32, peak: Option<&Peak>) {
    let bench = Bench::new(heads, 1, 1, before + tokens);
    bench.fill(before);
    let qkv = bench.qkv(tokens);
    let queries = normal(&[1, heads.queries, tokens, heads.dim]);
    let [keys, values] = [(); 2].map(|()| normal(&[1, heads.kv, before + tokens, heads.dim]));
    let [ours, theirs] = timing::in_turns([&mut || bench.attend(&qkv, tokens, before, None), &mut || {
        let mask = ScaledDotProductAttentionMask::Causal;
        let result = scaled_dot_product_attention(&queries, &keys, &values, heads.scale(), mask, None);
        eval([&result.unwrap()]).unwrap();
    }]);
    // Each token sees itself and all before it; a pair takes a product of queries and keys, and one of its weight and values.
    let (new, old) = (f64::from(tokens), f64::from(before));
    let pairs = new * old + new * (new + 1.0) / 2.0;
    let products = 2.0 * pairs * f64::from(heads.queries * heads.dim);
    println!(
        "| {} | {tokens}, {before} | {:.1} | {} | {:.1} | {:.1} |",
        heads.name,
        products / ours / 1e9,
        work::share(products / ours, peak),
        products / theirs / 1e9,
        theirs / ours
    );
}

impl Heads {
    fn scale(self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }
}

impl Bench {
    fn new(heads: Heads, layers: i32, rows: i32, context: i32) -> Self {
        let blocks = context.unsigned_abs().div_ceil(KvPool::BLOCK_TOKENS as u32) as i32;
        let shape = KvShape { layers, kv_heads: heads.kv, head_dim: heads.dim, dtype: KvDtype::Float32 };
        let pool = KvPool::new(shape, rows * blocks).unwrap();
        let tables = (0..rows).map(|row| (row * blocks..(row + 1) * blocks).collect()).collect();
        let [cos, sin] = [(); 2].map(|()| normal(&[context, heads.dim / 2]));
        Self { heads, pool, tables, cos, sin }
    }

    /// Gives every sequence `tokens` tokens. What they are does not matter, so each only sees a few others.
    fn fill(&self, tokens: i32) {
        for position in (0..tokens).step_by(CHUNK as usize) {
            let new = CHUNK.min(tokens - position);
            let qkv = self.qkv(new * self.tables.len() as i32);
            self.attend(&qkv, new, position, Some(32));
        }
    }

    fn qkv(&self, tokens: i32) -> Array {
        normal(&[tokens, (self.heads.queries + 2 * self.heads.kv) * self.heads.dim])
    }

    /// `new` tokens of each sequence after `position`, in every layer.
    fn attend(&self, qkv: &Array, new: i32, position: i32, window: Option<i32>) {
        let row = |blocks| StepRow { new_tokens: new, position, blocks };
        let rows: Vec<StepRow<'_>> = self.tables.iter().map(|blocks| row(blocks)).collect();
        let step = self.pool.step(&rows).unwrap();
        let layer = |layer| Attention {
            qkv,
            appends: true,
            cos: &self.cos,
            sin: &self.sin,
            layer,
            heads: self.heads.queries,
            scale: self.heads.scale(),
            window,
            chunked: false,
            traditional: false,
            query_scale: None,
            sinks: None,
            soft_cap: None,
        };
        let results = (0..self.pool.shape().layers).map(|index| step.attend(&layer(index)).unwrap());
        eval(&results.collect::<Vec<_>>()).unwrap();
    }
}

fn normal(shape: &[i32]) -> Array {
    let array = random::normal::<f32>(shape, None, None, None).unwrap();
    eval([&array]).unwrap();
    array
}
