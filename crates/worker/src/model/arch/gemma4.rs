//! `model_type` "gemma4_text", and "gemma4", of which the text model, without its towers. Layers that see all tokens have other
//! heads than those with a window, the last layers may borrow keys and values, and experts may stand beside feed-forward
//! networks.

use std::rc::Rc;

use super::gemma3::BLOCK_NORMS;
use crate::model::layers::{
    Architecture, AttentionSpec, BesideNorms, DecoderConfig, DecoderPlan, Defaults, Heads, KvSource,
    LayerInputsPlan, ModelError, MoeNames, MoePlan, QkNorm, RopeConfig, RopeScaling, RouterNorm, RoutingRule,
    Settings, Weights, full_heads, gelu_gate, load_rope, mixed_windows, own_layers,
};

/// What is not the language model's, as transformers calls it; mlx-lm has no `model.` before it.
const OTHERS: [&str; 12] = [
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "model.audio_tower.",
    "model.embed_audio.",
    "model.embed_vision.",
    "model.vision_embedder.",
    "vision_tower.",
    "multi_modal_projector.",
    "audio_tower.",
    "embed_audio.",
    "embed_vision.",
    "vision_embedder.",
];

const COVERED: [&str; 6] = [
    "hidden_act",
    "hidden_activation",
    "sliding_window",
    "layer_types",
    "rope_parameters",
    "final_logit_softcapping",
];

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("global_head_dim", 512.0),
    ("vocab_size", 262_144.0),
    ("max_position_embeddings", 131_072.0),
    ("sliding_window", 512.0),
    ("vocab_size_per_layer_input", 262_144.0),
    ("hidden_size_per_layer_input", 256.0),
];

/// Of the router and the experts, as mlx-lm has them.
const NAMES: MoeNames = MoeNames {
    router: "router.proj",
    stacked: ["experts.switch_glu.gate_proj", "experts.switch_glu.up_proj", "experts.switch_glu.down_proj"],
    expert: "experts",
    parts: ["gate_proj", "up_proj", "down_proj"],
};

/// Of the one with towers.
pub(super) fn load_nested(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    if weights.any("model.language_model.") {
        weights.enter_behind_model("language_model.", &OTHERS);
    } else {
        weights.enter("language_model.", &OTHERS);
    }
    load(config.of_text()?, weights)
}

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    check_directions(config)?;
    // In place of what is said of all layers that see everything: nothing published has it.
    if let Some(value) = config.get("per_layer_config") {
        return config.refuse("per_layer_config", value);
    }
    let decoder = DecoderConfig::parse(config, &COVERED)?;
    let own = own_layers(config, decoder.layers())?;
    let attention = attention(config, &decoder, own)?;
    let values_are_keys = config.flag("attention_k_eq_v")?.unwrap_or(false);
    let plan = DecoderPlan {
        values_are_keys: attention.iter().map(|spec| values_are_keys && spec.window.is_none()).collect(),
        attention,
        block_norms: BLOCK_NORMS,
        qk_norm: Some(QkNorm::HeadsAndValues),
        gate: gelu_gate(config)?,
        embedding_factor: (decoder.hidden_size as f32).sqrt(),
        logit_cap: config.number("final_logit_softcapping", 1e-3, 1e6)?.map(|cap| cap as f32),
        intermediate_sizes: intermediate_sizes(config, &decoder, own)?,
        layer_inputs: layer_inputs(config, &decoder)?,
        layer_scalars: true,
        ..DecoderPlan::new(&decoder)
    };
    let plan = with_experts(config, &decoder, plan)?;
    drop_unused(weights, own..decoder.layers());
    plan.load(decoder, weights)
}

/// In text all tokens see only what comes before them, unless they are those of images.
fn check_directions(config: Settings<'_>) -> Result<(), ModelError> {
    match config.get("use_bidirectional_attention") {
        Some(value) if value != false && value != "vision" => {
            config.refuse("use_bidirectional_attention", value)
        }
        _ => Ok(()),
    }
}

/// Of each layer, of which the first `own` have keys and values. Each of the others borrows those of the last one before
/// them that is of its kind.
fn attention(
    config: Settings<'_>,
    decoder: &DecoderConfig,
    own: usize,
) -> Result<Vec<AttentionSpec>, ModelError> {
    let windows = mixed_windows(config, decoder.layers())?;
    let full = full_heads(config, decoder.heads)?;
    let specs = [
        spec(config, decoder, full, ("full_attention", 1_000_000.0, 0.25))?,
        spec(config, decoder, decoder.heads, ("sliding_attention", 10_000.0, 1.0))?,
    ];
    let lender =
        |layer: usize| (0..own).rev().find(|&lender| windows[lender].is_some() == windows[layer].is_some());
    let lenders = (own..windows.len()).map(lender).collect::<Option<Vec<_>>>();
    let Some(lenders) = lenders else {
        return config
            .refuse("num_kv_shared_layers", "so many that a kind of layers has none to borrow from");
    };
    let source = |layer: usize| match layer.checked_sub(own) {
        Some(borrower) => KvSource::Borrowed(lenders[borrower]),
        None if lenders.contains(&layer) => KvSource::Lent,
        None => KvSource::Own,
    };
    let of_layer = |(layer, window): (usize, &Option<i32>)| AttentionSpec {
        window: *window,
        kv: source(layer),
        ..specs[usize::from(window.is_some())].clone()
    };
    Ok(windows.iter().enumerate().map(of_layer).collect())
}

