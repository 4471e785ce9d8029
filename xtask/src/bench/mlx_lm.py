"""Tokens a second of mlx-lm in float32, one measurement for each line of standard input.

    python mlx_lm.py MODEL.gguf

The lines are those of crates/worker/benches/engine.rs, and so is what is measured.
"""

import sys
import time

import mlx.core as mx
import mlx_lm
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def name_of(stem):
    """`blk.3.attn_q` -> `model.layers.3.self_attn.q_proj`."""
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"model.layers.{layer}.{NAMES[part]}"
    return NAMES[stem]


def load(path):
    """The file's model with dense float32 weights. Rows of q and k keep the file's order: it changes no speed."""
    tensors, meta = mx.load(path, return_metadata=True)
    value = lambda key: meta[f"llama.{key}"].item()
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=value("embedding_length"),
            num_hidden_layers=value("block_count"),
            intermediate_size=value("feed_forward_length"),
            num_attention_heads=value("attention.head_count"),
            num_key_value_heads=value("attention.head_count_kv"),
            rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
            rope_theta=value("rope.freq_base"),
            vocab_size=len(meta["tokenizer.ggml.tokens"]),
            max_position_embeddings=value("context_length"),
            tie_word_embeddings="output.weight" not in tensors,
        )
    )
    weights = []
    for name, w in tensors.items():
        stem, kind = name.rsplit(".", 1)
        if kind != "weight":
            continue
        if f"{stem}.scales" in tensors:
            scales = tensors[f"{stem}.scales"].astype(mx.float32)
            biases = tensors[f"{stem}.biases"].astype(mx.float32)
            bits = w.shape[-1] // scales.shape[-1]  # a group of 32 values takes `bits` words
            w = mx.dequantize(w, scales, biases, group_size=32, bits=bits)
        weights.append((name_of(stem) + ".weight", w.astype(mx.float32)))
    model.load_weights(weights, strict=True)
    mx.eval(model.parameters())
    return model


def tokens(model, count, offset=0):
    return [((i + offset) * 7919 + 13) % model.args.vocab_size for i in range(count)]


def prefill(model, count):
    x = mx.array([tokens(model, count)])
    cache = make_prompt_cache(model)
    started = time.perf_counter()
    # All but the last token only fill the cache, as mlx-lm's own generation does: only one row meets the head.
    model.model(x[:, :-1], cache=cache)
    mx.eval([layer.state for layer in cache])
    mx.eval(model(x[:, -1:], cache=cache))
    return count / (time.perf_counter() - started)


def decode(model, batch, context, steps):
    cache = make_prompt_cache(model)
    mx.eval(model.model(mx.array([tokens(model, context, row) for row in range(batch)]), cache=cache))
    rows = mx.array([tokens(model, steps, row) for row in range(batch)])
    # Warm by now are the weights, by the context; not yet the products of so few rows.
    mx.eval(model(rows[:, :1], cache=cache))
    started = time.perf_counter()
    for step in range(steps):
        mx.eval(model(rows[:, step : step + 1], cache=cache))
    return batch * steps / (time.perf_counter() - started)


def main():
    mx.set_default_device(mx.cpu)
    model = load(sys.argv[1])
    print(f"mlx-lm {mlx_lm.__version__}, mlx {mx.__version__}, float32", flush=True)
    measure = {"prefill": prefill, "decode": decode}
    for line in sys.stdin:
        what, *numbers = line.split()
        numbers = [int(number) for number in numbers]
        if what == "prefill":
            prefill(model, *numbers)  # warms up
        print(f"{measure[what](model, *numbers):.2f}", flush=True)


main()
