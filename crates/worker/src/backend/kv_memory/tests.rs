#![allow(clippy::unwrap_used)]

use mlx_rs::transforms::eval;

use super::{
    super::{
        AttentionSpec, Backend, Heads,
        geometry::KvHeads,
        tests::{backends, numbers},
    },
    *,
};

const BUDGET: KvBudget = KvBudget { bytes: 1 << 16, sequences: 2, dtype: KvDtype::Float32 };

/// A block has 32 tokens of 2 heads of 8 components, keys and values: 4 KiB in float32.
const NARROW: KvHeads = KvHeads { kv: 2, dim: 8 };

/// The same of 2 heads of 16: 8 KiB.
const WIDE: KvHeads = KvHeads { kv: 2, dim: 16 };

fn tokens(layers: &[KvHeads], storage: KvStorage, bytes: u64) -> Result<usize, KvError> {
    mlx_ext::init().unwrap();
    let budget = KvBudget { bytes, ..BUDGET };
    KvMemory::new(&KvGeometry::new(layers.iter().copied()), budget, |_| storage).map(|kv| kv.tokens())
}

fn gathered(together: bool) -> KvStorage {
    KvStorage::Gathered { dtype: Dtype::Float32, together }
}

#[test]
fn a_budget_is_in_blocks_and_one_for_each_sequence_is_in_reserve() {
    assert_eq!(tokens(&[NARROW], gathered(false), 1 << 16).unwrap(), 14 * 32);
    // Of two kinds each holds as many tokens.
    assert_eq!(tokens(&[NARROW, WIDE], gathered(false), 1 << 16).unwrap(), 3 * 32);
    assert_eq!(tokens(&[WIDE, NARROW, WIDE], gathered(false), 1 << 17).unwrap(), 4 * 32);
}

#[cfg(target_os = "linux")]
#[test]
fn paged_values_have_the_type_of_the_budget() {
    assert_eq!(tokens(&[NARROW], KvStorage::Paged(KvDtype::Float32), 1 << 16).unwrap(), 14 * 32);
    assert_eq!(tokens(&[NARROW], KvStorage::Paged(KvDtype::Float16), 1 << 16).unwrap(), 30 * 32);
}

#[test]
fn a_budget_of_less_than_a_block_for_each_sequence_is_refused() {
    for layers in [&[WIDE, NARROW][..], &[WIDE, NARROW, NARROW]] {
        let block = 4096 * (layers.len() as u64 + 1);
        let error = tokens(layers, gathered(false), 3 * block - 1).unwrap_err();
        assert!(matches!(error, KvError::Budget { needed, .. } if needed == 3 * block), "{error}");
        assert_eq!(tokens(layers, gathered(false), 3 * block).unwrap(), 32);
    }
}

#[test]
fn a_fifth_of_the_budget_is_for_copies_if_it_can_be_spared() {
    let divided = |blocks: u64, copies| {
        let Division { blocks, copied } =
            Division::new(KvBudget { bytes: blocks << 12, ..BUDGET }, 1 << 12, copies).unwrap();
        (blocks.tokens, copied)
    };
    assert_eq!(divided(40, true), (30 * 32, 8 * 32));
    assert_eq!(divided(40, false), (38 * 32, 0));
    assert_eq!(divided(3, true), (32, 0));
    assert_eq!(tokens(&[NARROW], gathered(true), 40 << 12).unwrap(), 30 * 32);
}

#[test]
fn no_more_blocks_are_promised_than_can_be_numbered() {
    let all = Division::new(BUDGET, 1 << 12, false).unwrap();
    assert_eq!(all.at_most(16), all);
    assert_eq!(all.at_most(9).blocks, Blocks { count: 9, tokens: 7 * 32 });
}

/// What one sequence exports of layers of two kinds, another one imports.
#[test]
fn exported_bytes_are_those_of_all_kinds() {
    mlx_ext::init().unwrap();
    let memory = KvMemory::new(&KvGeometry::new([NARROW, WIDE]), BUDGET, |_| gathered(false)).unwrap();
    let bytes: Vec<u8> = (0..12 << 10).map(|index| (index / 5 % 249) as u8).collect();
    let mut sequence = memory.sequence();
    sequence.import(0..32, &bytes).unwrap();
    assert_eq!(memory.used_bytes()(), 12 << 10);
    assert_eq!(sequence.export(0..32).unwrap(), bytes);
    assert!(sequence.export(0..64).is_err() && sequence.export(0..31).is_err());
    assert!(memory.sequence().import(0..32, &bytes[1..]).is_err());
    assert!(memory.sequence().import(0..64, &bytes).is_err());
}

/// Outputs of layers with such heads, over the tokens of one sequence in two steps.
fn attend(backend: Backend, layers: &[Heads]) -> Vec<Vec<f32>> {
    let geometry = KvGeometry::new(layers.iter().map(|&heads| heads.into()));
    let memory = backend.kv_memory(&geometry, KvBudget { bytes: 1 << 20, ..BUDGET }).unwrap();
    let mut sequence = memory.sequence();
    let mut outputs = vec![Vec::new(); layers.len()];
    for (position, new_tokens) in [(0, 40), (40, 3)] {
        let row = RowMemory { position, new_tokens, memory: &mut sequence };
        let step = memory.begin(vec![row], StepBefore::Computed).unwrap();
        let attend = |(layer, &heads): (usize, &Heads)| {
            let width = (heads.queries + 2 * heads.kv) * heads.dim;
            let qkv = numbers(new_tokens as i32 * width, (heads.dim * 100) as u64 + position as u64);
            let qkv = Array::from_slice(&qkv, &[new_tokens as i32, width]);
            step.attend(&AttentionSpec::causal(heads, None), layer, &qkv).unwrap()
        };
        let attended: Vec<Array> = layers.iter().enumerate().map(attend).collect();
        eval(&attended).unwrap();
        drop(step);
        sequence.commit();
        for (output, attended) in outputs.iter_mut().zip(&attended) {
            output.extend_from_slice(attended.as_slice::<f32>());
        }
    }
    outputs
}

#[test]
fn layers_with_other_heads_do_not_disturb_each_other() {
    let narrow = Heads { queries: 4, kv: 2, dim: 8 };
    let wide = Heads { queries: 4, kv: 1, dim: 24 };
    for backend in backends() {
        let [narrow_alone, wide_alone] = [narrow, wide].map(|heads| attend(backend, &[heads]).remove(0));
        let expected = [&wide_alone, &narrow_alone, &narrow_alone, &wide_alone];
        let found = attend(backend, &[wide, narrow, narrow, wide]);
        assert!(found.iter().eq(expected), "{backend:?}");
        assert!(narrow_alone.iter().any(|&value| value != 0.0));
    }
}
