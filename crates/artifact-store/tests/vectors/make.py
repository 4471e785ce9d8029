"""Records what other programs compute, for tests to compare with: `python make.py` in an environment with the packages
`gguf`, `mlx[cpu]` and `numpy`, in this folder. Recorded with gguf 0.19.0 and mlx 0.32.4."""

import json

import gguf
import mlx.core as mx
import numpy as np

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
        for bits in (4, 8):
            for group_size in (32, 64, 128):
                parts = zip(("weight", "scales", "biases"), mx.quantize(matrix, group_size=group_size, bits=bits))
                quantized.append({"bits": bits, "group_size": group_size} | {part: raw(array) for part, array in parts})
        recorded[name] = {"matrix": raw(matrix), "quantized": quantized}
    return recorded


dump("gguf.json", blocks())
dump("quantize.json", quantizations())
