"""Reference values of a small model of any architecture, computed by mlx-lm in float32.

    python small.py llama > small/llama.json

Made with Python 3.11, mlx 0.32.2 (CPU), mlx-lm 0.32.2 (`pip install mlx-lm "mlx[cpu]==0.32.2"`).

A file has the configuration, the tensors' shapes, some tokens, and the logits after some of them. The weights are not in
it: they follow from the tensors' names, here and in `model_small/recorded.rs`.
"""

import json
import sys

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

# What every model has, and what is special about each `model_type`.
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "eos_token_id": 0,
}
SPECIAL = {
    "llama": {
        "attention_bias": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 40,
        },
    },
}
TOKENS = 40
AFTER = [1, 9, 33, 40]
MASK = (1 << 64) - 1


def split_mix(state):
    """Endless 64-bit numbers: the SplitMix of `model_small/tiny/mod.rs`."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def hashed(name):
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def tensor(name, shape):
    """Multiples of 2^-8 below 1, or of a power of two less: exact in every float type."""
    count = 1
    for dim in shape:
        count *= dim
    numbers = split_mix(hashed(name))
    if len(shape) == 1:
        low, high = (0.5, 1.5) if name.endswith("norm.weight") else (-0.25, 0.25)
        values = [low + (high - low) * (next(numbers) >> 57) / 128 for _ in range(count)]
    else:
        # About 2 / sqrt(inputs), so that activations keep their size from layer to layer.
        spread = 0.25
        values = [spread * ((next(numbers) >> 57) / 64 - 1) for _ in range(count)]
    return mx.array(values, dtype=mx.float32).reshape(shape)


def main(model_type):
    mx.set_default_device(mx.cpu)
    config = {"model_type": model_type, **COMMON, **SPECIAL.get(model_type, {})}
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    shapes = {name: list(value.shape) for name, value in sorted(tree_flatten(model.parameters()))}
    model.load_weights([(name, tensor(name, shape)) for name, shape in shapes.items()], strict=True)
    numbers = split_mix(hashed("tokens"))
    tokens = [next(numbers) % config["vocab_size"] for _ in range(TOKENS)]
    logits = model(mx.array([tokens]))[0]
    mx.eval(logits)
    rounded = lambda row: [round(value, 6) for value in row.tolist()]
    recorded = {
        "made_with": "mlx-lm, float32",
        "config": config,
        "tensors": shapes,
        "tokens": tokens,
        "logits": [[after, rounded(logits[after - 1])] for after in AFTER],
    }
    print("{")
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in recorded.items()]
    print(",\n".join(lines))
    print("}")


if __name__ == "__main__":
    main(sys.argv[1])
