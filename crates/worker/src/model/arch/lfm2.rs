//! `model_type` "lfm2": LFM 2. Most layers have a short convolution in place of attention.

use crate::model::layers::{
    Architecture, BlockNames, BlockNorms, DecoderConfig, DecoderPlan, Defaults, ModelError, QkNorm,
    RecurrentPlan, Settings, ShortConvPlan, Weights, layer_kinds,
};

/// The feed-forward network's size has a name of its own.
pub(super) const DEFAULTS: Defaults =
    &[("intermediate_size", 0.0), ("rope_theta", 1_000_000.0), ("norm_eps", 1e-5)];

const NAMES: BlockNames = BlockNames {
    attention_output: "out_proj",
    qk_norms: ["q_layernorm", "k_layernorm"],
    mlp: "feed_forward",
    mlp_parts: ["w1", "w3", "w2"],
    last_norm: "model.embedding_norm",
    ..BlockNames::LLAMA
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let mut decoder = parse(config)?;
    decoder.intermediate_size = intermediate_size(config, decoder.intermediate_size)?;
    if let Some(width) = config.whole("block_dim", 1, i32::MAX)?.filter(|&it| it != decoder.hidden_size) {
        return config.refuse("block_dim", width);
    }
    plan(config, &decoder)?.load(decoder, weights)
}

/// What all of its kind say under names of their own.
pub(super) fn parse(config: Settings<'_>) -> Result<DecoderConfig, ModelError> {
    let mut decoder = DecoderConfig::parse(config, &["layer_types"])?;
    decoder.tie_word_embeddings = decoder.tie_word_embeddings.or(config.flag("tie_embedding")?);
    if let Some(eps) = config.number("norm_eps", 0.0, 1.0)? {
        decoder.rms_norm_eps = eps as f32;
    }
    Ok(decoder)
}

/// Short convolutions, and attention in some layers.
pub(super) fn plan(config: Settings<'_>, decoder: &DecoderConfig) -> Result<DecoderPlan, ModelError> {
    let taps = config.whole("conv_L_cache", 2, 16)?;
    let conv = ShortConvPlan {
        taps: taps.ok_or(ModelError::MissingSetting { setting: "conv_L_cache" })?,
        bias: config.flag("conv_bias")?.unwrap_or(false),
    };
    let attends = attention_layers(config, decoder.layers())?;
    let recurrent = |attends: &bool| (!attends).then_some(RecurrentPlan::ShortConv(conv));
    Ok(DecoderPlan {
        names: NAMES,
        block_norms: BlockNorms::InTurn {
            attention_before: Some("operator_norm"),
            attention_after: None,
            mlp_before: Some("ffn_norm"),
            mlp_after: None,
        },
        qk_norm: Some(QkNorm::Heads),
        recurrent: attends.iter().map(recurrent).collect(),
        ..DecoderPlan::new(decoder)
    })
}

/// Of the feed-forward networks, rounded as the configuration says.
fn intermediate_size(config: Settings<'_>, plain: i32) -> Result<i32, ModelError> {
    let most = 1 << 22;
    let size = config.whole("block_ff_dim", 1, most)?.unwrap_or(plain);
    if size < 1 {
        return Err(ModelError::MissingSetting { setting: "block_ff_dim" });
    }
    if config.flag("block_auto_adjust_ff_dim")? != Some(true) {
        return Ok(size);
    }
    let factor = config.number("block_ffn_dim_multiplier", 0.001, 16.0)?.unwrap_or(1.0);
    let multiple = config.whole("block_multiple_of", 1, 1 << 20)?.unwrap_or(256);
    let adjusted = ((factor * f64::from(2 * size / 3)) as i32).max(1);
    let rounded = (adjusted + multiple - 1) / multiple * multiple;
    if rounded > most { config.refuse("block_ffn_dim_multiplier", factor) } else { Ok(rounded) }
}

/// Which layers have attention.
fn attention_layers(config: Settings<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    if let Some(value) = config.get("full_attn_idxs") {
        let mut attends = vec![false; layers];
        let Some(indices) = Settings::indices(value) else { return config.refuse("full_attn_idxs", value) };
        for layer in indices {
            match attends.get_mut(layer) {
                Some(attends) => *attends = true,
                None => return config.refuse("full_attn_idxs", layer),
            }
        }
        return Ok(attends);
    }
    let missing = ModelError::MissingSetting { setting: "layer_types" };
    layer_kinds(config, layers, "conv")?.ok_or(missing)
}
