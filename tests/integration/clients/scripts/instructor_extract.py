"""Structured output by instructor. Usage: instructor_extract.py URL MODEL; prints JSON."""

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

url, model = sys.argv[1:]


class City(BaseModel):
    """A city."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)


client = OpenAI(base_url=url, api_key="none")
found = {}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    ask = instructor.from_openai(client, mode=mode)
    city = ask.chat.completions.create(
        model=model,
        response_model=City,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=64,
    )
    found[mode.name] = city.name
print(json.dumps(found))
