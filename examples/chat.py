"""Chats with a server through OpenAI's Python client (`pip install openai`)."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("KR_SERVER", "http://127.0.0.1:8080") + "/v1",
    api_key="unused",  # the client requires one; the server asks for none
)
model = os.environ.get("KR_MODEL", "smollm2-135m-instruct")
messages = [{"role": "user", "content": "What is the capital of France?"}]

# The full answer.
answer = client.chat.completions.create(model=model, messages=messages, temperature=0)
print(answer.choices[0].message.content)
print(f"{answer.usage.completion_tokens} tokens")

# The same answer, piece by piece.
stream = client.chat.completions.create(model=model, messages=messages, temperature=0, stream=True)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
