#!/usr/bin/env python3
"""Records what transformers makes of public chat templates.

    python3 record_templates.py FOLDER

FOLDER is what `templates.py` has made (`cargo xtask test` keeps it in `.mlx/`). It needs a Python that has transformers, and
writes `templates.json` beside this script: of each text the beginning of its SHA-256, `-` where `apply_chat_template` fails,
and `?` where it does not get as far as the template. The texts themselves are third parties'.
"""

import collections
import hashlib
import json
import pathlib
import sys

import jinja2
import tokenizers
import transformers
from transformers.utils import chat_template_utils

import templates

OUTPUT = pathlib.Path(__file__).with_name("templates.json")


class Clock:
    """Stands in for `datetime` where transformers asks for the time."""

    @staticmethod
    def now():
        return templates.NOW


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def tokenizer(special_tokens):
    model = tokenizers.models.WordLevel({"<|unk|>": 0}, unk_token="<|unk|>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model), **special_tokens)


def rendered(source, messages, variables):
    """What is recorded of one conversation."""
    if not messages:
        return "?"
    special = {name: token for name, token in variables.items() if name in templates.SPECIAL_TOKENS}
    more = {name: value for name, value in variables.items() if name not in special}
    try:
        text = tokenizer(special).apply_chat_template(messages, chat_template=source, tokenize=False, **more)
    # The template's own errors, and any of Python's.
    except Exception:
        return "-"
    return digest(text)


def recorded_snippet(source):
    """Snippets see no messages, so `apply_chat_template` is asked for no more than what it calls."""
    try:
        texts, _ = chat_template_utils.render_jinja_template([[]], chat_template=source, **templates.snippets.VARIABLES)
    except Exception:
        return "-"
    return digest(texts[0])


def main(folder):
    chat_template_utils.datetime = Clock
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    recorded = {}
    for case in cases:
        source = (folder / "templates" / case["template"]).read_text()
        results = (rendered(source, it["messages"], it["variables"]) for it in case["renderings"])
        recorded[case["template"]] = " ".join(results)
    content = {
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "templates": recorded,
        "snippets": " ".join(recorded_snippet(source) for source in templates.snippets.snippets()),
    }
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n")
    counts = collections.Counter("failed" if it == "-" else "rendered" for line in recorded.values() for it in line.split())
    print(f"{len(recorded)} templates, {dict(counts)}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
