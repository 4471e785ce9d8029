"""Records what other programs compute, for tests to compare with: `python make.py` in an environment with the packages
`gguf`, `mlx[cpu]`, `mlx-lm`, `numpy` and `sentencepiece`, in this folder. Recorded with gguf 0.19.0, mlx 0.32.4,
mlx-lm 0.32.2 and sentencepiece 0.2.3."""

import io
import json
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import sentencepiece
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

RANDOM = np.random.default_rng(20)


def dump(name, value):
    with open(name, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def blocks():
    """Blocks of every quantized type, with their values as float32."""
    scale_places = {
        "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
        "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    }
    recorded = {}
    for name, places in scale_places.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        raw = RANDOM.integers(0, 256, (2, size), dtype=np.uint8)
        for place in places:
            scales = RANDOM.normal(0, 0.1, (2, 1)).astype(np.float16)
            raw[:, place : place + 2] = scales.view(np.uint8)
        values = gguf.quants.dequantize(raw, kind).astype("<f4")
        assert values.size == 2 * elements
        recorded[name] = {"blocks": raw.tobytes().hex(), "values": values.tobytes().hex()}
    return recorded


def quantizations():
    """Rows of every float type, and what `mx.quantize` makes of them."""
    rows = RANDOM.normal(0, 0.05, (6, 128)).astype(np.float32)
    rows[1] = np.abs(rows[1])
    rows[2] = -np.abs(rows[2])
    rows[3] = 0
    rows[4] = 0.25
    rows[5, ::2] = 0
    recorded = {}
    for name, dtype in [("F32", mx.float32), ("F16", mx.float16), ("BF16", mx.bfloat16)]:
        matrix = mx.array(rows).astype(dtype)

        def raw(array):
            plain = array if array.dtype in (mx.uint32, mx.float32) else mx.view(array, mx.uint16)
            return np.array(plain).tobytes().hex()

        quantized = []
        for bits in (4, 8, 2, 3, 5, 6):
            for group_size in (32, 64, 128):
                parts = zip(("weight", "scales", "biases"), mx.quantize(matrix, group_size=group_size, bits=bits))
                quantized.append({"bits": bits, "group_size": group_size} | {part: raw(array) for part, array in parts})
        recorded[name] = {"matrix": raw(matrix), "quantized": quantized}
    return recorded


def pieces():
    """A small vocabulary as GGUF files have it, and what SentencePiece itself makes of texts."""
    model = io.BytesIO()
    text = (Path(__file__).parents[4] / "ARCHITECTURE.md").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())

    def kind(id):
        kinds = [(processor.is_unknown, 2), (processor.is_control, 3), (processor.is_byte, 6)]
        return next((number for is_kind, number in kinds if is_kind(id)), 1)

    texts = [
        "The worker maps the weights.", "  two  spaces ", "one\ttab\nand lines\n\n", "Grüße, 世界! 🦀",
        "thethethe therein", "0123456789 (a, b)", "", " ", "the gateway and the worker share a segment" * 3,
    ]
    return {
        "tokens": [processor.id_to_piece(id) for id in ids],
        "scores": [processor.get_score(id) for id in ids],
        "types": [kind(id) for id in ids],
        "texts": [{"text": text, "ids": processor.encode(text)} for text in texts],
    }


def micro_scaled():
    """Blocks of MXFP4, whose scale is an exponent."""
    kind = gguf.GGMLQuantizationType.MXFP4
    raw = RANDOM.integers(0, 256, (2, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    raw[:, 0] = RANDOM.integers(110, 140, 2)
    values = gguf.quants.dequantize(raw, kind).astype("<f4")
    return {"blocks": raw.tobytes().hex(), "values": values.tobytes().hex()}


# Of every architecture: what its small model's `config.json` says beside SIZES, and what llama.cpp's converter makes of that.
SIZES = {
    "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 6, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128, "rope_theta": 10000.0,
}
SETTINGS = {
    "embedding_length": 128, "feed_forward_length": 96, "block_count": 2, "attention.head_count": 4,
    "attention.head_count_kv": 2, "attention.key_length": 32, "attention.value_length": 32,
    "attention.layer_norm_rms_epsilon": 1e-5, "context_length": 128, "rope.freq_base": 10000.0,
}
WINDOWS = ["sliding_attention", "full_attention"]
EXPERTS = {"expert_count": 4, "expert_used_count": 2}
ARCHITECTURES = {
    "llama": ({"model_type": "llama", "tie_word_embeddings": False}, {}),
    "mistral": (
        {"model_type": "mistral", "tie_word_embeddings": False, "sliding_window": 16}, {"attention.sliding_window": 16}
    ),
    "mixtral": (
        {"model_type": "mixtral", "tie_word_embeddings": False, "num_local_experts": 4, "num_experts_per_tok": 2},
        EXPERTS,
    ),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": True}, {}),
    "qwen3": ({"model_type": "qwen3", "tie_word_embeddings": True}, {}),
    "qwen3moe": (
        {
            "model_type": "qwen3_moe", "tie_word_embeddings": False, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 64, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
        },
        EXPERTS | {"expert_feed_forward_length": 64},
    ),
    "gemma2": (
        {
            "model_type": "gemma2", "query_pre_attn_scalar": 32, "attn_logit_softcapping": 40.0,
            "final_logit_softcapping": 20.0, "sliding_window": 16, "layer_types": WINDOWS,
        },
        {"attn_logit_softcapping": 40.0, "final_logit_softcapping": 20.0, "attention.sliding_window": 16},
    ),
    "gemma3": (
        {
            "model_type": "gemma3_text", "query_pre_attn_scalar": 32, "sliding_window": 16, "sliding_window_pattern": 2,
            "rope_local_base_freq": 5000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "attention.sliding_window": 16, "attention.sliding_window_pattern": 2, "rope.freq_base_swa": 5000.0,
            "rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
        },
    ),
    "phi3": (
        {"model_type": "phi3", "tie_word_embeddings": False, "original_max_position_embeddings": 64, "sliding_window": 32},
        {"rope.scaling.original_context_length": 64, "attention.sliding_window": 32},
    ),
    "smollm3": ({"model_type": "smollm3", "tie_word_embeddings": True, "no_rope_layer_interval": 4}, {}),
    "gpt-oss": (
        {
            "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
            "layer_types": WINDOWS, "tie_word_embeddings": False, "rope_scaling": {
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False,
            },
        },
        EXPERTS | {
            "expert_feed_forward_length": 96, "attention.sliding_window": 16, "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32,
        },
    ),
}
# Of those that have no name of their own in GGUF.
AS = {"mistral": "llama", "mixtral": "llama"}


def architectures():
    """The tensors that mlx-lm's models have, and their names in llama.cpp's files."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    recorded = {}
    for name, (config, settings) in ARCHITECTURES.items():
        config = SIZES | config
        model_class, args = _get_classes(config)
        parameters = tree_flatten(model_class(args.from_dict(config)).parameters())
        names = gguf.get_tensor_name_map(numbers[AS.get(name, name)], SIZES["num_hidden_layers"])
        tensors = []
        for tensor, array in parameters:
            if config["model_type"] == "gemma3_text" and tensor == "lm_head.weight":
                continue  # mlx-lm ties it when it loads weights
            module, part = tensor.rsplit(".", 1)
            if part == "sinks":
                module, part = tensor, "weight"
            module = module.replace("switch_mlp", "experts")
            if name == "mixtral":
                for ours, original in {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}.items():
                    experts = f"block_sparse_moe.experts.{ours}"
                    module = module.replace(f"model.layers.0.{experts}", f"layers.0.feed_forward.experts.{original}")
                    module = module.replace(f"model.layers.1.{experts}", f"layers.1.feed_forward.experts.{original}")
            place = f"{names.get_name(module)}.{part}"
            tensors.append({"gguf": place, "name": tensor, "shape": list(array.shape)})
        recorded[name] = {
            "architecture": AS.get(name, name), "config": config, "settings": SETTINGS | settings, "tensors": tensors,
        }
        assert not any("None" in tensor["gguf"] for tensor in tensors), tensors
    return recorded


dump("sentencepiece.json", pieces())
recorded = blocks()
dump("quantize.json", quantizations())
dump("gguf.json", recorded | {"MXFP4": micro_scaled()})
dump("architectures.json", architectures())
