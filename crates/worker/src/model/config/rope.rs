//! What a configuration says of rotary positions, under all the names that this has had.

use artifact_store::python_json::as_float;

use super::{ModelError, settings::Settings};

/// What the configuration says of rotation.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct RopeConfig {
    /// Whether pairs are neighbours; otherwise they are half of the rotated components apart.
    pub(in crate::model) traditional: bool,
    /// The inverse frequencies are powers of its reciprocal.
    pub(in crate::model) base: f32,
    /// Which part of a head's components is rotated, the first ones.
    pub(in crate::model) part: f64,
    pub(in crate::model) scaling: RopeScaling,
    /// Whether queries grow with their position.
    pub(in crate::model) query_scale: Option<QueryScaleConfig>,
}

/// Queries are multiplied by `1 + beta ln(1 + floor((position + offset) / period))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct QueryScaleConfig {
    pub(in crate::model) beta: f64,
    /// In tokens.
    pub(in crate::model) period: f64,
    /// Likewise.
    pub(in crate::model) offset: f64,
}

/// How the context was stretched after the first training.
#[derive(Debug, Clone, PartialEq)]
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
    /// The same with another ramp, and rotated components are multiplied by `gain`.
    Yarn {
        factor: f64,
        old_context: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
        gain: f64,
        /// The part of the gain that is in the scores of whole heads, where an architecture has it there.
        share_of_all: f64,
    },
    /// The first pairs, as many as make this part of a whole head, turn `factor` times slower, and the others not at all. Pairs
    /// are those of whole heads.
    Proportional {
        factor: f64,
        part: f64,
    },
    /// Every pair turns slower by a factor of its own, and rotated components are multiplied by `gain`.
    LongRope {
        factors: Vec<f64>,
        gain: f64,
    },
}

/// What transformers assumes where nothing is said.
const DEFAULT_BASE: f64 = 10_000.0;

/// Bases that are taken. Published ones go from 10,000 to some 10^8; within these limits no inverse frequency leaves float32.
const BASES: (f64, f64) = (1e-3, 1e20);
/// The setting that says how long the context was before it was stretched.
const OLD_CONTEXT: &str = "original_max_position_embeddings";
/// Limits of factors, likewise.
const FACTORS: (f64, f64) = (1e-6, 1e6);

impl RopeConfig {
    /// As it was trained first, of whole heads.
    pub(in crate::model) fn plain(base: f32) -> Self {
        Self { traditional: false, base, part: 1.0, scaling: RopeScaling::Plain, query_scale: None }
    }

    /// `may_be_partial`: a part of a head's components may be left as it is. Of layers of a `kind` that the parameters name,
    /// such as `sliding_attention`; without such names the parameters are those of every kind. Where they do not say the
    /// base, the setting `base` does.
    ///
    /// # Errors
    /// A value has the wrong type, or is not covered.
    pub(in crate::model) fn parse(
        config: Settings<'_>,
        may_be_partial: bool,
        (kind, base): (&'static str, &'static str),
    ) -> Result<Self, ModelError> {
        let base = config.number(base, BASES.0, BASES.1)?.unwrap_or(DEFAULT_BASE);
        // The older name, and the one that transformers writes since version 5; some files have both.
        let older = Parameters::read(config, "rope_scaling", (kind, base))?;
        let newer = Parameters::read(config, "rope_parameters", (kind, base))?;
        if let (Some(older), Some(newer)) = (&older, &newer)
            && older.scaling != newer.scaling
        {
            return config.refuse("rope_parameters", "other than `rope_scaling`");
        }
        let part = |object: &Parameters<'_>| match object.scaling {
            // Whole heads are rotated, some pairs of them by nothing.
            RopeScaling::Proportional { .. } => Ok(None),
            _ => object.own.number("partial_rotary_factor", 0.0, 1.0),
        };
        let of = [&older, &newer].into_iter().flatten();
        let inner = of.clone().find_map(|parameters| parameters.base);
        let parts = of.clone().filter_map(|object| Some((object.own, part(object).transpose()?)));
        let outer = may_be_partial.then(|| config.number("partial_rotary_factor", 0.0, 1.0)).transpose()?;
        let mut all = outer.flatten();
        for (own, part) in parts {
            let part = part?;
            if part != 1.0 && !may_be_partial {
                return own.refuse("partial_rotary_factor", part);
            }
            all = Some(part);
        }
        let query_scale = of.filter_map(|parameters| parameters.query_scale).next();
        Ok(Self {
            traditional: config.flag("rope_traditional")?.unwrap_or(false),
            base: inner.unwrap_or(base) as f32,
            part: all.unwrap_or(1.0),
            scaling: older.or(newer).map_or(RopeScaling::Plain, |parameters| parameters.scaling),
            query_scale,
        })
    }

    /// How many of a head's components are rotated.
    pub(in crate::model) fn dims(&self, head_dim: i32) -> i32 {
        (f64::from(head_dim) * self.part) as i32
    }

    /// Refuses what does not fit heads of this size.
    pub(in crate::model) fn check(&self, config: Settings<'_>, head_dim: i32) -> Result<(), ModelError> {
        let dims = self.dims(head_dim);
        if dims < 2 || dims % 2 != 0 {
            return config.refuse("partial_rotary_factor", self.part);
        }
        match &self.scaling {
            RopeScaling::Proportional { part, .. } => {
                let rotated = (f64::from(head_dim) * part) as i32;
                if rotated < 2 || rotated % 2 != 0 {
                    return config.refuse("partial_rotary_factor", part);
                }
                Ok(())
            }
            RopeScaling::LongRope { factors, .. } if factors.len() != dims.unsigned_abs() as usize / 2 => {
                config.refuse(
                    "rope_scaling.long_factor",
                    format!("{} numbers for {dims} components", factors.len()),
                )
            }
            _ => Ok(()),
        }
    }
}

