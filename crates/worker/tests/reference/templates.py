#!/usr/bin/env python3
"""Renders public chat templates with Jinja2, set up the way transformers does it.

    python3 templates.py FOLDER

`cargo xtask test` runs this. It downloads Jinja2, and the chat templates that three Python packages carry (nothing of
them is run or compiled), and writes to FOLDER:

    templates/<package>/<name>.jinja   the templates
    cases.json                         what each gives for each of the conversations: a text, or an error

The test `templates` compares the worker's rendering with it, and both with `templates.json`, which `record_templates.py`
wrote with transformers itself. Templates and texts are third parties' and are not committed. The environment follows
transformers' `utils/chat_template_utils.py`.
"""

import datetime
import json
import pathlib
import sys
import tarfile
import tempfile
import zipfile

import packages
import snippets
from conversations import conversations

JINJA2 = "jinja2==3.1.6 --hash=sha256:85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67"
MARKUPSAFE = "markupsafe"
LLAMA_CPP = (
    "llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
)
INSIDE = "vendor/llama.cpp/models/templates/"
WHEELS = {
    "axolotl": "axolotl==0.19.0 --hash=sha256:f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc",
    "trl": "trl==1.16.0 --hash=sha256:c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
}

NOW = datetime.datetime(2026, 2, 3, 14, 5, 6, 789)
SPECIAL_TOKENS = {
    "bos_token": "<|bos|>", "eos_token": "<|eos|>", "unk_token": "<|unk|>", "pad_token": "<|pad|>",
}


def install_jinja2(folder):
    """Jinja2 in a folder that is on the path for this run only."""
    wheels = folder / "wheels"
    with packages.requirements(JINJA2) as file:
        packages.pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels), "-r", file)
    packages.pip("install", "--target", str(folder / "python"), "--find-links", str(wheels), "jinja2==3.1.6", MARKUPSAFE)
    sys.path.insert(0, str(folder / "python"))


def all_templates(folder):
    """Package, name and source of all templates. A package may have what another one has, too."""
    archive = packages.source(folder, LLAMA_CPP, "scikit_build_core.build")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jinja") and INSIDE in member.name:
                yield "llama.cpp", member.name, tar.extractfile(member).read()
    for package, requirement in WHEELS.items():
        with zipfile.ZipFile(packages.wheel(folder, requirement)) as wheel:
            for name in wheel.namelist():
                if name.endswith(".jinja"):
                    yield package, name, wheel.read(name)


def download_templates(folder):
    """The templates by package and name, each once."""
    templates, known = {}, set()
    for package, path, source in all_templates(folder):
        if source not in known:
            known.add(source)
            templates[f"{package}/{pathlib.PurePosixPath(path).name}"] = source
    return dict(sorted(templates.items()))


def environment():
    """As `_cached_compile_jinja_template` of transformers sets it up, with a clock that stands still."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    def check_name(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            values = dict(*args, **kwargs)
            for name in values:
                check_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name, value):
            check_name(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    class Dict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    env.globals["namespace"] = Namespace
    env.globals["dict"] = Dict()
    return env


REASONING = ("reasoning_content", "thinking", "reasoning")


def normalized(messages):
    """Messages as `apply_chat_template` hands them on: no keys without a value, reasoning under each of its names."""
    result = []
    for message in messages:
        message = {key: value for key, value in message.items() if value is not None}
        reasoning = next((message[key] for key in REASONING if message.get(key) is not None), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        result.append(message)
    return result


def variables_of(more):
    """What a template is given beside the messages."""
    variables = {"tools": None, "documents": None, "add_generation_prompt": True, **SPECIAL_TOKENS, **more}
    return {key: value for key, value in variables.items() if value is not None or key in ("tools", "documents")}


def render(template, messages, variables):
    import jinja2

    try:
        return {"text": template.render(messages=normalized(messages), **variables)}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    # What a template does with values it did not expect: any of Python's exceptions.
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def cases(templates):
    import jinja2

    env = environment()
    for name, source in templates.items():
        entry = {"template": name, "renderings": []}
        try:
            template = env.from_string(source.decode())
        except jinja2.exceptions.TemplateError as error:
            entry["error"] = str(error)
            yield entry
            continue
        for title, messages, more in conversations():
            variables = variables_of(more)
            result = render(template, messages, variables)
            entry["renderings"].append(
                {"conversation": title, "messages": messages, "variables": variables, **result}
            )
        yield entry


def snippet_cases():
    env = environment()
    for source in snippets.snippets():
        try:
            template = env.from_string(source)
        # Python's compiler has a word in it too.
        except Exception as error:
            yield {"source": source, "error": str(error)}
            continue
        yield {"source": source, **render(template, [], snippets.VARIABLES)}


def main(folder):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        install_jinja2(scratch)
        templates = download_templates(scratch)
        for name, source in templates.items():
            path = folder / "templates" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
        content = {"now": NOW.isoformat(), "cases": list(cases(templates))}
        content |= {"snippets": list(snippet_cases()), "variables": snippets.VARIABLES}
        (folder / "cases.json").write_text(json.dumps(content, ensure_ascii=False))
    print(f"{len(templates)} templates, {sum(len(case['renderings']) for case in content['cases'])} renderings")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
