//! `model_type` "qwen3_next": Qwen 3 Next. Most layers have a gated delta net in place of attention, whose results are
//! multiplied by a gate in the others; experts beside one that every token goes through.

use super::qwen3_moe::{NAMES as MOE_NAMES, sparse_layers};
use crate::model::layers::{
    Architecture, BlockNames, DecoderConfig, DecoderPlan, Defaults, DeltaHeads, DeltaInputs, DeltaNetPlan,
    ModelError, MoePlan, NormParams, QkNorm, RecurrentPlan, RoutingRule, Settings, SharedExpert, Weights,
    is_of_transformers, layer_kinds,
};

/// What transformers assumes.
pub(super) const DEFAULTS: Defaults = &[
    ("partial_rotary_factor", 0.25),
    ("full_attention_interval", 4.0),
    ("linear_conv_kernel_dim", 4.0),
    ("linear_key_head_dim", 128.0),
    ("linear_value_head_dim", 128.0),
    ("linear_num_key_heads", 16.0),
    ("linear_num_value_heads", 32.0),
    ("num_experts_per_tok", 10.0),
    ("decoder_sparse_step", 1.0),
    // Where all layers have experts, nothing is said of it.
    ("intermediate_size", 5632.0),
];

/// Settings that are read here.
const COVERED: [&str; 2] = ["partial_rotary_factor", "layer_types"];

/// Of what stands in place of attention.
const NET: &str = "linear_attn";

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    // What guesses several tokens at a time is left out.
    weights.ignore(|name| name.starts_with("mtp."));
    load_with(config, weights, DeltaInputs::ByHead)
}

/// The same, for inputs of gated delta nets that are stored in either way.
pub(super) fn load_with(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
    inputs: DeltaInputs,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &COVERED)?;
    let layers = decoder.layers();
    let net = net(config, decoder.rms_norm_eps, inputs)?;
    let recurrent: Vec<_> = attention_layers(config, layers)?
        .into_iter()
        .map(|attends| (!attends).then_some(RecurrentPlan::DeltaNet(net)))
        .collect();
    // In the files of transformers these weights are stored as their distance from 1.
    let first = recurrent.iter().position(Option::is_some);
    let is_distance =
        first.is_some_and(|layer| is_of_transformers(weights, &format!("model.layers.{layer}.{NET}.conv1d")));
    let norm = if is_distance { NormParams::rms_plus_one } else { NormParams::rms };
    let experts = experts(config)?;
    let plan = DecoderPlan {
        names: BlockNames { recurrent: NET, ..BlockNames::LLAMA },
        norm: norm(decoder.rms_norm_eps),
        qk_norm: Some(QkNorm::Heads),
        gated_attention: true,
        recurrent,
        experts,
        sparse: if experts.is_some() { sparse_layers(config, layers)? } else { vec![false; layers] },
        ..DecoderPlan::new(&decoder)
    };
    plan.load(decoder, weights)
}

fn net(config: Settings<'_>, eps: f32, inputs: DeltaInputs) -> Result<DeltaNetPlan, ModelError> {
    let size = |name: &'static str, most: i32| {
        config.whole(name, 1, most)?.ok_or(ModelError::MissingSetting { setting: name })
    };
    let heads = DeltaHeads {
        keys: size("linear_num_key_heads", 1 << 10)?,
        values: size("linear_num_value_heads", 1 << 10)?,
        key_dim: size("linear_key_head_dim", 1 << 10)?,
        value_dim: size("linear_value_head_dim", 1 << 10)?,
    };
    if heads.values % heads.keys != 0 {
        return config.refuse("linear_num_value_heads", heads.values);
    }
    // A single tap would not tell how its weights lie.
    let taps = config.whole("linear_conv_kernel_dim", 2, 16)?;
    let taps = taps.ok_or(ModelError::MissingSetting { setting: "linear_conv_kernel_dim" })?;
    Ok(DeltaNetPlan { heads, taps, eps, inputs })
}

/// Which layers have attention.
fn attention_layers(config: Settings<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    if let Some(attends) = layer_kinds(config, layers, "linear_attention")? {
        return Ok(attends);
    }
    let interval = config.whole("full_attention_interval", 1, i32::MAX)?.unwrap_or(4).unsigned_abs() as usize;
    Ok((0..layers).map(|layer| (layer + 1).is_multiple_of(interval)).collect())
}

/// `None`: there are none.
fn experts(config: Settings<'_>) -> Result<Option<MoePlan>, ModelError> {
    let count = config.whole("num_experts", 0, 1 << 12)?.unwrap_or(0);
    if count == 0 {
        return Ok(None);
    }
    let size = |name: &'static str, most: i32| {
        config.whole(name, 1, most)?.ok_or(ModelError::MissingSetting { setting: name })
    };
    let shared = SharedExpert {
        name: "mlp.shared_expert",
        gate: Some("mlp.shared_expert_gate"),
        intermediate_size: size("shared_expert_intermediate_size", 1 << 22)?,
    };
    let rule = RoutingRule::softmax(
        size("num_experts_per_tok", count)?,
        config.flag("norm_topk_prob")?.unwrap_or(true),
    );
    let inner = size("moe_intermediate_size", 1 << 22)?;
    Ok(Some(MoePlan { shared: Some(shared), ..MoePlan::new(MOE_NAMES, count, inner, rule) }))
}