impl RopeScaling {
    /// Factor of scores in the architectures whose whole heads have a part of the gain.
    pub(in crate::model) fn score_factor(&self) -> f64 {
        match self {
            Self::Yarn { share_of_all, .. } => share_of_all * share_of_all,
            _ => 1.0,
        }
    }

    /// Factor of rotated components.
    pub(in crate::model) fn gain(&self) -> f64 {
        match self {
            Self::Plain | Self::Linear { .. } | Self::Llama3 { .. } | Self::Proportional { .. } => 1.0,
            Self::Yarn { gain, .. } | Self::LongRope { gain, .. } => *gain,
        }
    }
}

/// One of the two objects.
struct Parameters<'a> {
    own: Settings<'a>,
    /// In newer configurations the base stands here.
    base: Option<f64>,
    scaling: RopeScaling,
    query_scale: Option<QueryScaleConfig>,
}

impl<'a> Parameters<'a> {
    fn read(
        config: Settings<'a>,
        name: &'static str,
        (kind, base): (&'static str, f64),
    ) -> Result<Option<Self>, ModelError> {
        let Some(all) = config.object(name)?.filter(|object| !object.is_empty()) else { return Ok(None) };
        let own = if has_kinds(all) { all.object(kind)? } else { Some(all) };
        let Some(own) = own else { return Ok(None) };
        let inner = own.number("rope_theta", BASES.0, BASES.1)?;
        Ok(Some(Self {
            own,
            base: inner,
            scaling: scaling(config, own, inner.unwrap_or(base))?,
            query_scale: query_scale(own)?,
        }))
    }
}

/// Whether there is an object for each kind of layers.
pub(super) fn has_kinds(parameters: Settings<'_>) -> bool {
    parameters.iter().any(|(name, value)| name.ends_with("_attention") && value.is_object())
}

fn query_scale(own: Settings<'_>) -> Result<Option<QueryScaleConfig>, ModelError> {
    let Some(beta) = own.number("llama_4_scaling_beta", 0.0, 1e3)? else { return Ok(None) };
    let period = needed(own, OLD_CONTEXT, own.number(OLD_CONTEXT, 1.0, 1e9)?)?;
    Ok((beta != 0.0).then_some(QueryScaleConfig { beta, period, offset: 0.0 }))
}

fn needed(own: Settings<'_>, name: &str, value: Option<f64>) -> Result<f64, ModelError> {
    value.map_or_else(|| own.refuse(name, "nothing"), Ok)
}

fn scaling(config: Settings<'_>, own: Settings<'_>, base: f64) -> Result<RopeScaling, ModelError> {
    let factor = || own.number("factor", FACTORS.0, FACTORS.1);
    let needed = || needed(own, "factor", factor()?);
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
        Some("linear") => Ok(RopeScaling::Linear { factor: needed()? }),
        // The base grows once a sequence is longer than `max_position_embeddings`, which none is here.
        Some("dynamic") => needed().map(|_| RopeScaling::Plain),
        Some("proportional") => {
            let part = own.number("partial_rotary_factor", 0.0, 1.0)?.unwrap_or(1.0);
            Ok(RopeScaling::Proportional { factor: factor()?.unwrap_or(1.0), part })
        }
        Some("llama3") => llama3(config, own, needed()?),
        Some("yarn") => yarn(config, own, (base, needed()?)),
        Some("longrope" | "su") => long_rope(config, own),
        Some(other) => own.refuse("rope_type", format!("`{other}`")),
    }
}

