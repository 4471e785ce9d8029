//! `phi3`: Phi 3, 3.5 and 4. Queries, keys and values are one matrix, gate and up another.

use serde_json::json;

use super::{
    Blueprint, RopeFactors, effects,
    layout::{Dim, Layout, NORMS, weight},
    rotation,
    sizes::{MAX_CONTEXT, Sizes, Source},
};
use crate::gguf::GgufError;

const FUSED: &[Layout] = &[
    weight("attn_qkv", "self_attn.qkv_proj", &[Dim::QueriesKeysValues, Dim::Hidden]),
    weight("attn_output", "self_attn.o_proj", &[Dim::Hidden, Dim::Queries]),
    weight("ffn_up", "mlp.gate_up_proj", &[Dim::GateUp, Dim::Hidden]),
    weight("ffn_down", "mlp.down_proj", &[Dim::Hidden, Dim::Inner]),
];

pub(super) fn describe(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    effects::without_caps(source)?;
    let sizes = Sizes::read(source)?;
    let rope = rotation::scaling(source, &sizes, factors)?;
    let mut config = vec![("hidden_act", json!("silu"))];
    config.extend(source.window()?.map(|window| ("sliding_window", json!(window))));
    let original = source.size("rope.scaling.original_context_length", MAX_CONTEXT)?;
    config.extend(original.map(|original| ("original_max_position_embeddings", json!(original))));
    if sizes.rotated != sizes.head_dim {
        config.push(("partial_rotary_factor", json!(share(sizes.rotated, sizes.head_dim))));
    }
    let layer = [NORMS, FUSED].concat();
    Ok(Blueprint { model_type: "phi3", class: "Phi3ForCausalLM", sizes, layer, rope, config })
}

/// The part of a head that is rotated, as a number that gives the components again when it is multiplied and cut off.
fn share(rotated: u64, head_dim: u64) -> f64 {
    let share = rotated as f64 / head_dim as f64;
    if ((share * head_dim as f64) as u64) < rotated { share.next_up() } else { share }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_gives_its_components_again() {
        assert_eq!(share(96, 128), 0.75);
        for head_dim in 2..=1024 {
            for rotated in 1..=head_dim {
                assert_eq!(
                    (share(rotated, head_dim) * head_dim as f64) as u64,
                    rotated,
                    "{rotated} of {head_dim}"
                );
            }
        }
    }
}
