//! Tables of the tensors that a layer has: their names in GGUF and in Hugging Face's folders, and their shapes.

use super::sizes::Sizes;

/// A dimension, as the metadata gives it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim {
    Hidden,
    Inner,
    /// Gate and up in one matrix.
    GateUp,
    /// All query heads.
    Queries,
    /// All key heads, or all value heads.
    Keys,
    /// Queries, keys and values in one matrix.
    QueriesKeysValues,
    /// One head.
    Head,
    /// The number of query heads.
    Heads,
    /// The number of experts.
    Experts,
    /// The inner size of one.
    ExpertInner,
}

/// What differs from the tensor of a Hugging Face folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Nothing,
    /// The rows of each head are interleaved, since llama.cpp rotates neighbours.
    Interleaved,
    /// 1 was added to every element: Gemma's normalizations, which multiply by one more than their weight.
    PlusOne,
}

/// A tensor of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// In GGUF, behind `blk.N.`.
    pub(super) name: &'static str,
    /// `weight` or `bias`: the end of its name in GGUF.
    pub(super) part: &'static str,
    /// In Hugging Face's folder, behind `model.layers.N.`.
    pub(super) module: &'static str,
    /// The end of its name there.
    pub(super) field: &'static str,
    pub(super) shape: &'static [Dim],
    pub(super) difference: Difference,
    pub(super) optional: bool,
}

/// Before attention and before the feed-forward network.
pub(super) const NORMS: &[Layout] =
    &[norm("attn_norm", "input_layernorm"), norm("ffn_norm", "post_attention_layernorm")];

pub(super) const ATTENTION: &[Layout] = &[
    weight("attn_q", "self_attn.q_proj", &[Dim::Queries, Dim::Hidden]),
    weight("attn_k", "self_attn.k_proj", &[Dim::Keys, Dim::Hidden]),
    weight("attn_v", "self_attn.v_proj", &[Dim::Keys, Dim::Hidden]),
    weight("attn_output", "self_attn.o_proj", &[Dim::Hidden, Dim::Queries]),
];

pub(super) const QKV_BIASES: &[Layout] = &[
    bias("attn_q", "self_attn.q_proj", &[Dim::Queries]),
    bias("attn_k", "self_attn.k_proj", &[Dim::Keys]),
    bias("attn_v", "self_attn.v_proj", &[Dim::Keys]),
];

pub(super) const OUTPUT_BIAS: &[Layout] = &[bias("attn_output", "self_attn.o_proj", &[Dim::Hidden])];

pub(super) const QK_NORMS: &[Layout] = &[
    Layout { shape: &[Dim::Head], ..norm("attn_q_norm", "self_attn.q_norm") },
    Layout { shape: &[Dim::Head], ..norm("attn_k_norm", "self_attn.k_norm") },
];

pub(super) const FEED_FORWARD: &[Layout] = &[
    weight("ffn_gate", "mlp.gate_proj", &[Dim::Inner, Dim::Hidden]),
    weight("ffn_up", "mlp.up_proj", &[Dim::Inner, Dim::Hidden]),
    weight("ffn_down", "mlp.down_proj", &[Dim::Hidden, Dim::Inner]),
];

pub(super) const FEED_FORWARD_BIASES: &[Layout] = &[
    bias("ffn_gate", "mlp.gate_proj", &[Dim::Inner]),
    bias("ffn_up", "mlp.up_proj", &[Dim::Inner]),
    bias("ffn_down", "mlp.down_proj", &[Dim::Hidden]),
];

pub(super) const fn weight(name: &'static str, module: &'static str, shape: &'static [Dim]) -> Layout {
    let difference = Difference::Nothing;
    Layout { name, part: "weight", module, field: "weight", shape, difference, optional: false }
}

pub(super) const fn bias(name: &'static str, module: &'static str, shape: &'static [Dim]) -> Layout {
    Layout { part: "bias", field: "bias", ..weight(name, module, shape) }
}

pub(super) const fn norm(name: &'static str, module: &'static str) -> Layout {
    weight(name, module, &[Dim::Hidden])
}

/// The router and the experts, which are stacked: `names` are those of router, gates, ups and downs.
pub(super) const fn experts(names: [&'static str; 4]) -> [Layout; 4] {
    [
        weight("ffn_gate_inp", names[0], &[Dim::Experts, Dim::Hidden]),
        weight("ffn_gate_exps", names[1], &[Dim::Experts, Dim::ExpertInner, Dim::Hidden]),
        weight("ffn_up_exps", names[2], &[Dim::Experts, Dim::ExpertInner, Dim::Hidden]),
        weight("ffn_down_exps", names[3], &[Dim::Experts, Dim::Hidden, Dim::ExpertInner]),
    ]
}

/// The same layouts, and none of them has to be there.
pub(super) fn optional(layouts: &[Layout]) -> Vec<Layout> {
    layouts.iter().map(|layout| Layout { optional: true, ..*layout }).collect()
}

/// The same layouts, where rows of queries and keys are interleaved.
pub(super) fn interleaved(layouts: &[Layout]) -> Vec<Layout> {
    let rotated = |layout: &Layout| layout.module.ends_with("q_proj") || layout.module.ends_with("k_proj");
    let with = |layout: &Layout| match rotated(layout) {
        true => Layout { difference: Difference::Interleaved, ..*layout },
        false => *layout,
    };
    layouts.iter().map(with).collect()
}

/// The same layouts, 1 added to each.
pub(super) fn plus_one(layouts: &[Layout]) -> Vec<Layout> {
    layouts.iter().map(|layout| Layout { difference: Difference::PlusOne, ..*layout }).collect()
}

impl Layout {
    /// Its name in the file.
    pub(super) fn full_name(&self, layer: u64) -> String {
        format!("blk.{layer}.{}.{}", self.name, self.part)
    }
}

impl Dim {
    pub(super) fn of(self, sizes: &Sizes) -> u64 {
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        match self {
            Self::Hidden => sizes.hidden,
            Self::Inner => sizes.intermediate,
            Self::GateUp => 2 * sizes.intermediate,
            Self::Queries => queries,
            Self::Keys => keys,
            Self::QueriesKeysValues => queries + 2 * keys,
            Self::Head => sizes.head_dim,
            Self::Heads => sizes.heads,
            Self::Experts => sizes.experts.map_or(0, |experts| experts.count),
            Self::ExpertInner => sizes.experts.map_or(0, |experts| experts.intermediate),
        }
    }
}
