#!/usr/bin/env bash
# Asks one question with curl: once for the full answer, once for a stream of events.
set -euo pipefail

server=${KR_SERVER:-http://127.0.0.1:8080}
model=${KR_MODEL:-smollm2-135m-instruct}

curl "$server/v1/chat/completions" -H 'Content-Type: application/json' -d '{
  "model": "'"$model"'",
  "messages": [{"role": "user", "content": "What is the capital of France?"}],
  "temperature": 0
}'
echo

# -N shows each event when it comes.
curl -N "$server/v1/chat/completions" -H 'Content-Type: application/json' -d '{
  "model": "'"$model"'",
  "messages": [{"role": "user", "content": "Count from one to five."}],
  "max_tokens": 32,
  "stream": true,
  "stream_options": {"include_usage": true}
}'
