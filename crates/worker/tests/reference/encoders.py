"""Reference values of models that embed text, computed by this file alone.

    python encoders.py > encoders.json                      # small random models
    python encoders.py --model FOLDER > minilm.json         # a real one, with its own tokenizer

Made with Python 3.11, numpy 2.4.6, tokenizers 0.23.3, safetensors 0.8.0 (`pip install numpy tokenizers safetensors`).

`modern_encoder.py` and `decoders_that_embed.py` beside this have what is computed of other architectures. This is BERT as its paper and transformers describe it, written down for one input at a time, without MLX and without anything
of this project. Weights are float32 as they are stored, and arithmetic is float64, so that the values are those of float32
without its roundings.

Of a small model there is for each input the hidden state of the first and of the last token, and the mean of all; its weights
follow from the tensors' names, here and in `model_small/recorded/written.rs`. Of the real model there are embeddings: the mean,
divided by its length.
"""

import argparse
import json
import math
import pathlib

import numpy as np

import decoders_that_embed
import modern_encoder
from random_values import hashed, split_mix

FLOAT = np.float64

TEXTS = [
    "This is an example sentence",
    "Each sentence is converted",
    "The quick brown fox jumps over the lazy dog, and nobody minds.",
    "Zürich liegt am Zürichsee; 東京は日本の首都です。 Ça va? 🦊",
    "",
    " ".join(f"Number {n} of many words, which are more than the model takes." for n in range(40)),
]


def tensor(name, shape):
    """As in `small.py`: exact in every float type."""
    numbers = split_mix(hashed(name))
    is_norm = len(shape) == 1 and name.endswith(("norm.weight", "Norm.weight"))
    low, high = (0.5, 1.5) if is_norm else (-0.25, 0.25)
    values = [low + (high - low) * (next(numbers) >> 57) / 128 for _ in range(math.prod(shape))]
    return np.array(values, dtype=np.float32).reshape(shape)


def shapes(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    all = {
        "embeddings.word_embeddings.weight": [config["vocab_size"], hidden],
        "embeddings.position_embeddings.weight": [config["max_position_embeddings"], hidden],
        "embeddings.token_type_embeddings.weight": [config["type_vocab_size"], hidden],
        "embeddings.LayerNorm.weight": [hidden],
        "embeddings.LayerNorm.bias": [hidden],
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        for part, outputs, inputs in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ]:
            all[f"{name}.{part}.weight"] = [outputs, inputs]
            all[f"{name}.{part}.bias"] = [outputs]
        for part in ["attention.output", "output"]:
            all[f"{name}.{part}.LayerNorm.weight"] = [hidden]
            all[f"{name}.{part}.LayerNorm.bias"] = [hidden]
    return all


class Encoder:
    def __init__(self, config, weights):
        self.config = config
        self.weights = {name: value.astype(FLOAT) for name, value in weights.items()}

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        mean = x.mean(axis=-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
        x = (x - mean) / np.sqrt(variance + self.config["layer_norm_eps"])
        return x * self.weights[f"{name}.LayerNorm.weight"] + self.weights[f"{name}.LayerNorm.bias"]

    def positions(self, tokens):
        if self.config["model_type"] == "bert":
            return list(range(len(tokens)))
        padding, positions, last = self.config["pad_token_id"], [], self.config["pad_token_id"]
        for token in tokens:
            last += token != padding
            positions.append(padding if token == padding else last)
        return positions

    def attention(self, x, name):
        heads = self.config["num_attention_heads"]
        split = lambda part: self.linear(x, f"{name}.self.{part}").reshape(len(x), heads, -1).transpose(1, 0, 2)
        queries, keys, values = split("query"), split("key"), split("value")
        scores = queries @ keys.transpose(0, 2, 1) / math.sqrt(queries.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ values
        return mixed.transpose(1, 0, 2).reshape(x.shape)

    def hidden(self, tokens):
        table = lambda name, rows: self.weights[f"embeddings.{name}_embeddings.weight"][rows]
        x = table("word", tokens) + table("position", self.positions(tokens)) + table("token_type", 0)
        x = self.norm(x, "embeddings")
        gelu = np.vectorize(lambda value: value * (1 + math.erf(value / math.sqrt(2))) / 2)
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            attended = self.linear(self.attention(x, f"{name}.attention"), f"{name}.attention.output.dense")
            x = self.norm(x + attended, f"{name}.attention.output")
            inner = gelu(self.linear(x, f"{name}.intermediate.dense"))
            x = self.norm(x + self.linear(inner, f"{name}.output.dense"), f"{name}.output")
        return x


def rounded(vector):
    return [round(float(value), 6) for value in vector]


def small(model_type, config):
    config = {
        "model_type": model_type, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 1,
        "vocab_size": 96, "max_position_embeddings": 80, "type_vocab_size": 2, **config,
    }
    return recorded(config, shapes(config), Encoder)


def recorded(config, shapes, kind):
    encoder = kind(config, {name: tensor(name, shape) for name, shape in shapes.items()})
    numbers = split_mix(hashed(f"tokens {config['model_type']} {config['hidden_size']}"))
    inputs = []
    for length in [1, 2, 7, 31, 40, 70]:
        tokens = [next(numbers) % config["vocab_size"] for _ in range(length)]
        hidden = encoder.hidden(tokens)
        inputs.append(
            {"tokens": tokens, "first": rounded(hidden[0]), "mean": rounded(hidden.mean(axis=0)),
             "last": rounded(hidden[-1])}
        )
    return {"config": config, "tensors": shapes, "inputs": inputs}


def real(folder):
    import safetensors.numpy
    import tokenizers

    read = lambda name: json.loads((folder / name).read_text())
    limit = read("sentence_bert_config.json")["max_seq_length"]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    encoder = Encoder(read("config.json"), safetensors.numpy.load_file(folder / "model.safetensors"))
    texts = []
    for text in TEXTS:
        tokens = tokenizer.encode(text).ids
        mean = encoder.hidden(tokens).mean(axis=0)
        texts.append({"text": text, "tokens": tokens, "embedding": rounded(mean / np.linalg.norm(mean))})
    return texts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path)
    model = parser.parse_args().model
    if model:
        made, parts = "all-MiniLM-L6-v2", real(model)
    else:
        made, parts = "small encoders", [
            small("bert", {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}),
            small("bert", {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 8,
                           "layer_norm_eps": 1e-5}),
            small("roberta", {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                              "num_attention_heads": 2, "type_vocab_size": 1}),
            small("xlm-roberta", {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
                                  "num_attention_heads": 4, "type_vocab_size": 1}),
        ]
        for module, kind in [(modern_encoder, modern_encoder.ModernEncoder), (decoders_that_embed, decoders_that_embed.Decoder)]:
            parts += [recorded(config, module.shapes(config), kind) for config in module.CONFIGS]
    lines = ",\n".join(json.dumps(part) for part in parts)
    print(f'{{"made_with": "encoders.py, {made}",\n"models": [\n{lines}\n]}}')


if __name__ == "__main__":
    main()
