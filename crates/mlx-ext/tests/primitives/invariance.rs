//! What changes no bit: the other rows of a batch, how a prompt was cut, which blocks are shared, the number of threads, the instruction set.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    process::Command,
};

use mlx_ext::cpu::{
    self, ExpertSet, Experts, HeadProducts, KvDtype, KvPool, Linear, Matrix, NormKind, NormedPart, Routing,
    Rowwise, Scores,
};
use mlx_rs::{
    Array,
    ops::indexing::{TryIndexOp, take_axis},
};

use crate::{
    instruction_sets,
    support::{
        Random,
        attention::{Rotation, Server, Spec},
        bits,
        products::{Storage, Weights, computed, evaluated, plain},
    },
};

/// Where a process that [`digest_with`] starts leaves the digest of all its results.
const DIGEST: &str = "KR_TEST_DIGEST";

/// Rows of the largest batch: more than registers hold, so that kernels go about them in several ways.
const ROWS: i32 = 70;

/// A row's results alone and in batches of 2, 7 and 33, which also put it at other places among other rows.
#[test]
fn other_rows_change_no_bit() {
    check_products(&mut DefaultHasher::new());
    check_rowwise(&mut DefaultHasher::new());
    check_experts(&mut DefaultHasher::new());
    check_head_products(&mut DefaultHasher::new());
}

/// A prompt's attention in one piece and in any others, alone and beside other sequences.
#[test]
fn cuts_change_no_bit() {
    check_attention(&mut DefaultHasher::new());
}

/// Sequences with a common prefix, whose full blocks they share: each gets the bits that it gets with blocks of its own.
/// They end in different blocks and in the same one, and the last block of the prefix, which is partly filled, is copied.
#[test]
fn shared_blocks_change_no_bit() {
    let random = &mut Random::new(12);
    let prefix_blocks = 9; // more than a partition of keys
    let full = prefix_blocks * KvPool::BLOCK_TOKENS as i32;
    let prefix = full + 5;
    let lengths = [prefix + 1, prefix + 40, prefix + 7, prefix + 300];
    for dtype in [KvDtype::Float32, KvDtype::Float16] {
        let spec = Spec {
            kv_heads: 2,
            group: 3,
            head_dim: 40,
            pairs: 20,
            traditional: false,
            window: None,
            chunked: false,
            soft_cap: None,
            sinks: false,
            dtype,
        };
        for spec in [spec, Spec { window: Some(100), ..spec }] {
            let rotation = Rotation::new(spec, prefix + 300);
            let common = random.normals(&[prefix, spec.width()]);
            let rest: Vec<Array> =
                lengths.iter().map(|length| random.normals(&[length - prefix, spec.width()])).collect();
            let alone: Vec<Vec<u32>> = rest
                .iter()
                .map(|rest| {
                    let server = Server::new(random, spec, &rotation, &[prefix + rest.dim(0)]);
                    server.step(&[(0, 0, common.clone())]);
                    bits(&server.step(&[(0, prefix, rest.clone())])[0])
                })
                .collect();

            let mut server = Server::new(random, spec, &rotation, &lengths);
            server.step(&[(0, 0, common.clone())]);
            for other in 1..lengths.len() {
                server.share(0, other, prefix_blocks as usize);
                if other % 2 == 0 {
                    server.copy(0, other, prefix_blocks as usize);
                } else {
                    server.carry(0, other, prefix_blocks as usize);
                }
            }
            let rows: Vec<(usize, i32, Array)> =
                rest.iter().enumerate().map(|(i, rest)| (i, prefix, rest.clone())).collect();
            for (together, alone) in server.step(&rows).iter().zip(&alone) {
                assert!(bits(together) == *alone, "{spec:?}");
            }
        }
    }
}

/// Products and attention in processes of one and of two threads.
#[test]
fn threads_change_no_bit() {
    if let Some(path) = env::var_os(DIGEST) {
        let mut digest = DefaultHasher::new();
        check_products(&mut digest);
        check_rowwise(&mut digest);
        check_experts(&mut digest);
        check_head_products(&mut digest);
        check_attention(&mut digest);
        fs::write(path, digest.finish().to_string()).unwrap();
        return;
    }
    let one = digest_with("KR_THREADS", "1");
    for threads in ["2", "5"] {
        assert_eq!(digest_with("KR_THREADS", threads), one, "{threads} threads");
    }
}

/// The same on every instruction set that this CPU has, with activations of 16 and of 8 bits.
#[test]
fn instructions_change_no_bit() {
    if env::var_os("KR_ISA").is_some() {
        return; // the process with the best of them compares them all
    }
    let here = digest_with("KR_ISA", cpu::instructions());
    for name in instruction_sets::others() {
        assert_eq!(digest_with("KR_ISA", name), here, "{name} and {}", cpu::instructions());
    }
}

/// The digest of all products and attention, from a process with this environment variable.
fn digest_with(variable: &str, value: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digest");
    let run = Command::new(env::current_exe().unwrap())
        .args(["--exact", "invariance::threads_change_no_bit"])
        .env(variable, value)
        .env(DIGEST, &path)
        .output()
        .unwrap();
    assert!(run.status.success(), "{variable}={value}: {}", String::from_utf8_lossy(&run.stdout));
    fs::read_to_string(path).unwrap()
}

