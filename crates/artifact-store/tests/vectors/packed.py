"""Records matrices as GPTQ, AWQ and compressed-tensors pack them, with the values that they stand for: `python packed.py`
in an environment with `numpy`, in this folder. Recorded with numpy 2.4.6.

The packers below are written from the layouts that these formats have in files:

- GPTQ, `qweight` int32 [inputs * bits / 32, outputs]: 32 integers along the inputs fill `bits` words, lowest bits first;
  of 3 bits the eleventh and the twenty-second lie across two words. `qzeros` [groups, outputs * bits / 32] is packed in the
  same way along the outputs, with 1 taken from each zero in the format's first version. `scales` [groups, outputs].
- AWQ (gemm), `qweight` int32 [inputs, outputs / 8]: a word has eight outputs of 4 bits, in the order 0, 2, 4, 6, 1, 3, 5,
  7. `qzeros` [groups, outputs / 8] likewise. `scales` [groups, outputs].
- compressed-tensors (pack-quantized), `weight_packed` int32 [outputs, inputs * bits / 32]: signed integers with half of the
  range added, as GPTQ's along the inputs. `weight_zero_point` [outputs * bits / 32, groups] is packed in the same way along the
  outputs, up to the last word that has a bit of one; without it zeros are 0. `weight_scale` [outputs, groups]. `weight_shape` int64 [outputs, inputs].
"""

import json

import numpy as np

RANDOM = np.random.default_rng(31)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
SAFETENSORS = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64"}


def words(integers, bits):
    """Integers along the first axis, as words along it."""
    parts = integers.astype(np.uint64)
    if bits != 3:
        per_word = 32 // bits
        parts = parts.reshape(-1, per_word, *parts.shape[1:])
        packed = sum(parts[:, place] << np.uint64(bits * place) for place in range(per_word))
        return packed.astype(np.uint32).view(np.int32)
    parts = parts.reshape(-1, 32, *parts.shape[1:])
    first = sum(parts[:, place] << np.uint64(3 * place) for place in range(10)) | parts[:, 10] << np.uint64(30)
    second = sum(parts[:, 11 + place] << np.uint64(3 * place + 1) for place in range(10))
    second |= parts[:, 10] >> np.uint64(2) | parts[:, 21] << np.uint64(31)
    third = sum(parts[:, 22 + place] << np.uint64(3 * place + 2) for place in range(10)) | parts[:, 21] >> np.uint64(1)
    packed = np.stack([first, second, third], axis=1) & np.uint64(0xFFFFFFFF)
    return packed.reshape(-1, *parts.shape[2:]).astype(np.uint32).view(np.int32)


def awq_words(integers):
    """Integers along the last axis, as words along it."""
    eights = integers.astype(np.uint32).reshape(*integers.shape[:-1], -1, 8)
    packed = sum(eights[..., output] << np.uint32(4 * place) for place, output in enumerate(AWQ_ORDER))
    return packed.astype(np.uint32).view(np.int32)


def gptq(integers, zeros, scales, bits, version):
    groups = np.arange(integers.shape[1]) // (integers.shape[1] // zeros.shape[1])
    stored = zeros if version == 2 else (zeros - 1) % 2**bits
    return {
        "qweight": words(integers.T, bits),
        "qzeros": np.ascontiguousarray(words(stored, bits).T),
        "scales": np.ascontiguousarray(scales.T),
        "g_idx": groups.astype(np.int32),
    }


def awq(integers, zeros, scales):
    return {
        "qweight": awq_words(integers.T),
        "qzeros": awq_words(zeros.T),
        "scales": np.ascontiguousarray(scales.T),
    }


def compressed_tensors(integers, zeros, scales, bits, symmetric):
    tensors = {
        "weight_packed": np.ascontiguousarray(words(integers.T, bits).T),
        "weight_scale": scales,
        "weight_shape": np.array(integers.shape, dtype=np.int64),
    }
    if symmetric:
        return tensors
    padding = -zeros.shape[0] % 32
    padded = words(np.pad(zeros, ((0, padding), (0, 0))), bits)
    return tensors | {"weight_zero_point": padded[: -(-zeros.shape[0] * bits // 32)]}


def matrix(outputs, inputs, group, bits, symmetric, scale_type="float16"):
    """Random integers, zeros (the least and the greatest among them) and scales, and the values that they stand for."""
    most = 2**bits - 1
    integers = RANDOM.integers(0, most + 1, (outputs, inputs))
    zeros = RANDOM.integers(0, most + 1, (outputs, inputs // group))
    zeros.flat[:2] = [0, most]
    if symmetric:
        zeros[:] = 2 ** (bits - 1)
    scales = RANDOM.normal(0, 0.02, zeros.shape).astype(scale_type)
    spread = np.repeat(scales.astype(np.float64), group, 1), np.repeat(zeros, group, 1)
    values = spread[0] * (integers - spread[1])
    assert (values.astype(np.float32) == values).all()
    return integers, zeros, scales, values


def case(name, settings, packed, values):
    tensors = {
        part: {"dtype": SAFETENSORS[str(array.dtype)], "shape": array.shape, "bytes": array.tobytes().hex()}
        for part, array in packed.items()
    }
    values = {"shape": values.shape, "bytes": values.astype("<f4").tobytes().hex()}
    return {"name": name, "settings": settings, "tensors": tensors, "values": values}


def gptq_case(bits, version, size, group, symmetric):
    *parts, values = matrix(*size, group, bits, symmetric)
    settings = {
        "quant_method": "gptq", "bits": bits, "group_size": -1 if group == size[1] else group, "sym": symmetric,
        "desc_act": False, "checkpoint_format": ["gptq", "gptq_v2"][version - 1],
    }
    name = f"gptq v{version}, {bits} bits, groups of {group}, {'symmetric' if symmetric else 'not symmetric'}"
    return case(name, settings, gptq(*parts, bits, version), values)


def awq_case(size, group):
    *parts, values = matrix(*size, group, 4, False)
    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return case(f"awq, groups of {group}", settings, awq(*parts), values)


def compressed_case(bits, size, group, symmetric):
    *parts, values = matrix(*size, group, bits, symmetric)
    by_group = {"strategy": "group", "group_size": group} if group != size[1] else {"strategy": "channel"}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric} | by_group
    settings = {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
    }
    name = f"compressed-tensors, {bits} bits, groups of {group}, {'symmetric' if symmetric else 'not symmetric'}"
    return case(name, settings, compressed_tensors(*parts, bits, symmetric), values)


cases = [
    gptq_case(4, 1, (16, 128), 64, True),
    gptq_case(4, 1, (16, 64), 32, False),
    gptq_case(4, 2, (8, 64), 32, False),
    gptq_case(2, 1, (16, 64), 32, False),
    gptq_case(3, 1, (64, 64), 32, False),
    gptq_case(8, 1, (8, 64), 32, False),
    gptq_case(8, 2, (4, 96), 96, True),
    gptq_case(4, 1, (8, 512), 256, False),
    awq_case((16, 64), 32),
    awq_case((8, 256), 128),
    compressed_case(4, (3, 64), 32, True),
    compressed_case(4, (16, 64), 32, False),
    compressed_case(8, (4, 128), 128, True),
    compressed_case(8, (6, 128), 64, False),
    compressed_case(3, (40, 64), 32, False),
]
with open("packed.json", "w") as file:
    json.dump(cases, file, indent=1)
    file.write("\n")
