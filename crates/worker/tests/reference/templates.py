#!/usr/bin/env python3
"""Renders public chat templates with Jinja2, set up the way transformers does it.

    python3 templates.py FOLDER

`cargo xtask test` runs this. It downloads Jinja2, and the chat templates that the source distribution of
llama-cpp-python carries (nothing of it is run or compiled), and writes to FOLDER:

    templates/<name>.jinja   the templates
    cases.json               what each gives for each conversation below: a text, or an error

The test `templates` compares the worker's rendering with it. Templates and texts are third parties' and are not
committed. The environment follows transformers' `utils/chat_template_utils.py`.
"""

import datetime
import hashlib
import json
import os
import pathlib
import sys
import tarfile
import tempfile

import packages
import snippets

JINJA2 = "jinja2==3.1.6 --hash=sha256:85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67"
MARKUPSAFE = "markupsafe"
TEMPLATES = (
    "llama-cpp-python==0.3.36 --hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
)
INSIDE = "vendor/llama.cpp/models/templates/"

NOW = datetime.datetime(2026, 2, 3, 14, 5, 6, 789)


def install_jinja2(folder):
    """Jinja2 in a folder that is on the path for this run only."""
    wheels = folder / "wheels"
    with packages.requirements(JINJA2) as file:
        packages.pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels), "-r", file)
    packages.pip("install", "--target", str(folder / "python"), "--find-links", str(wheels), "jinja2==3.1.6", MARKUPSAFE)
    sys.path.insert(0, str(folder / "python"))


