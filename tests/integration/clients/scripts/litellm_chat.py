"""A chat and a stream by litellm. Usage: litellm_chat.py URL MODEL; prints JSON."""

import json
import sys

import litellm

url, model = sys.argv[1:]
ask = {
    "model": f"openai/{model}",
    "api_base": url,
    "api_key": "none",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 16,
}
whole = litellm.completion(**ask)
parts = litellm.completion(**ask, stream=True, stream_options={"include_usage": True})
text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
print(json.dumps({"text": whole.choices[0].message.content, "stream": text}))
