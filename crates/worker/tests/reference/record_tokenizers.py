#!/usr/bin/env python3
"""Records what Hugging Face's library makes of texts with the tokenizers of real models.

    python3 record_tokenizers.py FOLDER

FOLDER is what `tokenizers_of_models.py FOLDER --all` has made. It needs a Python that has transformers, and writes
`tokenizers.json` beside this script: for each text, the beginning of the SHA-256 of its tokens, of those with the tokens that
the tokenizer writes around a text, and of what the former are decoded to without special tokens.
"""

import hashlib
import json
import pathlib
import sys

import transformers

OUTPUT = pathlib.Path(__file__).with_name("tokenizers.json")


def recorded(tokenizer, line):
    ids = tokenizer.encode(line, add_special_tokens=False)
    around = tokenizer.encode(line, add_special_tokens=True)
    # What the library gives; `decode` of transformers may tidy spaces.
    text = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
    all_of_it = "\n".join([" ".join(map(str, ids)), " ".join(map(str, around)), text])
    return hashlib.sha256(all_of_it.encode()).hexdigest()[:6]


def main(folder):
    lines = json.loads((folder / "lines.json").read_text())
    families = {}
    for path in sorted(folder.glob("*/tokenizer.json")):
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        families[path.parent.name] = " ".join(recorded(tokenizer, line) for line in lines)
    content = {"transformers": transformers.__version__, "tokenizers": families}
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