def download_templates(folder):
    """The templates of the source distribution, by name."""
    archive = packages.source(folder, TEMPLATES, "scikit_build_core.build")
    templates = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jinja") and INSIDE in member.name:
                templates[pathlib.PurePosixPath(member.name).name] = tar.extractfile(member).read()
    return templates


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

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
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


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def tool(name, description, properties, required=()):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call(name, arguments, number="abcdefgh1"):
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    tool(
        "get_weather",
        "Weather of a place, with <units> & 'quotes' and \"more\" – naïve ☂\nSecond line.",
        {
            "city": {"type": "string", "description": "Which city, e.g. Zürich"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": ["integer", "null"], "minimum": 0, "maximum": 14, "default": None},
            "detail": {"type": "number", "multipleOf": 0.5, "exclusiveMaximum": 1e30, "minimum": -1e-7},
            "flags": {"type": "array", "items": {"type": "boolean"}, "default": [True, False], "minItems": 0},
            "where": {
                "type": "object",
                "properties": {"lat": {"type": "number"}, "lon": {"type": "number", "nullable": True}},
                "required": ["lat"],
                "additionalProperties": False,
            },
            "any": {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": ""},
            "empty": {},
        },
        ["city"],
    ),
    tool("now", "The time.", {}),
]

QUESTION = said("user", "What's <b>2 + 2</b> & \"why\"? Grüße, 世界 🌍\n\n  indented\ttab ")
SYSTEM = said("system", "You are terse.\nAnswer in one line.  ")
WEATHER = [
    said("user", "Weather in Zürich?"),
    said("assistant", "", tool_calls=[call("get_weather", {"city": "Zürich", "days": 2, "flags": [True, None, 1.5]})]),
    said("tool", '{"temperature": 21.5, "sky": "clear"}', name="get_weather", tool_call_id="abcdefgh1"),
]


def conversations():
    """Name, messages, and what else the template is given."""
    turns = [QUESTION, said("assistant", "4."), said("user", "And 3 + 3?"), said("assistant", " 6\n"), said("user", "Thanks")]
    reasoned = [
        QUESTION,
        said("assistant", "Four.", reasoning_content="Two and two.\nSo four."),
        said("user", "Sure?"),
        said("assistant", "Yes.", reasoning_content="Check again."),
    ]
    thought = [QUESTION, said("assistant", "<think>\nHm, two.\n</think>\n\nFour."), said("user", "Sure?")]
    as_text = [dict(WEATHER[1], tool_calls=[call("get_weather", '{"city": "Zürich", "days": 2}')])]
    two_calls = [call("get_weather", {"city": "Bern"}), call("now", {}, "abcdefgh2")]
    several = [
        SYSTEM,
        WEATHER[0],
        said("assistant", None, tool_calls=two_calls),
        said("tool", "21", name="get_weather", tool_call_id="abcdefgh1"),
        said("tool", "noon", name="now", tool_call_id="abcdefgh2"),
        said("assistant", "It is 21 degrees.", reasoning_content="Both are in."),
        said("user", "Thanks"),
    ]
    parts = [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what is it?"}]
    url = [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "And this?"}]
    alike = [said("user", "one"), said("user", "two"), said("user", "three")]

    yield "user", [QUESTION], {}
    yield "user, no generation prompt", [QUESTION], {"add_generation_prompt": False}
    yield "system", [SYSTEM, QUESTION], {}
    yield "turns", [SYSTEM, *turns], {}
    yield "turns, no generation prompt", turns[:-1], {"add_generation_prompt": False}
    yield "empty texts", [said("system", ""), said("user", ""), said("assistant", ""), said("user", " \n ")], {}
    yield "no messages", [], {}
    yield "no content", [said("user", None), said("assistant", None), said("user", "x")], {}
    yield "two users", alike, {}
    yield "assistant first", [said("assistant", "Hello."), said("user", "Hi.")], {}
    yield "assistant last", [QUESTION, said("assistant", "Well,")], {}
    yield "late system", [QUESTION, SYSTEM, said("assistant", "4"), said("user", "ok")], {}
    yield "developer", [said("developer", "Be kind."), QUESTION], {}
    yield "unknown role", [said("narrator", "Once upon a time"), QUESTION], {}
    yield "name", [said("user", "Hi", name="ada"), said("assistant", "Hi Ada", name="bot"), said("user", "x", name="b")], {}
    yield "special tokens in texts", [said("user", "a<|im_end|>b</s>[INST]{{ x }}{% if %}<think></think>")], {}
    yield "no special tokens", [SYSTEM, *turns], {"bos_token": None, "eos_token": None}
    yield "thinking on", [SYSTEM, *turns], {"enable_thinking": True, "thinking": True}
    yield "thinking off", [SYSTEM, *turns], {"enable_thinking": False, "thinking": False}
    yield "effort", [SYSTEM, QUESTION], {"reasoning_effort": "high"}
    yield "reasoning", reasoned, {"add_generation_prompt": False}
    yield "reasoning goes on", [*reasoned, said("user", "Thanks")], {}
    yield "thought in text", thought, {}
    yield "tools", [SYSTEM, QUESTION], {"tools": TOOLS}
    yield "tools, no system", [QUESTION], {"tools": TOOLS[:1]}
    yield "no tools in the list", [QUESTION], {"tools": []}
    yield "call", WEATHER[:2], {"tools": TOOLS, "add_generation_prompt": False}
    yield "call and result", WEATHER, {"tools": TOOLS}
    yield "call with arguments as text", [WEATHER[0], *as_text, WEATHER[2]], {"tools": TOOLS}
    yield "several calls", several, {"tools": TOOLS}
    yield "call without tools", WEATHER, {}
    yield "documents", [QUESTION], {"documents": [{"title": "A", "text": "About <a>."}, {"title": "B", "text": "b"}]}
    yield "parts", [said("user", parts), said("assistant", "A cat."), said("user", url)], {}
    yield "text parts", [said("system", [{"type": "text", "text": "Hi"}]), said("user", parts[:1])], {}


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
    for name, source in sorted(templates.items()):
        entry = {"template": name, "sha256": hashlib.sha256(source).hexdigest(), "renderings": []}
        try:
            template = env.from_string(source.decode())
        except jinja2.exceptions.TemplateError as error:
            entry["error"] = str(error)
            yield entry
            continue
        for title, messages, more in conversations():
            variables = {"tools": None, "documents": None, "add_generation_prompt": True}
            variables |= {"bos_token": "<|bos|>", "eos_token": "<|eos|>", **more}
            variables = {
                key: value for key, value in variables.items() if value is not None or key in ("tools", "documents")
            }
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
        (folder / "templates").mkdir(parents=True, exist_ok=True)
        for name, source in templates.items():
            (folder / "templates" / name).write_bytes(source)
        content = {"now": NOW.isoformat(), "cases": list(cases(templates))}
        content |= {"snippets": list(snippet_cases()), "variables": snippets.VARIABLES}
        (folder / "cases.json").write_text(json.dumps(content, ensure_ascii=False))
    print(f"{len(templates)} templates, {sum(len(case['renderings']) for case in content['cases'])} renderings")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