fn check_products(digest: &mut impl Hasher) {
    let random = &mut Random::new(10);
    for storage in Storage::all() {
        let inputs = storage.group().max(13) * 9;
        let weights: Vec<Weights> =
            (0..2).map(|_| Weights::new(random, storage, 83, inputs).with_bias(random)).collect();
        let matrices: Vec<Matrix<'_>> = weights.iter().map(Weights::matrix).collect();
        let norm = random.normals(&[inputs]);
        let x = random.activations(ROWS, inputs);
        let residual = random.normals(&[ROWS, 2 * 83]);
        check_rows(digest, &x, &residual, |x, _| computed(&plain(x, &matrices[..1])));
        check_rows(digest, &x, &residual, |x, residual| {
            let norm = Some((&norm, 1e-5));
            computed(&Linear { norm, residual: Some(residual), int8: true, ..plain(x, &matrices) })
        });
        check_rows(digest, &x, &residual, |x, residual| {
            let norm = Some((&norm, 1e-5));
            computed(&Linear { norm, residual: Some(residual), ..plain(x, &matrices) })
        });
        check_rows(digest, &x, &residual, |x, _| {
            computed(&Linear {
                norm: Some((&norm, 1e-5)),
                gate: Some(cpu::Gate::Silu),
                ..plain(x, &matrices)
            })
        });
        for gate in [cpu::Gate::GeluTanh, cpu::Gate::SwigluOai] {
            check_rows(digest, &x, &residual, |x, _| {
                computed(&Linear { gate: Some(gate), ..plain(x, &matrices) })
            });
        }
        let tokens = Array::from_slice(&[5_u32, 82, 0, 5], &[4]);
        let rows = bits(&cpu::embedding(&weights[0].matrix(), &tokens, inputs).unwrap());
        let one =
            bits(&cpu::embedding(&weights[0].matrix(), &Array::from_slice(&[82_u32], &[1]), inputs).unwrap());
        assert_eq!(rows.chunks(inputs as usize).nth(1).unwrap(), one);
        rows.hash(digest);
    }
    // Large enough to be cut up among threads, rows as well as outputs.
    let storage = Storage::all()[0];
    let weights = Weights::new(random, storage, 600, 1152);
    let x = random.activations(ROWS, 1152);
    check_rows(digest, &x, &x, |x, _| computed(&plain(x, &[weights.matrix()])));
}

/// Normalizations of pieces, with all that may follow; of rows that threads share, and of some that they do not.
fn check_rowwise(digest: &mut impl Hasher) {
    let random = &mut Random::new(13);
    for (width, pieces) in [(61, 4), (640, 3)] {
        let (x, residual) =
            (random.activations(ROWS, width * pieces + 29), random.normals(&[ROWS, width * pieces + 29]));
        let (weight, bias) = (random.normals(&[width]), random.normals(&[width]));
        for kind in [NormKind::Rms, NormKind::Layer] {
            let part = NormedPart { kind, weight: &weight, bias: None, eps: 1e-5, count: 1 };
            let bias = (kind == NormKind::Layer).then_some(&bias);
            let parts = [part, NormedPart { bias, count: pieces - 1, ..part }];
            check_rows(digest, &x, &residual, |x, residual| {
                let (soft_cap, residual) = (Some(3.0), Some(residual));
                let y = cpu::rowwise(&Rowwise {
                    x,
                    parts: &parts,
                    gelu: kind == NormKind::Layer,
                    factor: 0.3,
                    soft_cap,
                    residual,
                })
                .unwrap();
                y.eval().unwrap();
                y
            });
        }
    }
}

/// `compute` on all rows at once and on some of them.
fn check_rows(
    digest: &mut impl Hasher,
    x: &Array,
    residual: &Array,
    compute: impl Fn(&Array, &Array) -> Array,
) {
    let all = bits(&compute(x, residual));
    all.hash(digest);
    let width = all.len() / ROWS as usize;
    for batch in [1, 2, 7, 33] {
        for first in (0..ROWS).step_by(batch as usize).filter(|first| batch > 1 || first % 5 == 0) {
            let end = (first + batch).min(ROWS);
            let part = |array: &Array| array.try_index(first..end).unwrap();
            let some = bits(&compute(&part(x), &part(residual)));
            assert_eq!(some, &all[first as usize * width..end as usize * width], "rows {first} to {end}");
        }
    }
    let backwards: Vec<i32> = (0..ROWS).rev().collect();
    let backwards = |array: &Array| take_axis(array, Array::from_slice(&backwards, &[ROWS]), 0).unwrap();
    let turned = bits(&compute(&backwards(x), &backwards(residual)));
    assert!(turned.chunks(width).rev().eq(all.chunks(width)), "rows in the other order");
}

