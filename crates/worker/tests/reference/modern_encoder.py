"""What ModernBERT computes, for `encoders.py`: one input at a time, in float64, as transformers 5.24 describes it."""

import math

import numpy as np

from decoders_that_embed import attended, rotated

CONFIGS = [
    {"model_type": "modernbert", "vocab_size": 96, "max_position_embeddings": 80, "hidden_size": 64, "intermediate_size": 96,
     "num_hidden_layers": 4, "num_attention_heads": 4, "norm_eps": 1e-5, "local_attention": 12, "global_attn_every_n_layers": 3,
     "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "hidden_activation": "gelu"},
]


def shapes(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    all = {"embeddings.tok_embeddings.weight": [config["vocab_size"], hidden], "embeddings.norm.weight": [hidden],
           "final_norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        parts = {"attn.Wqkv": [3 * hidden, hidden], "attn.Wo": [hidden, hidden], "mlp.Wi": [2 * inner, hidden],
                 "mlp.Wo": [hidden, inner], "mlp_norm": [hidden]}
        if layer > 0:
            parts["attn_norm"] = [hidden]
        all |= {f"layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return all


class ModernEncoder:
    def __init__(self, config, weights):
        self.config = config
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T

    def norm(self, x, name):
        mean = x.mean(axis=-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + self.config["norm_eps"]) * self.weights[f"{name}.weight"]

    def attention(self, x, layer):
        config, name = self.config, f"layers.{layer}.attn"
        slides = layer % config["global_attn_every_n_layers"] != 0
        base = config["local_rope_theta"] if slides else config["global_rope_theta"]
        heads = self.linear(x, f"{name}.Wqkv").reshape(len(x), 3, config["num_attention_heads"], -1).transpose(1, 2, 0, 3)
        distance = abs(np.arange(len(x))[:, None] - np.arange(len(x))[None, :])
        seen = distance <= config["local_attention"] // 2 if slides else distance >= 0
        scale = heads.shape[-1] ** -0.5
        return self.linear(attended(rotated(heads[0], base), rotated(heads[1], base), heads[2], scale, seen), f"{name}.Wo")

    def feed_forward(self, x, layer):
        gelu = np.vectorize(lambda value: value * (1 + math.erf(value / math.sqrt(2))) / 2)
        activated, gate = np.split(self.linear(x, f"layers.{layer}.mlp.Wi"), 2, axis=-1)
        return self.linear(gelu(activated) * gate, f"layers.{layer}.mlp.Wo")

    def hidden(self, tokens):
        x = self.norm(self.weights["embeddings.tok_embeddings.weight"][tokens], "embeddings.norm")
        for layer in range(self.config["num_hidden_layers"]):
            # The first layer's input has just been normalized.
            x = x + self.attention(self.norm(x, f"layers.{layer}.attn_norm") if layer > 0 else x, layer)
            x = x + self.feed_forward(self.norm(x, f"layers.{layer}.mlp_norm"), layer)
        return self.norm(x, "final_norm")
