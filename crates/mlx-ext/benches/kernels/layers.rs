//! Whole layers: one with dense matrices, one with experts, and one with a gated delta net in place of attention.

use mlx_ext::cpu::{
    self, Activation, Attention, Convolution, ExpertSet, Experts, Gate, Gated, GatedDelta, KvDtype, KvPool,
    KvShape, Linear, Matrix, NormKind, NormedPart, Routing, Rowwise, StatePool, StateRow, StateStep, Step,
    StepRow,
};
use mlx_rs::{Array, random, transforms::eval};

use super::{
    experts::{self, CHOSEN, EXPERTS, INNER},
    peak::Peak,
    weights::{Format, Place, Storage, Weight, Weights},
    work::{self, Work},
};

const HIDDEN: i32 = 2048;
/// Of attention.
const HEADS: i32 = 16;
const KV_HEADS: i32 = 4;
/// Components of a head, of either kind.
const HEAD_DIM: i32 = 128;
/// Of the gated delta net.
const KEY_HEADS: i32 = 16;
const VALUE_HEADS: i32 = 32;
/// Tokens that its convolution looks at.
const TAPS: i32 = 4;
/// Values of the queries, keys and values of a gated delta net, and what follows them in a row of its inputs.
const DELTA_QKV: i32 = (2 * KEY_HEADS + VALUE_HEADS) * HEAD_DIM;
const DELTA_VALUES: i32 = VALUE_HEADS * HEAD_DIM;
const DELTA_GATES: i32 = 2 * VALUE_HEADS;
/// Of the dense feed-forward network: it has as many products as the chosen experts.
const DENSE_INNER: i32 = INNER * CHOSEN as i32;
/// Layers behind each other: together they read more weights than caches hold.
const LAYERS: usize = 8;
/// Tokens of the sequence before a step of one row; more rows are the beginning of a prompt.
const CONTEXT: i32 = 128;
const ROWS: [i32; 4] = [1, 8, 64, 512];
const EPS: f32 = 1e-6;
/// Of what is added to a router: what the router itself computes does not count beside it.
const DECISIVE: f32 = 1e4;
const STORAGE: Storage = Storage::Affine { bits: 4, group: 64 };

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dense,
    Experts,
    Hybrid,
}

/// Layers of one kind behind each other, and the memory of their sequence.
struct Bench {
    kind: Kind,
    /// Of each layer: inputs and output of the mixer, then gate, up and down, or the router.
    weights: Weights,
    /// All layers have the same.
    experts: Option<Weights>,
    norm: Array,
    heads: HeadArrays,
    kv: KvPool,
    states: StatePool,
    cos: Array,
    sin: Array,
}

/// What is small of a mixer.
struct HeadArrays {
    norm: Array,
    taps: Array,
    log_rates: Array,
    biases: Array,
}

/// What one measurement goes on with: the same step of each layer.
struct Inputs<'a> {
    x: Array,
    /// What is added to each layer's router, and decides: so it is known which experts are read.
    routers: Vec<Array>,
    set: Option<&'a ExpertSet>,
    kv: Step,
    states: StateStep,
}

/// Prints a table of layers and numbers of rows.
pub(crate) fn run(peak: Option<&Peak>) {
    println!(
        "\nWhole layers of {HIDDEN}, {STORAGE}: GB/s of the weights that are read, and of states that are read and written, \
         beside a plain read of as much, and billion multiply-adds/s of products with weights. Attention is of {HEADS} heads on {KV_HEADS}, {HEAD_DIM} each; one row has \
         {CONTEXT} tokens before it, several are the beginning of a prompt\n"
    );
    work::header();
    let experts = format!("{CHOSEN} of {EXPERTS} experts of {HIDDEN}-{INNER}");
    for (name, kind) in [
        (format!("dense: attention, {HIDDEN}-{DENSE_INNER}"), Kind::Dense),
        (format!("experts: attention, {experts}"), Kind::Experts),
        (format!("hybrid: gated delta net, {HIDDEN}-{DENSE_INNER}"), Kind::Hybrid),
    ] {
        Bench::new(kind).measure(&name, peak);
    }
}

impl Kind {
    fn formats(self) -> Vec<Format> {
        let format = |outputs, inputs| Format { outputs, inputs, storage: STORAGE };
        let heads = HEADS * HEAD_DIM;
        let mut formats = match self {
            Self::Hybrid => {
                vec![format(DELTA_QKV + DELTA_VALUES + DELTA_GATES, HIDDEN), format(HIDDEN, DELTA_VALUES)]
            }
            Self::Dense | Self::Experts => {
                vec![format(heads + 2 * KV_HEADS * HEAD_DIM, HIDDEN), format(HIDDEN, heads)]
            }
        };
        match self {
            Self::Experts => formats.push(format(EXPERTS as i32, HIDDEN)),
            Self::Dense | Self::Hybrid => formats.extend(experts::formats(DENSE_INNER, STORAGE)),
        }
        formats
    }

