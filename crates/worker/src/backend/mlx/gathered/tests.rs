#![allow(clippy::unwrap_used)]

use std::rc::Rc;

use mlx_rs::{
    Array,
    ops::indexing::TryIndexOp,
    transforms::{async_eval, eval},
};
use proptest::prelude::*;

use super::*;
use crate::backend::{AttentionSpec, Heads, Rope};

const HEADS: Heads = Heads { queries: 4, kv: 2, dim: 8 };
const WIDTH: i32 = (HEADS.queries + 2 * HEADS.kv) * HEADS.dim;
/// Blocks, and tokens of copies.
const ROOM: (i32, usize) = (1638, 13_088);

/// A layer with a window and sinks below one without.
fn layers() -> [AttentionSpec; 2] {
    let rope = Rope::new(vec![1.0, 0.1, 0.01, 0.001], false, 1000);
    let plain = AttentionSpec::causal(HEADS, Some(Rc::new(rope)));
    let sinks = Some(Array::from_slice(&[-1.0_f32, 0.0, 1.0, 2.0], &[HEADS.queries]));
    [AttentionSpec { window: Some(20), sinks, ..plain.clone() }, plain]
}

fn memory(together: bool) -> GatheredKv {
    mlx_ext::init().unwrap();
    let (kind, (blocks, copied)) = (LayerKind { layers: 2, heads: HEADS.into() }, ROOM);
    GatheredKv::new(kind, blocks, if together { copied } else { 0 }, Dtype::Float32, together).unwrap()
}

/// A sequence and how many tokens it has.
struct Held {
    sequence: GatheredSequence,
    len: usize,
}

impl Held {
    fn new(memory: &GatheredKv) -> Self {
        Self { sequence: memory.sequence(), len: 0 }
    }

    fn fork(&self, len: usize) -> Self {
        Self { sequence: self.sequence.fork(len), len }
    }
}

