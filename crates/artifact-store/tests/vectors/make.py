"""Records what other programs compute, for tests to compare with: `python make.py` in an environment with the packages
`gguf`, `mlx[cpu]`, `numpy` and `sentencepiece`, in this folder. Recorded with gguf 0.19.0, mlx 0.32.4 and
sentencepiece 0.2.3."""

import io
import json
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import sentencepiece

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


dump("sentencepiece.json", pieces())
dump("gguf.json", blocks())
dump("quantize.json", quantizations())