/// Of one kind of layers; `base` and `part` are those of its rotation where the configuration has no parameters.
fn spec(
    config: Settings<'_>,
    decoder: &DecoderConfig,
    heads: Heads,
    (kind, base, part): (&'static str, f32, f64),
) -> Result<AttentionSpec, ModelError> {
    let rope = match config.object("rope_parameters")? {
        Some(_) => RopeConfig::parse(config, false, (kind, "rope_theta"))?,
        None => {
            let scaling = RopeScaling::Proportional { factor: 1.0, part };
            RopeConfig { scaling, ..RopeConfig::plain(base) }
        }
    };
    rope.check(config, heads.dim)?;
    let rope: Rc<_> = load_rope(&rope, heads.dim, decoder.max_position_embeddings);
    Ok(AttentionSpec { scale: 1.0, ..AttentionSpec::causal(heads, Some(rope)) })
}

/// Networks of layers that borrow may be twice as wide.
fn intermediate_sizes(
    config: Settings<'_>,
    decoder: &DecoderConfig,
    own: usize,
) -> Result<Vec<i32>, ModelError> {
    let plain = decoder.intermediate_size;
    let is_wide = config.flag("use_double_wide_mlp")?.unwrap_or(false);
    let size = |layer| if is_wide && layer >= own { 2 * plain } else { plain };
    Ok((0..decoder.layers()).map(size).collect())
}

/// What each layer is told of a token, if it is.
fn layer_inputs(
    config: Settings<'_>,
    decoder: &DecoderConfig,
) -> Result<Option<LayerInputsPlan>, ModelError> {
    let width = config.whole("hidden_size_per_layer_input", 0, 1 << 16)?.unwrap_or(0);
    if width == 0 {
        return Ok(None);
    }
    let missing = ModelError::MissingSetting { setting: "vocab_size_per_layer_input" };
    let vocab = config.whole("vocab_size_per_layer_input", 1, 1 << 24)?.ok_or(missing)?;
    // Every token needs a row, and all layers' parts one size that fits 32 bits.
    if vocab < decoder.vocab_size {
        return config.refuse("vocab_size_per_layer_input", vocab);
    }
    if width.checked_mul(decoder.num_hidden_layers).is_none_or(|all| all > 1 << 22) {
        return config.refuse("hidden_size_per_layer_input", width);
    }
    Ok(Some(LayerInputsPlan { vocab, width }))
}

/// Experts beside the networks of all layers, if there are any.
fn with_experts(
    config: Settings<'_>,
    decoder: &DecoderConfig,
    plan: DecoderPlan,
) -> Result<DecoderPlan, ModelError> {
    if config.flag("enable_moe_block")? != Some(true) {
        return Ok(plan);
    }
    let missing = |setting| ModelError::MissingSetting { setting };
    let count = config.whole("num_experts", 1, 1 << 12)?.ok_or(missing("num_experts"))?;
    let chosen = config.whole("top_k_experts", 1, count)?.ok_or(missing("top_k_experts"))?;
    let inner = config.whole("moe_intermediate_size", 1, 1 << 22)?.ok_or(missing("moe_intermediate_size"))?;
    let factor = (decoder.hidden_size as f32).sqrt().recip();
    let router_norm = RouterNorm { weights: "router.scale", factor, eps: decoder.rms_norm_eps };
    let experts = MoePlan {
        factors: Some("router.per_expert_scale"),
        router_norm: Some(router_norm),
        fused: Some(["experts.gate_up_proj", "experts.down_proj"]),
        ..MoePlan::new(NAMES, count, inner, RoutingRule::softmax(chosen, true))
    };
    Ok(DecoderPlan {
        experts: Some(experts),
        sparse: vec![true; decoder.layers()],
        beside: Some(BesideNorms {
            mlp_after: "post_feedforward_layernorm_1",
            experts_before: "pre_feedforward_layernorm_2",
            experts_after: "post_feedforward_layernorm_2",
        }),
        ..plan
    })
}

/// Files have matrices of keys and values of layers that borrow, too.
fn drop_unused(weights: &mut Weights<'_>, borrowers: std::ops::Range<usize>) {
    let part = |name: &str| {
        let (_, behind) = name.split_once("layers.")?;
        let (layer, part) = behind.split_once(".self_attn.")?;
        let is_of_keys = ["k_proj.", "v_proj.", "k_norm."].iter().any(|of| part.starts_with(of));
        Some(is_of_keys && borrowers.contains(&layer.parse().ok()?))
    };
    weights.ignore(|name| part(name) == Some(true));
}
