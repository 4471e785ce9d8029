"""The part of OpenAI's Python client that the documents use."""

import json
import urllib.request
from types import SimpleNamespace


class OpenAI:
    def __init__(self, *, base_url, api_key):
        self._base_url, self._api_key = base_url, api_key
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))

    def _create(self, **fields):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._api_key}"}
        body = json.dumps(fields).encode()
        request = urllib.request.Request(f"{self._base_url}/chat/completions", body, headers)
        response = urllib.request.urlopen(request)
        return _events(response) if fields.get("stream") else _parse(response.read())


def _events(response):
    for line in response:
        event = line.decode().strip().removeprefix("data: ")
        if event == "[DONE]":
            return
        if event.startswith("{"):
            yield _parse(event)
    raise RuntimeError("the stream ended without [DONE]")


def _parse(text):
    return json.loads(text, object_hook=_Fields)


class _Fields(SimpleNamespace):
    def __init__(self, values):
        super().__init__(**values)

    def __getattr__(self, name):
        # A field that may be left out, such as the content of a stream's first delta.
        return None