    /// Multiply-adds of one row in one layer.
    fn products(self) -> f64 {
        let own: f64 = self.formats().into_iter().map(Format::products).sum();
        let expert: f64 = experts::formats(INNER, STORAGE).into_iter().map(Format::products).sum();
        own + if self == Self::Experts { CHOSEN as f64 * expert } else { 0.0 }
    }
}

impl Bench {
    fn new(kind: Kind) -> Self {
        let experts = || Weights::of_copies(&experts::formats(INNER, STORAGE), Place::MappedFile, EXPERTS);
        let shape = KvShape {
            layers: LAYERS as i32,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            dtype: KvDtype::Float32,
        };
        let longest = ROWS.into_iter().max().unwrap_or_default().max(CONTEXT + 1);
        let blocks = blocks_of(longest);
        let [cos, sin] = [(); 2].map(|()| normal(&[blocks * KvPool::BLOCK_TOKENS as i32, HEAD_DIM / 2], 1.0));
        Self {
            kind,
            weights: Weights::of_copies(&kind.formats(), Place::MappedFile, LAYERS),
            experts: (kind == Kind::Experts).then(experts),
            norm: normal(&[HIDDEN], 1.0),
            heads: HeadArrays {
                norm: normal(&[HEAD_DIM], 0.1),
                taps: normal(&[TAPS, DELTA_QKV], 1.0),
                log_rates: normal(&[VALUE_HEADS], 1.0),
                biases: normal(&[VALUE_HEADS], 1.0),
            },
            kv: KvPool::new(shape, blocks).unwrap(),
            states: StatePool::new(LAYERS * (convolution_state() + delta_state()), 2).unwrap(),
            cos,
            sin,
        }
    }