/// The context before stretching, which stands in one of two places.
fn old_context(config: Settings<'_>, own: Settings<'_>) -> Result<Option<f64>, ModelError> {
    match own.number(OLD_CONTEXT, 1.0, 1e9)? {
        None => config.number(OLD_CONTEXT, 1.0, 1e9),
        found => Ok(found),
    }
}

fn llama3(config: Settings<'_>, own: Settings<'_>, factor: f64) -> Result<RopeScaling, ModelError> {
    let low_freq_factor = own.number("low_freq_factor", 0.0, FACTORS.1)?.unwrap_or(1.0);
    let high_freq_factor = own.number("high_freq_factor", 0.0, FACTORS.1)?.unwrap_or(4.0);
    if low_freq_factor >= high_freq_factor {
        return own.refuse("low_freq_factor", format!("{low_freq_factor}, not below `high_freq_factor`"));
    }
    let old_context = old_context(config, own)?.unwrap_or(8192.0);
    Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, old_context })
}

fn yarn(
    config: Settings<'_>,
    own: Settings<'_>,
    (base, factor): (f64, f64),
) -> Result<RopeScaling, ModelError> {
    let number = |name: &str, least: f64| own.number(name, least, 1e6);
    let old_context = needed(own, OLD_CONTEXT, old_context(config, own)?)?;
    if base <= 1.0 {
        return own.refuse("rope_theta", "1 or less");
    }
    let (beta_fast, beta_slow) =
        (number("beta_fast", 1e-6)?.unwrap_or(32.0), number("beta_slow", 1e-6)?.unwrap_or(1.0));
    if beta_fast < beta_slow {
        return own.refuse("beta_fast", format!("{beta_fast}, below `beta_slow`"));
    }
    let share = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let share_of_all = share(number("mscale_all_dim", 0.0)?.unwrap_or(0.0));
    let gain = match number("attention_factor", 1e-6)? {
        Some(gain) => gain,
        None => share(number("mscale", 0.0)?.unwrap_or(1.0)) / share_of_all,
    };
    let truncate = own.flag("truncate")?.unwrap_or(true);
    Ok(RopeScaling::Yarn { factor, old_context, beta_fast, beta_slow, truncate, gain, share_of_all })
}

/// The factors are those for long sequences, whatever a sequence's length is: keys that were kept would change with it.
fn long_rope(config: Settings<'_>, own: Settings<'_>) -> Result<RopeScaling, ModelError> {
    for name in ["long_mscale", "short_mscale"] {
        if let Some(value) = own.get(name) {
            return own.refuse(name, value);
        }
    }
    let Some(factors) = own.get("long_factor").and_then(serde_json::Value::as_array) else {
        return own.refuse("long_factor", "nothing");
    };
    let is_covered = |factor: &f64| (FACTORS.0..=FACTORS.1).contains(factor);
    let factors =
        factors.iter().map(|factor| as_float(factor).filter(is_covered)).collect::<Option<Vec<f64>>>();
    let Some(factors) = factors else { return own.refuse("long_factor", "something that is no factor") };
    let old_context = needed(own, OLD_CONTEXT, old_context(config, own)?)?;
    if old_context <= 1.0 {
        return own.refuse(OLD_CONTEXT, old_context);
    }
    let stretched = config.number("max_position_embeddings", 1.0, 1e9)?.unwrap_or(old_context) / old_context;
    let gain = match own.number("attention_factor", 1e-6, 1e6)? {
        Some(gain) => gain,
        None if stretched <= 1.0 => 1.0,
        None => (1.0 + stretched.ln() / old_context.ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope { factors, gain })
}
