"""Asks a child in JSON-RPC, a line a message: parent.py PYTHON CHILD OPERATIONS IN_FLIGHT"""

import json
import subprocess
import sys
import time

python, script, operations, in_flight = sys.argv[1:]
child = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def send(number):
    request = {"jsonrpc": "2.0", "id": number, "method": "count", "params": {"text": "hello"}}
    child.stdin.write(json.dumps(request).encode() + b"\n")
    child.stdin.flush()


def run(count, at_once):
    begun = 0
    for _ in range(min(count, at_once)):
        begun += 1
        send(begun)
    for _ in range(count):
        answer = json.loads(child.stdout.readline())
        assert answer["result"] == 5
        if begun < count:
            begun += 1
            send(begun)


run(min(2000, int(operations)), int(in_flight))
begin = time.perf_counter()
run(int(operations), int(in_flight))
print(json.dumps({"seconds": time.perf_counter() - begin}))
child.stdin.close()
child.wait()
