"""Answers JSON-RPC requests, a line each: the length of a text."""

import json
import sys

for line in sys.stdin.buffer:
    request = json.loads(line)
    answer = {"jsonrpc": "2.0", "id": request["id"], "result": len(request["params"]["text"])}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
