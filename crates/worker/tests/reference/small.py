"""Reference values of small models of any architecture, computed by mlx-lm in float32.

    python small.py llama > small/llama.json              # what the tests check
    python small.py --seed 7 --to FOLDER llama qwen3      # other random models, for `cargo xtask parity`

Made with Python 3.11, mlx 0.32.2 (CPU), mlx-lm 0.32.2 (`pip install mlx-lm "mlx[cpu]==0.32.2"`).

A file has some models: of each the configuration, the tensors' shapes and a prompt; and of its dense and its quantized
weights the logits after some tokens and what greedy decoding goes on with. The weights are not in it: they follow from the
tensors' names, here and in `model_small/recorded/written.rs`.
"""

import argparse
import copy
import json
import os
import pathlib
import random
import sys

# MLX would compile C++ for each model.
os.environ["MLX_DISABLE_COMPILE"] = "1"

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes

from architectures import ARCHITECTURES
from random_values import hashed, split_mix

# mlx-lm 0.32.2 passes an argument that MLX 0.32.2 does not know yet; it is None.
GATHER_QMM = mx.gather_qmm
mx.gather_qmm = lambda *arrays, global_scale=None, **options: GATHER_QMM(*arrays, **options)

# Of the latest pass: how near experts are to each other, by layer and token.
GAPS = []
ARGPARTITION = mx.argpartition


def argpartition(values, kth, axis=-1):
    """What mlx-lm chooses experts by, and groups of them."""
    ordered = mx.sort(values, axis=axis).swapaxes(axis, -1)
    # The first that is left, of the largest values or of the smallest.
    first = kth + 1 if kth >= 0 else ordered.shape[-1] + kth
    if 0 < first < ordered.shape[-1]:
        taken, left = ordered[..., first - 1], ordered[..., first]
        # Scores are told apart by their ratio; what a router gives, which has both signs, by its difference.
        is_score = not (values > 0).any().item() or not (values < 0).any().item()
        size = mx.abs(taken) + mx.abs(left) if is_score else 1.0
        # Some models' values have no axis for the batch.
        tokens = values.shape[-2] if values.ndim == 2 else values.shape[1]
        GAPS.append(((left - taken) / size).reshape(tokens, -1).min(axis=-1).tolist())
    return ARGPARTITION(values, kth=kth, axis=axis)


mx.argpartition = argpartition

# A rounding to 16 bits changes less.
NEAR_EXPERTS = 3e-4

PROMPT, DECODED = 129, 24
AFTER = [1, 64, PROMPT, PROMPT + DECODED]
MODELS = 3
GROUP_SIZE = 32


def tensor(name, shape):
    """Multiples of 2^-8 below 1, or of a power of two less: exact in every float type."""
    count = 1
    for dim in shape:
        count *= dim
    numbers = split_mix(hashed(name))
    is_norm = len(shape) == 1 and name.endswith("norm.weight")
    # Of matrices about 2 / sqrt(inputs), so that activations keep their size from layer to layer.
    low, high = (0.5, 1.5) if is_norm or name.endswith(".layer_scalar") else (-0.25, 0.25)
    if name.endswith(".router.scale"):
        low, high = 8.0, 24.0  # so that experts differ
    if name.endswith(".e_score_correction_bias"):
        low = 0.0  # mlx-lm takes a group that is left out for one with scores of 0
    values = [low + (high - low) * (next(numbers) >> 57) / 128 for _ in range(count)]
    return mx.array(values, dtype=mx.float32).reshape(shape)


def numbered(name):
    """Gates, downs and ups as transformers calls them in some architectures."""
    return name.replace("gate_proj", "w1").replace("down_proj", "w2").replace("up_proj", "w3")


def separate(name, shape):
    """Experts one by one, as transformers stores them: mlx-lm stacks them."""
    is_numbered = ".block_sparse_moe." in name or ".feed_forward." in name
    if ".switch_mlp." not in name:
        return [(numbered(name) if is_numbered else name, shape)]
    before, after = name.split(".switch_mlp.")
    if is_numbered:
        after = numbered(after)
    return [(f"{before}.experts.{expert}.{after}", shape[1:]) for expert in range(shape[0])]


def transposed(name, shape):
    """Channels, inputs of each, taps, as transformers stores a convolution: mlx-lm has the inputs last."""
    return [shape[0], shape[2], shape[1]] if len(shape) == 3 and ".conv" in name else shape


def fused(name, shape):
    """Gates and ups of all experts in one tensor, as transformers stores them in some architectures."""
    if ".experts.switch_glu." not in name:
        return [(name, shape)]
    experts, part = name.removesuffix(".weight").split(".switch_glu.")
    if part == "up_proj":
        return []
    count, outputs, inputs = shape
    return [(f"{experts}.gate_up_proj", [count, 2 * outputs, inputs]) if part == "gate_proj" else (f"{experts}.{part}", shape)]


