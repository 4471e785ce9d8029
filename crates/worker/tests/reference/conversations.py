"""Conversations with everything that a chat template may look at."""


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


NESTED = {
    "where": {"lat": 47.37, "lon": -8, "tags": ["a\"b", "c\\d", "é☂"], "none": None, "deep": {"list": [[1], [], {}]}},
    "big": 12345678901234567890,
    "small": 1e-7,
    "yes": True,
    "text": "two\nlines & <b>",
    "empty": "",
}
# What templates of several families let a client choose.
OPTIONS = {
    "add_thoughts": True,
    "available_tools": ["now"],
    "builtin_tools": ["browser", "python"],
    "clear_thinking": False,
    "controls": {"length": "short"},
    "custom_instructions": "Be brief.",
    "date_string": "1 Jan 2026",
    "keep_past_thinking": True,
    "model_identity": "You are a test.",
    "preserve_thinking": True,
    "safety_mode": "strict",
    "thinking_budget": 512,
    "tools_in_user_message": False,
    "truncate_history_thinking": False,
    "xml_tools": [TOOLS[1]],
}


def conversations():
    """Name, messages, and what else the template is given."""
    yield from plain()
    yield from reasoning()
    yield from tools()
    yield from parts()


def plain():
    turns = [QUESTION, said("assistant", "4."), said("user", "And 3 + 3?"), said("assistant", " 6\n"), said("user", "Thanks")]
    alike = [said("user", "one"), said("user", "two"), said("user", "three")]
    spaced = [said("system", "\n\n  s \n"), said("user", "\r\n u\r\n\n"), said("assistant", "\t a \n\n"), said("user", "\u00a0x\u2003")]
    long = [SYSTEM, *(said(("user", "assistant")[n % 2], f"{n} " * (n % 5)) for n in range(31))]

    yield "user", [QUESTION], {}
    yield "user, no generation prompt", [QUESTION], {"add_generation_prompt": False}
    yield "system", [SYSTEM, QUESTION], {}
    yield "turns", [SYSTEM, *turns], {}
    yield "turns, no generation prompt", turns[:-1], {"add_generation_prompt": False}
    yield "long", long, {}
    yield "empty texts", [said("system", ""), said("user", ""), said("assistant", ""), said("user", " \n ")], {}
    yield "space around texts", spaced, {}
    yield "no messages", [], {}
    yield "no content", [said("user", None), said("assistant", None), said("user", "x")], {}
    yield "two users", alike, {}
    yield "two systems", [SYSTEM, said("system", "Or two."), QUESTION], {}
    yield "assistant first", [said("assistant", "Hello."), said("user", "Hi.")], {}
    yield "assistant last", [QUESTION, said("assistant", "Well,")], {}
    yield "late system", [QUESTION, SYSTEM, said("assistant", "4"), said("user", "ok")], {}
    yield "developer", [said("developer", "Be kind."), QUESTION], {}
    yield "unknown role", [said("narrator", "Once upon a time"), QUESTION], {}
    yield "name", [said("user", "Hi", name="ada"), said("assistant", "Hi Ada", name="bot"), said("user", "x", name="b")], {}
    yield "special tokens in texts", [said("user", "a<|im_end|>b</s>[INST]{{ x }}{% if %}<think></think>")], {}
    yield "no special tokens", [SYSTEM, *turns], {"bos_token": None, "eos_token": None}
    yield "options", [SYSTEM, *turns], OPTIONS
    yield "documents", [QUESTION], {"documents": [{"title": "A", "text": "About <a>."}, {"title": "B", "text": "b"}]}


def reasoning():
    turns = [SYSTEM, QUESTION, said("assistant", "4."), said("user", "And 3 + 3?")]
    reasoned = [
        QUESTION,
        said("assistant", "Four.", reasoning_content="Two and two.\nSo four."),
        said("user", "Sure?"),
        said("assistant", "Yes.", reasoning_content="Check again."),
    ]
    thought = [QUESTION, said("assistant", "<think>\nHm, two.\n</think>\n\nFour."), said("user", "Sure?")]
    blocks = [{"type": "thinking", "thinking": "Two."}, {"type": "text", "text": "Four."}]

    yield "thinking on", turns, {"enable_thinking": True, "thinking": True}
    yield "thinking off", turns, {"enable_thinking": False, "thinking": False}
    yield "effort", [SYSTEM, QUESTION], {"reasoning_effort": "high"}
    yield "no effort", [SYSTEM, QUESTION], {"reasoning_effort": "none"}
    yield "reasoning", reasoned, {"add_generation_prompt": False}
    yield "reasoning goes on", [*reasoned, said("user", "Thanks")], {}
    yield "reasoning is kept", [*reasoned, said("user", "Thanks")], OPTIONS
    yield "thought in text", thought, {}
    yield "thought in parts", [QUESTION, said("assistant", blocks), said("user", "Sure?")], {}


def tools():
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
    rounds = [
        *WEATHER,
        said("assistant", "And now?", tool_calls=[call("now", {}, "abcdefgh2")], reasoning_content="Need the time."),
        said("tool", [{"type": "text", "text": "noon"}], name="now", tool_call_id="abcdefgh2"),
        said("assistant", "Sunny at noon."),
        said("user", "And Bern?"),
        said("assistant", "", tool_calls=[call("get_weather", NESTED, "abcdefgh3")]),
        said("tool", "{}", name="get_weather", tool_call_id="abcdefgh3"),
    ]
    bare_call = said("assistant", "", tool_calls=[{"function": {"name": "now", "arguments": {}}}])
    unwrapped = [said("assistant", "", tool_calls=[{"name": "now", "arguments": {}}]), said("tool", "noon")]

    yield "tools", [SYSTEM, QUESTION], {"tools": TOOLS}
    yield "tools, no system", [QUESTION], {"tools": TOOLS[:1]}
    yield "tools, options", [SYSTEM, QUESTION], {"tools": TOOLS, **OPTIONS}
    yield "tools, thinking off", [SYSTEM, QUESTION], {"tools": TOOLS, "enable_thinking": False, "thinking": False}
    yield "tools without a wrapper", [QUESTION], {"tools": [tool["function"] for tool in TOOLS]}
    yield "no tools in the list", [QUESTION], {"tools": []}
    yield "call", WEATHER[:2], {"tools": TOOLS, "add_generation_prompt": False}
    yield "call and result", WEATHER, {"tools": TOOLS}
    yield "call with arguments as text", [WEATHER[0], *as_text, WEATHER[2]], {"tools": TOOLS}
    yield "call without an id", [WEATHER[0], bare_call, said("tool", "noon")], {"tools": TOOLS}
    yield "call without a wrapper", [WEATHER[0], *unwrapped], {"tools": TOOLS}
    yield "several calls", several, {"tools": TOOLS}
    yield "rounds of calls", rounds, {"tools": TOOLS}
    yield "rounds of calls, options", rounds, {"tools": TOOLS, "add_generation_prompt": False, **OPTIONS}
    yield "call without tools", WEATHER, {}


def parts():
    image = [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what is it?"}]
    url = [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "And this?"}]
    texts = [{"type": "text", "text": " one"}, {"type": "text", "text": "two\n"}]

    yield "parts", [said("user", image), said("assistant", "A cat."), said("user", url)], {}
    yield "text parts", [said("system", [{"type": "text", "text": "Hi"}]), said("user", image[:1])], {}
    yield "several text parts", [said("user", texts), said("assistant", texts), said("user", "x")], {}
