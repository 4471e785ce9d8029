//! Names of tensors.

/// Names of a block's parts below the layer's name, and of what follows the blocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct BlockNames {
    pub(in crate::model) attention: &'static str,
    pub(in crate::model) attention_output: &'static str,
    /// Of queries and keys.
    pub(in crate::model) qk_norms: [&'static str; 2],
    /// Of what stands in place of attention in some layers.
    pub(in crate::model) recurrent: &'static str,
    pub(in crate::model) mlp: &'static str,
    /// Gate, up and down.
    pub(in crate::model) mlp_parts: [&'static str; 3],
    pub(in crate::model) last_norm: &'static str,
}

impl BlockNames {
    /// As Llama has them.
    pub(in crate::model) const LLAMA: Self = Self {
        attention: "self_attn",
        attention_output: "o_proj",
        qk_norms: ["q_norm", "k_norm"],
        recurrent: "conv",
        mlp: "mlp",
        mlp_parts: ["gate_proj", "up_proj", "down_proj"],
        last_norm: "model.norm",
    };
}
