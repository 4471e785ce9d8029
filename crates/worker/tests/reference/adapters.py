"""Reference values of adapters of the small models, computed by mlx-lm in float32.

    python adapters.py > adapters.json

Made as `small.py` says, from the models in `small`, which stay as they are. The adapters' matrices are not in the file:
they follow from their names, as the models' do.
"""

import json
import pathlib
import sys
import tempfile

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from small import GROUP_SIZE, build, tensor

SMALL = pathlib.Path(__file__).parent / "small"
ATTENTION = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj"]
NETWORK = ["mlp.gate_proj", "mlp.down_proj"]
# Of each architecture the modules of two adapters: some of those that are computed together, and all of them.
ADAPTED = {
    "llama": [ATTENTION + NETWORK, ["self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"]],
    "qwen2": [ATTENTION + NETWORK, ["self_attn.k_proj"]],
    "phi3": [["self_attn.qkv_proj", "mlp.gate_up_proj"], ["self_attn.o_proj", "mlp.down_proj"]],
    "gemma2": [ATTENTION + NETWORK, ["mlp.up_proj"]],
    "gemma3": [ATTENTION + NETWORK, ["self_attn.k_proj"]],
    "cohere": [ATTENTION + NETWORK, ["self_attn.k_proj"]],
    "mixtral": [ATTENTION + ["block_sparse_moe.gate"], ["self_attn.k_proj"]],
}
AFTER = [1, 64, 129]


def config_of(index, keys):
    """`adapter_config.json`: other ranks, scales and layers for each."""
    parameters = {"rank": 3 + 2 * index, "scale": 2.0 - index, "dropout": 0.0, "keys": keys}
    return {"fine_tune_type": "lora", "num_layers": 2 - index, "lora_parameters": parameters}


def write(folder, model, config, label):
    """A folder as mlx-lm writes it, and the shapes of its tensors."""
    linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"])
    parameters = tree_flatten(model.parameters())
    shapes = {name: list(it.shape) for name, it in sorted(parameters) if name.endswith((".lora_a", ".lora_b"))}
    tensors = {name: tensor(f"{label} {name}", shape) for name, shape in shapes.items()}
    mx.save_safetensors(f"{folder}/adapters.safetensors", tensors)
    (pathlib.Path(folder) / "adapter_config.json").write_text(json.dumps(config))
    return shapes


def adapted(config, bits, folder):
    """The model with an adapter."""
    model, _ = build(dict(config))
    if bits:
        nn.quantize(model, group_size=GROUP_SIZE, bits=bits)
    return load_adapters(model, folder)


def record(model_type, index, keys):
    recorded = json.loads((SMALL / f"{model_type}.json").read_text())["models"][0]
    config, prompt = recorded["config"], recorded["prompt"]
    adapter, label, runs = config_of(index, keys), ["first", "second"][index], []
    with tempfile.TemporaryDirectory() as folder:
        shapes = write(folder, build(dict(config))[0], adapter, label)
        for bits in (None, 8):
            model = adapted(config, bits, folder)
            rows = model(mx.array([prompt]), cache=make_prompt_cache(model))[0]
            logits = [[after, [round(value, 5) for value in rows[after - 1].tolist()]] for after in AFTER]
            runs.append({"bits": bits, "logits": logits, "greedy": []})
    return {"model_type": model_type, "label": label, "config": adapter, "tensors": shapes, "runs": runs}


def main():
    mx.set_default_device(mx.cpu)
    adapters = [record(name, at, keys) for name in sorted(ADAPTED) for at, keys in enumerate(ADAPTED[name])]
    lines = ",\n".join(json.dumps(adapter) for adapter in adapters)
    sys.stdout.write(f'{{"made_with": "mlx-lm, float32",\n"adapters": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