/// Queries, keys and values of some tokens, the same for every run.
fn numbers(tokens: usize, seed: u64) -> Array {
    let value = |index: u64| {
        let bits = (index + seed * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        bits as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..tokens as u64 * WIDTH as u64).map(value).collect();
    Array::from_slice(&values, &[tokens as i32, WIDTH])
}

/// One step of some sequences, with so many new tokens each. Returns the sum of both layers' results.
fn step(memory: &GatheredKv, rows: &mut [(&mut Held, usize)], qkv: &Array) -> Vec<f32> {
    let found = graph(memory, rows, qkv);
    eval([&found]).unwrap();
    commit(rows);
    found.as_slice::<f32>().to_vec()
}

fn commit(rows: &mut [(&mut Held, usize)]) {
    for (held, new) in rows {
        held.sequence.commit();
        held.len += *new;
    }
}

/// The same, launched behind a step that may still be computed.
///
/// `before` is that one, and whether it reads blocks. If this one can't be launched yet, it waits for that one.
fn launch(
    memory: &GatheredKv,
    rows: &mut [(&mut Held, usize)],
    qkv: &Array,
    before: &mut Option<(Array, bool)>,
) -> Array {
    let reads = before
        .as_ref()
        .map(|(_, blocks)| if *blocks { StepBefore::ReadsBlocks } else { StepBefore::ReadsCopies });
    let reads = reads.unwrap_or(StepBefore::Computed);
    let (found, blocks) = graph_of(memory, rows, qkv, reads).unwrap_or_else(|error| {
        assert!(matches!(error, KvError::InUse) && reads == StepBefore::ReadsBlocks);
        eval(before.iter().map(|(step, _)| step)).unwrap();
        graph_of(memory, rows, qkv, StepBefore::Computed).unwrap()
    });
    async_eval([&found]).unwrap();
    commit(rows);
    if blocks {
        memory.set_reader(found.clone());
    }
    *before = Some((found.clone(), blocks));
    found
}

/// A step that is not evaluated.
fn graph(memory: &GatheredKv, rows: &mut [(&mut Held, usize)], qkv: &Array) -> Array {
    graph_of(memory, rows, qkv, StepBefore::Computed).unwrap().0
}

/// The same, and whether it reads blocks.
fn graph_of(
    memory: &GatheredKv,
    rows: &mut [(&mut Held, usize)],
    qkv: &Array,
    before: StepBefore,
) -> Result<(Array, bool), KvError> {
    let row = |(held, new): &mut (&mut Held, usize)| (held.len, *new);
    let shapes: Vec<_> = rows.iter_mut().map(row).collect();
    let rows = rows.iter_mut().zip(shapes).map(|((held, _), (position, new_tokens))| RowMemory {
        position,
        new_tokens,
        memory: &mut held.sequence,
    });
    let step = memory.begin(rows.collect(), before)?;
    let [first, second] = layers();
    let found = step.attend(&first, 0, qkv).unwrap().add(step.attend(&second, 1, qkv).unwrap()).unwrap();
    Ok((found, step.reads_blocks()))
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    // Sums over some hundred values below 1, in another order.
    let near = |(f, e): (&f32, &f32)| (f - e).abs() < 1e-5;
    assert!(found.iter().zip(expected).all(near), "{found:?} {expected:?}");
}

/// What happens to sequences between and in steps.
#[derive(Debug, Clone)]
enum Action {
    /// Of each sequence, how many tokens it gets; 0: it does not take part.
    Step(Vec<usize>),
    /// Each gets one token in so many steps, none of which is waited for.
    Ahead(usize),
    Truncate(usize, usize),
    Fork {
        from: usize,
        to: usize,
        len: usize,
    },
    /// Replaces a sequence's whole blocks by what was exported of another's.
    Import {
        from: usize,
        to: usize,
    },
}

const SEQUENCES: usize = 4;

fn actions() -> impl Strategy<Value = Action> {
    let one = 0..SEQUENCES;
    let new = prop_oneof![6 => Just(1_usize), 2 => Just(0), 1 => 2..5_usize, 1 => 9..60_usize];
    prop_oneof![
        // Mostly the same rows again, so that copies are used.
        6 => Just(Action::Step(vec![1; SEQUENCES])),
        3 => (1..6_usize).prop_map(Action::Ahead),
        6 => prop::collection::vec(new, SEQUENCES).prop_map(Action::Step),
        1 => (one.clone(), 0..90_usize).prop_map(|(which, len)| Action::Truncate(which, len)),
        1 => (one.clone(), one.clone(), 0..90_usize).prop_map(|(from, to, len)| Action::Fork { from, to, len }),
        1 => (one.clone(), one).prop_map(|(from, to)| Action::Import { from, to }),
    ]
}

fn act(memory: &GatheredKv, held: &mut [Held], action: &Action, seed: u64) -> Vec<f32> {
    match action {
        Action::Step(new) => {
            let tokens = new.iter().sum();
            let rows = held.iter_mut().zip(new.iter().copied());
            let mut rows: Vec<_> = rows.filter(|(_, new)| *new > 0).collect();
            return if rows.is_empty() {
                Vec::new()
            } else {
                step(memory, &mut rows, &numbers(tokens, seed))
            };
        }
        &Action::Ahead(steps) => {
            let mut before = None;
            let steps: Vec<Array> = (0..steps as u64)
                .map(|step| {
                    let qkv = numbers(SEQUENCES, 1000 * seed + step);
                    launch(memory, &mut each_one(held), &qkv, &mut before)
                })
                .collect();
            return steps.iter().flat_map(|step| step.as_slice::<f32>().to_vec()).collect();
        }
        &Action::Truncate(which, len) => {
            held[which].len = held[which].len.min(len);
            let len = held[which].len;
            held[which].sequence.truncate(len);
        }
        &Action::Fork { from, to, len } => held[to] = held[from].fork(len.min(held[from].len)),
        &Action::Import { from, to } => {
            let whole = held[from].len / 32 * 32;
            let (half, bytes) =
                (whole / 64 * 32, held[from].sequence.export(whole / 64 * 32..whole).unwrap());
            let mut other = held[from].fork(half);
            if !bytes.is_empty() {
                other.sequence.import(half..whole, &bytes).unwrap();
            }
            held[to] = Held { len: whole, ..other };
        }
    }
    Vec::new()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_get_together_what_each_gets_alone(actions in prop::collection::vec(actions(), 1..25)) {
        let (together, apart) = (memory(true), memory(false));
        let mut one: Vec<Held> = (0..SEQUENCES).map(|_| Held::new(&together)).collect();
        let mut other: Vec<Held> = (0..SEQUENCES).map(|_| Held::new(&apart)).collect();
        for (seed, action) in (0..).zip(&actions) {
            let found = act(&together, &mut one, action, seed);
            assert_near(&found, &act(&apart, &mut other, action, seed));
        }
    }
}

/// Sequences of these lengths.
fn held(memory: &GatheredKv, lens: &[usize]) -> Vec<Held> {
    let one = |(seed, &len): (u64, &usize)| {
        let mut held = Held::new(memory);
        step(memory, &mut [(&mut held, len)], &numbers(len, seed));
        held
    };
    (0..).zip(lens).map(one).collect()
}

fn each_one(held: &mut [Held]) -> Vec<(&mut Held, usize)> {
    held.iter_mut().map(|held| (held, 1)).collect()
}

/// Operations of two layers' attention, when rows with so many tokens decode: gathered, and in the step after it.
fn operations(lens: &[usize]) -> [Vec<String>; 2] {
    let memory = memory(true);
    let mut all = held(&memory, lens);
    let qkv = numbers(lens.len(), 1);
    let first = mlx_ext::operations(&graph(&memory, &mut each_one(&mut all), &qkv)).unwrap();
    step(&memory, &mut each_one(&mut all), &qkv);
    [first, mlx_ext::operations(&graph(&memory, &mut each_one(&mut all), &qkv)).unwrap()]
}

#[test]
fn as_many_rows_as_there_are_take_the_same_operations() {
    let lens = |count: usize| -> Vec<usize> { (1..=count).map(|i| 90 - 2 * i).collect() };
    let [gathered, again] = operations(&lens(2));
    for count in [8, 32] {
        assert_eq!(operations(&lens(count)), [gathered.clone(), again.clone()], "{count} rows");
    }
    let count = |operations: &[String], name: &str| operations.iter().filter(|it| it.contains(name)).count();
    // One gathers and one adds in each layer; the first also clears the rest of the last blocks.
    assert_eq!((count(&gathered, "Gather"), count(&gathered, "Scatter")), (2, 4));
    assert_eq!((count(&again, "Gather"), count(&again, "Scatter")), (0, 2));
}

#[test]
fn what_is_decoded_goes_into_the_same_memory_and_is_not_gathered_again() {
    let memory = memory(true);
    let mut all = held(&memory, &[40, 50, 45]);
    let mut addresses = |seed| {
        step(&memory, &mut each_one(&mut all), &numbers(3, seed));
        memory.blocks.memory.prepare(0, false).unwrap();
        let copies = memory.between.state().addresses();
        (memory.blocks.memory.addresses(), copies)
    };
    let first = addresses(1);
    assert_eq!((first.0.len(), first.1.len()), (2, 2));
    for seed in 2..10 {
        assert_eq!(addresses(seed), first);
    }
}

/// One of the two may still be read when the next step is launched, so they take turns. The blocks are always the same. Not on a GPU, which lets go of arrays at any time after it has computed with them.
#[test]
#[cfg(target_os = "linux")]
fn what_is_launched_goes_into_two_copies_in_turn() {
    let memory = memory(true);
    let mut all = held(&memory, &[40, 50, 45]);
    memory.blocks.memory.prepare(0, false).unwrap();
    let blocks = memory.blocks.memory.addresses();
    let (mut before, mut addresses) = (None, Vec::new());
    for seed in 0..12 {
        let waiting = before.clone();
        launch(&memory, &mut each_one(&mut all), &numbers(3, seed), &mut before);
        if let Some((waiting, _)) = waiting {
            eval([&waiting]).unwrap();
            // That is what the step before has left; the new one may still be computed.
            addresses.push(memory.between.state().spare_addresses());
        }
    }
    // What the first has left is what it has gathered.
    let addresses = &addresses[2..];
    assert!(addresses[0] != addresses[1] && addresses[0].len() == 2, "{addresses:?}");
    assert!(addresses.windows(3).all(|turns| turns[0] == turns[2]), "{addresses:?}");
    memory.blocks.memory.prepare(0, false).unwrap();
    assert_eq!(memory.blocks.memory.addresses(), blocks);
}

#[test]
fn a_step_that_is_not_computed_changes_nothing() {
    let (memory, other) = (memory(true), memory(true));
    let (mut all, mut expected) = (held(&memory, &[33, 64]), held(&other, &[33, 64]));
    for seed in 0..4 {
        drop(graph(&memory, &mut each_one(&mut all), &numbers(2, 100)));
        let mut rows = each_one(&mut all);
        let found = step(&memory, &mut rows, &numbers(2, seed));
        assert_near(&found, &step(&other, &mut each_one(&mut expected), &numbers(2, seed)));
    }
}

/// A sequence whose numbers are none takes part in the steps of others, one of which has a block from another such.
#[test]
fn what_others_have_in_their_blocks_or_have_left_in_one_is_not_seen() {
    let memory = memory(true);
    let nan = Array::full::<f32>(&[64, WIDTH], Array::from_f32(f32::NAN)).unwrap();
    let (mut bad, mut gone) = (Held::new(&memory), Held::new(&memory));
    step(&memory, &mut [(&mut bad, 64)], &nan);
    step(&memory, &mut [(&mut gone, 64)], &nan);
    drop(gone);
    let mut all = held(&memory, &[3, 40]);
    for seed in 0..3 {
        let mut rows = vec![(&mut bad, 1)];
        rows.extend(each_one(&mut all));
        let found = step(&memory, &mut rows, &numbers(3, seed));
        let (bad, others) = found.split_at(found.len() / 3);
        assert!(bad.iter().all(|value| value.is_nan()) && others.iter().all(|value| value.is_finite()));
    }
}

/// As the CPU's rows have to be, whose heads are of sizes that only MLX's attention takes.
#[test]
fn rows_that_are_apart_get_the_same_bits_in_any_step() {
    let (one, other) = (memory(false), memory(false));
    let (mut beside, mut alone) = (held(&one, &[3, 40, 64]), held(&other, &[3, 40, 64]));
    for seed in 0..3 {
        let qkv = numbers(3, seed);
        let found = step(&one, &mut each_one(&mut beside), &qkv);
        let expected = (0..)
            .zip(&mut alone)
            .flat_map(|(row, held)| step(&other, &mut [(held, 1)], &qkv.try_index(row..row + 1).unwrap()));
        let expected: Vec<f32> = expected.collect();
        assert!(found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()));
    }
}
