//! What a configuration says of rotary positions, under all the names that this has had.

use super::{ModelError, settings::Settings};

/// What the configuration says of rotation.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct RopeConfig {
    /// Whether pairs are neighbours; otherwise they are half a head apart.
    pub(in crate::model) traditional: bool,
    /// The inverse frequencies are powers of its reciprocal.
    pub(in crate::model) base: f32,
    pub(in crate::model) scaling: RopeScaling,
}

/// How the context was stretched after the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) enum RopeScaling {
    Plain,
    /// Every pair turns `factor` times slower.
    Linear {
        factor: f64,
    },
    /// Pairs that turn slowly turn `factor` times slower still, fast ones as before, and there is a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        old_context: f64,
    },
}

/// What transformers assumes where nothing is said.
const DEFAULT_BASE: f64 = 10_000.0;

/// Bases that are taken. Published ones go from 10,000 to some 10^8; within these limits no inverse frequency leaves float32.
const BASES: (f64, f64) = (1e-3, 1e20);
/// Likewise of factors.
const FACTORS: (f64, f64) = (1e-6, 1e6);

impl RopeConfig {
    /// # Errors
    /// A value has the wrong type, or is not covered.
    pub(super) fn parse(config: Settings<'_>) -> Result<Self, ModelError> {
        let base = config.number("rope_theta", BASES.0, BASES.1)?;
        // The older name, and the one that transformers writes since version 5; some files have both.
        let older = Parameters::read(config, "rope_scaling")?;
        let newer = Parameters::read(config, "rope_parameters")?;
        if let (Some(older), Some(newer)) = (&older, &newer)
            && older.scaling != newer.scaling
        {
            return config.refuse("rope_parameters", "other than `rope_scaling`");
        }
        let inner = [&older, &newer].into_iter().flatten().find_map(|parameters| parameters.base);
        Ok(Self {
            traditional: config.flag("rope_traditional")?.unwrap_or(false),
            base: inner.or(base).unwrap_or(DEFAULT_BASE) as f32,
            scaling: older.or(newer).map_or(RopeScaling::Plain, |parameters| parameters.scaling),
        })
    }
}

/// One of the two objects.
struct Parameters {
    /// In newer configurations the base stands here.
    base: Option<f64>,
    scaling: RopeScaling,
}

impl Parameters {
    fn read(config: Settings<'_>, name: &'static str) -> Result<Option<Self>, ModelError> {
        let Some(all) = config.object(name)?.filter(|object| !object.is_empty()) else { return Ok(None) };
        // Where layers differ, there is an object for each kind of them; here all see everything.
        let of_kind = if all.get("full_attention").is_some_and(serde_json::Value::is_object) {
            all.object("full_attention")?
        } else {
            None
        };
        let own = of_kind.unwrap_or(all);
        if let Some(part) = own.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
            return own.refuse("partial_rotary_factor", part);
        }
        Ok(Some(Self { base: own.number("rope_theta", BASES.0, BASES.1)?, scaling: scaling(config, own)? }))
    }
}

fn scaling(config: Settings<'_>, own: Settings<'_>) -> Result<RopeScaling, ModelError> {
    let factor = || own.number("factor", FACTORS.0, FACTORS.1);
    let needed = |value: Option<f64>| match value {
        Some(value) => Ok(value),
        None => own.refuse("factor", "nothing"),
    };
    // `type` became `rope_type`; most published files have both.
    let kind = match (own.text("rope_type")?, own.text("type")?) {
        (Some(newer), Some(older)) if newer != older => {
            return own.refuse("type", format!("`{older}` beside `rope_type` = `{newer}`"));
        }
        (newer, older) => newer.or(older),
    };
    match kind {
        Some("default") => Ok(RopeScaling::Plain),
        None if factor()?.is_none_or(|factor| factor == 1.0) => Ok(RopeScaling::Plain),
        None => own.refuse("rope_type", "nothing, although there is a `factor`"),
        Some("linear") => Ok(RopeScaling::Linear { factor: needed(factor()?)? }),
        Some("llama3") => llama3(config, own, needed(factor()?)?),
        Some(other) => own.refuse("rope_type", format!("`{other}`")),
    }
}

fn llama3(config: Settings<'_>, own: Settings<'_>, factor: f64) -> Result<RopeScaling, ModelError> {
    let low_freq_factor = own.number("low_freq_factor", 0.0, FACTORS.1)?.unwrap_or(1.0);
    let high_freq_factor = own.number("high_freq_factor", 0.0, FACTORS.1)?.unwrap_or(4.0);
    if low_freq_factor >= high_freq_factor {
        return own.refuse("low_freq_factor", format!("{low_freq_factor}, not below `high_freq_factor`"));
    }
    let name = "original_max_position_embeddings";
    let old_context = match own.number(name, 1.0, 1e9)? {
        None => config.number(name, 1.0, 1e9)?,
        found => found,
    };
    let old_context = old_context.unwrap_or(8192.0);
    Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, old_context })
}
