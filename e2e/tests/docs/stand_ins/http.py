#!/usr/bin/env python3
import sys, urllib.request
method, headers, body, url, words = None, {}, None, None, sys.argv[1:]
while words:
    word = words.pop(0)
    if word in ("--fail-with-body", "--silent", "--show-error", "-N"):
        continue
    elif word == "-X":
        method = words.pop(0)
    elif word == "-H":
        name, value = words.pop(0).split(":", 1)
        headers[name] = value.strip()
    elif word == "-d":
        body = words.pop(0).encode()
    elif word.startswith("-"):
        sys.exit(f"this stand-in for curl does not know {word}")
    else:
        url = word
request = urllib.request.Request(url, body, headers, method=method or ("POST" if body is not None else "GET"))
sys.stdout.write(urllib.request.urlopen(request).read().decode())
