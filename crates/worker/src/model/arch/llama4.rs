//! `model_type` "llama4": Llama 4, of which the text model, without its vision tower. Most layers rotate and see their own chunk
//! of the sequence; the others do neither, and their queries grow with their position.

use std::rc::Rc;

use super::smollm3::rotating_layers;
use crate::model::layers::{
    Architecture, BlockNames, DecoderConfig, DecoderPlan, Defaults, ModelError, MoeNames, MoePlan, QkNorm,
    QueryScaleConfig, RopeConfig, RoutingRule, Scores, Settings, SharedExpert, Weights,
};

/// What is not the language model's.
const OTHERS: [&str; 2] = ["vision_model.", "multi_modal_projector."];

const COVERED: [&str; 4] = ["attention_chunk_size", "layer_types", "no_rope_layers", "use_qk_norm"];

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_key_value_heads", 8.0),
    ("head_dim", 128.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 500_000.0),
    ("intermediate_size", 8192.0),
    ("intermediate_size_mlp", 16_384.0),
    ("num_local_experts", 16.0),
    ("num_experts_per_tok", 1.0),
    ("interleave_moe_layer_step", 1.0),
    ("use_qk_norm", 1.0),
    ("attention_chunk_size", 8192.0),
    ("attn_temperature_tuning", 1.0),
    ("floor_scale", 8192.0),
    ("attn_scale", 0.1),
];

/// Of the router and the experts.
const NAMES: MoeNames = MoeNames {
    router: "feed_forward.router",
    stacked: [
        "feed_forward.experts.gate_proj",
        "feed_forward.experts.up_proj",
        "feed_forward.experts.down_proj",
    ],
    expert: "feed_forward.experts",
    parts: ["gate_proj", "up_proj", "down_proj"],
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let config = config.of_text()?;
    weights.enter("language_model.", &OTHERS);
    let mut decoder = DecoderConfig::parse(config, &COVERED)?;
    decoder.rope = RopeConfig { traditional: true, ..decoder.rope };
    let experts = experts(config, &decoder)?;
    let inner = config.whole("intermediate_size_mlp", 1, 1 << 22)?;
    decoder.intermediate_size =
        inner.ok_or(ModelError::MissingSetting { setting: "intermediate_size_mlp" })?;
    let is_normed = config.flag("use_qk_norm")?.unwrap_or(true);
    let mut plan = DecoderPlan {
        names: BlockNames { mlp: "feed_forward", ..BlockNames::LLAMA },
        qk_norm: is_normed.then_some(QkNorm::Unweighted),
        experts: Some(experts),
        sparse: sparse_layers(config, decoder.layers())?,
        ..DecoderPlan::new(&decoder)
    };
    let chunk = config.whole("attention_chunk_size", 1, 1 << 27)?;
    let growth = growth(config)?.map(|growth| Rc::new(growth.table()));
    let rotates = rotating_layers(config, decoder.layers())?;
    check_kinds(config, &rotates, chunk)?;
    for (layer, spec) in plan.layers() {
        if rotates[layer] {
            (spec.window, spec.chunked) = (chunk, true);
        } else {
            (spec.rope, spec.query_scale) = (None, growth.clone());
        }
    }
    plan.load(decoder, weights)
}

/// The sigmoid of a router's output weighs what an expert gets.
fn experts(config: Settings<'_>, decoder: &DecoderConfig) -> Result<MoePlan, ModelError> {
    let missing = |setting| ModelError::MissingSetting { setting };
    let count = config.whole("num_local_experts", 1, 1 << 12)?.ok_or(missing("num_local_experts"))?;
    let chosen = config.whole("num_experts_per_tok", 1, count)?.ok_or(missing("num_experts_per_tok"))?;
    let rule =
        RoutingRule { scores: Scores::Sigmoid, weighs_inputs: true, ..RoutingRule::softmax(chosen, false) };
    Ok(MoePlan {
        shared: Some(SharedExpert {
            name: "feed_forward.shared_expert",
            gate: None,
            intermediate_size: decoder.intermediate_size,
        }),
        ..MoePlan::new(NAMES, count, decoder.intermediate_size, rule)
    })
}

/// Which layers have experts.
fn sparse_layers(config: Settings<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    let Some(value) = config.get("moe_layers") else {
        let step = config.whole("interleave_moe_layer_step", 1, i32::MAX)?.unwrap_or(1);
        let step = step.unsigned_abs() as usize;
        return Ok((0..layers).map(|layer| (layer + 1).is_multiple_of(step)).collect());
    };
    let Some(sparse) = Settings::indices(value).filter(|all| all.iter().all(|layer| *layer < layers)) else {
        return config.refuse("moe_layers", value);
    };
    Ok((0..layers).map(|layer| sparse.contains(&layer)).collect())
}

/// How queries of layers that do not rotate grow, if they do. Positions count from 1 there.
fn growth(config: Settings<'_>) -> Result<Option<QueryScaleConfig>, ModelError> {
    // A flag, or a number that is 0 where it is off.
    let is_on = match config.get("attn_temperature_tuning") {
        Some(flag) if flag.is_boolean() => config.flag("attn_temperature_tuning")?,
        _ => config.number("attn_temperature_tuning", 0.0, 1e6)?.map(|number| number != 0.0),
    };
    if is_on != Some(true) {
        return Ok(None);
    }
    let beta = config.number("attn_scale", 0.0, 1e3)?.unwrap_or(0.1);
    let period = config.number("floor_scale", 1.0, 1e9)?.unwrap_or(8192.0);
    Ok((beta != 0.0).then_some(QueryScaleConfig { beta, period, offset: 1.0 }))
}

/// Refuses kinds of layers that are said to be others than they are.
fn check_kinds(config: Settings<'_>, rotates: &[bool], chunk: Option<i32>) -> Result<(), ModelError> {
    let Some(kinds) = config.get("layer_types") else { return Ok(()) };
    let expected = rotates
        .iter()
        .map(|rotates| if *rotates && chunk.is_some() { "chunked_attention" } else { "full_attention" });
    let is_so =
        kinds.as_array().is_some_and(|kinds| kinds.iter().map(|kind| kind.as_str()).eq(expected.map(Some)));
    if is_so { Ok(()) } else { config.refuse("layer_types", kinds) }
}