def build(config):
    """The model with its weights, and their shapes as they are stored."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(copy.deepcopy(config)))
    text = config.get("text_config", config)
    shapes = {name: list(value.shape) for name, value in sorted(tree_flatten(model.parameters()))}
    if text["tie_word_embeddings"]:
        shapes = {name: shape for name, shape in shapes.items() if "lm_head." not in name}
    if config.pop("separate_experts", False):
        shapes = dict(sorted(part for name, shape in shapes.items() for part in separate(name, shape)))
    if config.pop("fused_experts", False):
        shapes = dict(sorted(part for name, shape in shapes.items() for part in fused(name, shape)))
    if config.pop("text_model_behind", False):
        # Transformers has the names in another order.
        shapes = {name.replace("language_model.model.", "model.language_model."): it for name, it in shapes.items()}
    if config.pop("convolutions_of_transformers", False):
        shapes = {name: transposed(name, shape) for name, shape in shapes.items()}
    weights = {name: tensor(name, shape) for name, shape in shapes.items()}
    if hasattr(model, "sanitize"):
        weights = model.sanitize(dict(weights))
    model.load_weights(list(weights.items()), strict=True)
    return model, shapes


def quantize(model, bits, experts):
    """Packs all matrices, or the experts in another way than all others."""

    def packing(path, module):
        if not hasattr(module, "to_quantized"):
            return False
        return {"group_size": 32, "bits": 4, "mode": experts} if experts and ".experts." in path else True

    nn.quantize(model, group_size=GROUP_SIZE, bits=bits, class_predicate=packing)


def run(model, prompt, bits, experts=None):
    """Logits of the prompt in one piece, then of single tokens, each the most likely one."""
    cache = make_prompt_cache(model)
    near = []

    def forward(tokens):
        GAPS.clear()
        logits = model(mx.array([tokens]), cache=cache)[0]
        mx.eval(logits)
        near.extend(min(gaps) < NEAR_EXPERTS for gaps in zip(*GAPS))
        return list(logits)

    rows = forward(prompt)
    greedy = []
    for _ in range(DECODED):
        second, first = sorted(rows[-1].tolist())[-2:]
        token = rows[-1].argmax().item()
        greedy.append([token, round(first - second, 4)])
        rows += forward([token])
    rounded = lambda row: [round(value, 5) for value in row.tolist()]
    turns = {"turns_at": near.index(True)} if True in near else {}
    logits = [[after, rounded(rows[after - 1])] for after in AFTER]
    form = {"bits": bits, "experts": experts} if experts else {"bits": bits}
    return {**form, **turns, "logits": logits, "greedy": greedy}


def not_quantized(model, shapes):
    """Matrices that stay dense in a quantized model."""
    names = {name for name, _ in tree_flatten(model.parameters())}
    modules = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1]
    return [module for module in modules if f"{module}.weight" in names and f"{module}.scales" not in names]


def record(config, seed):
    """One model, dense and with weights of 4 and of 8 bits; gpt-oss also as it is published, with experts in MXFP4."""
    model, shapes = build(dict(config))
    numbers = split_mix(hashed(f"tokens {seed}"))
    vocab = config.get("text_config", config)["vocab_size"]
    prompt = [next(numbers) % vocab for _ in range(PROMPT)]
    runs, dense = [run(model, prompt, None)], []
    forms = [(4, None), (8, None)] + ([(8, "mxfp4")] if config["model_type"] == "gpt_oss" else [])
    for bits, experts in forms:
        model, _ = build(dict(config))
        quantize(model, bits, experts)
        runs.append(run(model, prompt, bits, experts))
        dense = not_quantized(model, shapes)
    for ours in ["separate_experts", "fused_experts", "text_model_behind", "convolutions_of_transformers"]:
        config.pop(ours, None)
    model = {"config": config, "tensors": shapes, "prompt": prompt, "runs": runs}
    return {"dense": dense, **model} if dense else model


def recorded(model_type, seed):
    """Models of an architecture, one a seed."""
    seeds = [seed * MODELS + i for i in range(MODELS)]
    return [record(ARCHITECTURES[model_type](random.Random(f"{model_type} {s}"), s), s) for s in seeds]


def written(models):
    """One line for each part, so that differences can be seen."""
    lines = []
    for model in models:
        parts = [f'"{key}": {json.dumps(value)}' for key, value in model.items() if key != "runs"]
        runs = ",\n".join(json.dumps(run) for run in model["runs"])
        lines.append("{" + ",\n".join(parts) + f',\n"runs": [\n{runs}\n]' + "}")
    return '{"made_with": "mlx-lm, float32",\n"models": [\n' + ",\n".join(lines) + "\n]}\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("architectures", nargs="*", metavar="ARCH", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=pathlib.Path, help="a folder that gets a file for each architecture")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    for model_type in args.architectures or sorted(ARCHITECTURES):
        text = written(recorded(model_type, args.seed))
        if args.to:
            (args.to / f"{model_type}.json").write_text(text)
        else:
            sys.stdout.write(text)


if __name__ == "__main__":
    main()