    fn measure(&self, name: &str, peak: Option<&Peak>) {
        let matrices = |part: usize| -> Vec<Matrix<'_>> {
            self.experts.iter().flat_map(|experts| &experts.copies).map(|copy| copy[part].matrix()).collect()
        };
        let [gates, ups, downs] = [0, 1, 2].map(matrices);
        let set =
            self.experts.as_ref().map(|_| ExpertSet::new([&gates, &ups, &downs], HIDDEN, INNER).unwrap());
        // What one row goes on with.
        self.compute(&self.inputs(CONTEXT, 0, set.as_ref()));
        let states = vec![1_u32; LAYERS * (convolution_state() + delta_state())];
        for rows in ROWS {
            let position = if rows == 1 { CONTEXT } else { 0 };
            let inputs = self.inputs(rows, position, set.as_ref());
            let mut words = self.weights.words();
            if self.kind == Kind::Hybrid {
                // Written, and read if there are tokens before.
                words.extend(std::iter::repeat_n(&states[..], if position == 0 { 1 } else { 2 }));
            }
            for (router, all) in
                inputs.routers.iter().flat_map(|router| self.experts.iter().map(move |all| (router, all)))
            {
                words.extend(experts::chosen(router).into_iter().flat_map(|expert| all.words_of(expert)));
            }
            let products = f64::from(rows) * LAYERS as f64 * self.kind.products();
            Work { layer: name, rows, products, words, compute: &mut || self.compute(&inputs) }.measure(peak);
        }
    }

    fn inputs<'a>(&self, rows: i32, position: i32, set: Option<&'a ExpertSet>) -> Inputs<'a> {
        let blocks: Vec<i32> = (0..blocks_of(position + rows)).collect();
        let kv = self.kv.step(&[StepRow { new_tokens: rows, position, blocks: &blocks }]).unwrap();
        // A beginning writes the state that one row reads.
        let (from, to) = if position == 0 { (None, 0) } else { (Some(0), 1) };
        let states = self.states.step(&[StateRow { new_tokens: rows, from, to, snapshots: &[] }]).unwrap();
        let routers = set.iter().flat_map(|_| 0..LAYERS).map(|_| normal(&[rows, EXPERTS as i32], DECISIVE));
        Inputs { x: normal(&[rows, HIDDEN], 1.0), routers: routers.collect(), set, kv, states }
    }

    fn compute(&self, inputs: &Inputs<'_>) {
        let mut x = inputs.x.clone();
        for (layer, matrices) in self.weights.copies.iter().enumerate() {
            x = match self.kind {
                Kind::Hybrid => self.delta_net(&x, matrices, inputs, layer),
                Kind::Dense | Kind::Experts => self.attention(&x, matrices, inputs, layer),
            };
            x = match (inputs.set, inputs.routers.get(layer)) {
                (Some(set), Some(router)) => {
                    let router = &self.product(&x, &matrices[2..3], true, Some(router));
                    let normed = self.normed(&x, &self.norm, 1);
                    let routing = Routing::softmax(CHOSEN as i32, true);
                    let (gate, residual) = (Gate::Silu, Some(&x));
                    let job = Experts { x: &normed, router, routing, set, gate, residual, int8: false };
                    cpu::experts(&job).unwrap()
                }
                _ => {
                    let two: Vec<Matrix<'_>> = matrices[2..4].iter().map(Weight::matrix).collect();
                    let (norm, gate) = (Some((&self.norm, EPS)), Some(Gate::Silu));
                    let job = Linear { x: &x, norm, matrices: &two, gate, residual: None, int8: false };
                    let inner = cpu::linear(&job).unwrap();
                    self.product(&inner, &matrices[4..5], false, Some(&x))
                }
            };
        }
        // One result: of two in one chain, what they have in common would be computed twice.
        cpu::evaluate(&x).unwrap();
    }

    fn product(&self, x: &Array, weights: &[Weight], normed: bool, residual: Option<&Array>) -> Array {
        let matrices: Vec<Matrix<'_>> = weights.iter().map(Weight::matrix).collect();
        let norm = normed.then_some((&self.norm, EPS));
        cpu::linear(&Linear { x, norm, matrices: &matrices, gate: None, residual, int8: false }).unwrap()
    }

    /// With so many pieces of a row normalized, each by itself.
    fn normed(&self, x: &Array, weight: &Array, count: i32) -> Array {
        let parts = [NormedPart { kind: NormKind::Rms, weight, bias: None, eps: EPS, count }];
        let job = Rowwise { x, parts: &parts, gelu: false, factor: 1.0, soft_cap: None, residual: None };
        cpu::rowwise(&job).unwrap()
    }

    fn attention(&self, x: &Array, matrices: &[Weight], inputs: &Inputs<'_>, layer: usize) -> Array {
        let qkv = self.product(x, &matrices[..1], true, None);
        let attention = Attention {
            qkv: &qkv,
            cos: &self.cos,
            sin: &self.sin,
            layer: layer as i32,
            heads: HEADS,
            scale: (HEAD_DIM as f32).sqrt().recip(),
            window: None,
            chunked: false,
            traditional: false,
            appends: true,
            query_scale: None,
            sinks: None,
            soft_cap: None,
        };
        let attended = inputs.kv.attend(&attention).unwrap();
        self.product(&attended, &matrices[1..2], false, Some(x))
    }

    fn delta_net(&self, x: &Array, matrices: &[Weight], inputs: &Inputs<'_>, layer: usize) -> Array {
        let HeadArrays { norm, taps, log_rates, biases } = &self.heads;
        let all = self.product(x, &matrices[..1], true, None);
        let z = DELTA_QKV + DELTA_VALUES;
        let columns = |range| cpu::columns(&all, &[range]).unwrap();
        let (qkv, gates) = (columns(0..DELTA_QKV), columns(z..z + DELTA_GATES));
        let state_at = layer * (convolution_state() + delta_state());
        let job = Convolution { x: &qkv, weight: taps, bias: None, gated: false, silu: true, state_at };
        let mixed = cpu::convolution(&inputs.states, &job).unwrap();
        let job = GatedDelta {
            qkv: &self.normed(&mixed, norm, 2 * KEY_HEADS),
            gates: &gates,
            log_rates,
            biases,
            key_heads: KEY_HEADS,
            value_heads: VALUE_HEADS,
            key_dim: HEAD_DIM,
            value_dim: HEAD_DIM,
            state_at: state_at + convolution_state(),
        };
        let learned = cpu::gated_delta(&inputs.states, &job).unwrap();
        let normed = self.normed(&learned, norm, VALUE_HEADS);
        let gate = columns(DELTA_QKV..z);
        let job = Gated { x: &normed, gate: &gate, activation: Activation::Silu, residual: None };
        self.product(&cpu::gated(&job).unwrap(), &matrices[1..2], false, Some(x))
    }
}

/// Of keys and values, for so many tokens.
fn blocks_of(tokens: i32) -> i32 {
    tokens.unsigned_abs().div_ceil(KvPool::BLOCK_TOKENS as u32) as i32
}

/// Floats of a layer's states.
fn convolution_state() -> usize {
    ((TAPS - 1) * DELTA_QKV) as usize
}

fn delta_state() -> usize {
    (DELTA_VALUES * HEAD_DIM) as usize
}

fn normal(shape: &[i32], scale: f32) -> Array {
    let array = random::normal::<f32>(shape, None, scale, None).unwrap();
    eval([&array]).unwrap();
    array
}
