"""What decoders compute that embed text, for `encoders.py`: one input at a time, in float64.

Written after the architectures' descriptions in transformers 5.24, without MLX and without anything of this project. Of each there
is what is behind the last normalization. Names of tensors and settings are those of published models: those of Qwen 3 have no
`model.` before them, as sentence-transformers stores a model without its head.
"""

import math

import numpy as np

SIZES = {"vocab_size": 96, "max_position_embeddings": 80, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6}

CONFIGS = [
    {"model_type": "qwen3", **SIZES, "rope_theta": 1000000.0, "hidden_act": "silu", "tie_word_embeddings": True},
    {"model_type": "mistral", **SIZES, "num_attention_heads": 2, "rope_theta": 10000.0, "hidden_act": "silu",
     "sliding_window": 12, "tie_word_embeddings": False},
    {"model_type": "gemma3_text", **SIZES, "num_hidden_layers": 3, "num_key_value_heads": 1, "rope_theta": 1000000.0,
     "rope_local_base_freq": 10000.0, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24,
     "sliding_window": 16, "use_bidirectional_attention": True,
     "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
]


def prefix(config):
    return "model." if config["model_type"] == "mistral" else ""


def shapes(config):
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    gemma, normed = config["model_type"] == "gemma3_text", config["model_type"] != "mistral"
    all = {"embed_tokens.weight": [config["vocab_size"], hidden], "norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        parts = {"self_attn.q_proj": [queries, hidden], "self_attn.k_proj": [keys, hidden], "self_attn.v_proj": [keys, hidden],
                 "self_attn.o_proj": [hidden, queries], "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden],
                 "mlp.down_proj": [hidden, inner], "input_layernorm": [hidden], "post_attention_layernorm": [hidden]}
        if normed:
            parts |= {"self_attn.q_norm": [dim], "self_attn.k_norm": [dim]}
        if gemma:
            parts |= {"pre_feedforward_layernorm": [hidden], "post_feedforward_layernorm": [hidden]}
        all |= {f"layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return {prefix(config) + name: shape for name, shape in all.items()}


def rotated(x, base):
    """`[heads, tokens, dim]`; a pair's components are half a head apart."""
    dim = x.shape[-1]
    angles = np.arange(x.shape[1])[:, None] / base ** (np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = x[..., : dim // 2], x[..., dim // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attended(queries, keys, values, scale, seen):
    """`[heads, tokens, dim]`; several heads of queries may share one of keys. `seen`: `[tokens, tokens]`."""
    share = len(queries) // len(keys)
    keys, values = np.repeat(keys, share, axis=0), np.repeat(values, share, axis=0)
    scores = np.where(seen, queries @ keys.transpose(0, 2, 1) * scale, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ values
    return mixed.transpose(1, 0, 2).reshape(len(seen), -1)


class Decoder:
    def __init__(self, config, weights):
        self.config = config
        self.gemma = config["model_type"] == "gemma3_text"
        self.weights = {name.removeprefix("model."): value.astype(np.float64) for name, value in weights.items()}

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T

    def norm(self, x, name):
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        return x * (self.weights[f"{name}.weight"] + self.gemma)

    def seen(self, tokens, slides):
        distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
        window = self.config["sliding_window"] if slides else tokens + 1
        if self.gemma:
            return abs(distance) < (window // 2 + 1 if slides else window)
        return (distance >= 0) & (distance < window)

    def attention(self, x, layer):
        config, name = self.config, f"layers.{layer}.self_attn"
        kinds = config.get("layer_types")
        slides = kinds[layer] == "sliding_attention" if kinds else "sliding_window" in config
        base = config["rope_local_base_freq"] if self.gemma and slides else config["rope_theta"]
        heads = lambda part: self.linear(x, f"{name}.{part}_proj").reshape(len(x), -1, config["head_dim"])
        normed = lambda part: self.norm(heads(part), f"{name}.{part}_norm") if f"{name}.q_norm.weight" in self.weights else heads(part)
        queries, keys = (rotated(normed(part).transpose(1, 0, 2), base) for part in "qk")
        scale = (config["query_pre_attn_scalar"] if self.gemma else config["head_dim"]) ** -0.5
        mixed = attended(queries, keys, heads("v").transpose(1, 0, 2), scale, self.seen(len(x), slides))
        return self.linear(mixed, f"{name}.o_proj")

    def feed_forward(self, x, layer):
        name = f"layers.{layer}.mlp"
        gate = self.linear(x, f"{name}.gate_proj")
        if self.gemma:
            gate = gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def hidden(self, tokens):
        # The root of 64 is a number that bfloat16 has.
        x = self.weights["embed_tokens.weight"][tokens] * (math.sqrt(self.config["hidden_size"]) if self.gemma else 1)
        for layer in range(self.config["num_hidden_layers"]):
            norm = lambda x, part: self.norm(x, f"layers.{layer}.{part}_layernorm")
            attended = self.attention(norm(x, "input"), layer)
            x = x + (norm(attended, "post_attention") if self.gemma else attended)
            inner = self.feed_forward(norm(x, "pre_feedforward" if self.gemma else "post_attention"), layer)
            x = x + (norm(inner, "post_feedforward") if self.gemma else inner)
        return self.norm(x, "norm")