/// Of rows whose heads meet matrices of their own.
fn check_head_products(digest: &mut impl Hasher) {
    let random = &mut Random::new(15);
    let (heads, inputs, rows_of_head) = (3, 64, 40);
    for storage in Storage::all().into_iter().filter(|storage| storage.group() <= 64) {
        let weights = Weights::new(random, storage, heads * rows_of_head, inputs);
        let width = inputs + 24;
        let x = random.activations(ROWS, heads * width);
        let residual = random.normals(&[ROWS, 1]);
        check_rows(digest, &x, &residual, |x, _| {
            let y = cpu::head_products(&HeadProducts {
                x,
                heads,
                copied: 3..9,
                inputs: 24..width,
                matrix: weights.matrix(),
                rows: 7..36,
                int8: false,
            })
            .unwrap();
            y.eval().unwrap();
            y
        });
    }
}

/// Of rows that choose among experts, each gets what it gets alone.
fn check_experts(digest: &mut impl Hasher) {
    let random = &mut Random::new(14);
    let (inputs, inner, count) = (64, 96, 6);
    for storage in Storage::all().into_iter().filter(|storage| storage.group() <= 32) {
        let part = |random: &mut Random, outputs, inputs| -> Vec<Weights> {
            (0..count).map(|_| Weights::new(random, storage, outputs, inputs)).collect()
        };
        let (gates, ups) = (part(random, inner, inputs), part(random, inner, inputs));
        let downs: Vec<Weights> =
            part(random, inputs, inner).into_iter().map(|down| down.with_bias(random)).collect();
        let matrices = [&gates, &ups, &downs].map(|part| part.iter().map(evaluated).collect::<Vec<_>>());
        let set = ExpertSet::new(matrices.each_ref().map(Vec::as_slice), inputs, inner).unwrap();
        let x = random.activations(ROWS, inputs + count);
        let residual = random.normals(&[ROWS, inputs]);
        let correction = random.normals(&[count]);
        for routing in routings(&correction) {
            let gate = if routing.normalized { cpu::Gate::SwigluOai } else { cpu::Gate::Silu };
            check_rows(digest, &x, &residual, |both, residual| {
                let part = |columns: Range<i32>| {
                    let part = both.try_index((.., columns)).unwrap();
                    part.contiguous().unwrap()
                };
                let (x, router) = (part(0..inputs), part(inputs..inputs + count));
                let y = cpu::experts(&Experts {
                    x: &x,
                    router: &router,
                    routing,
                    set: &set,
                    gate,
                    residual: Some(residual),
                    int8: false,
                })
                .unwrap();
                y.eval().unwrap();
                y
            });
        }
    }
}

/// Some of the rules by which rows choose.
fn routings(correction: &Array) -> [Routing<'_>; 4] {
    let softmax = Routing::softmax(2, false);
    let sigmoid = Routing { scores: Scores::Sigmoid, factor: 2.5, ..softmax };
    let grouped = Routing {
        correction: Some(correction),
        groups: 3,
        chosen_groups: 2,
        best_of_group: 2,
        normalized: true,
        ..sigmoid
    };
    [softmax, Routing { normalized: true, ..softmax }, Routing { weighs_inputs: true, ..sigmoid }, grouped]
}

fn check_attention(digest: &mut impl Hasher) {
    let random = &mut Random::new(11);
    let plain = Spec {
        kv_heads: 2,
        group: 3,
        head_dim: 40,
        pairs: 20,
        traditional: false,
        window: None,
        chunked: false,
        soft_cap: None,
        sinks: false,
        dtype: KvDtype::Float32,
    };
    let half = Spec { dtype: KvDtype::Float16, kv_heads: 1, group: 5, head_dim: 64, pairs: 16, ..plain };
    let capped = Spec { window: Some(77), soft_cap: Some(2.0), ..plain };
    let chunked = Spec { window: Some(77), chunked: true, ..plain };
    let sinking = Spec { window: Some(300), sinks: true, ..half };
    for spec in [plain, half, Spec { window: Some(77), ..plain }, sinking, capped, chunked] {
        let lengths = [620, 33, 90];
        let rotation = Rotation::new(spec, 620);
        let sequences: Vec<Array> =
            lengths.iter().map(|&length| random.normals(&[length, spec.width()])).collect();
        let whole: Vec<Vec<u32>> = sequences
            .iter()
            .zip(lengths)
            .map(|(qkv, length)| {
                let server = Server::new(random, spec, &rotation, &[length]);
                bits(&server.run(std::slice::from_ref(qkv), || length)[0])
            })
            .collect();
        whole.hash(digest);
        for cut in [1, 2, 7, 33, 256, 300] {
            let server = Server::new(random, spec, &rotation, &lengths[..1]);
            let cut_up = server.run(&sequences[..1], || cut);
            assert!(bits(&cut_up[0]) == whole[0], "{spec:?} in pieces of {cut}");
        }
        let server = Server::new(random, spec, &rotation, &lengths);
        let together = server.run(&sequences, || [0, 1, 1, 5, 64, 200][random.below(6)]);
        for (together, alone) in together.iter().zip(&whole) {
            assert!(bits(together) == *alone, "{spec:?} beside others");
        }
    }
}
