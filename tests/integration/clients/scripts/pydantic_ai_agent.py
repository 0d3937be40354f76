"""An answer of an agent of pydantic-ai. Usage: pydantic_ai_agent.py URL MODEL; prints JSON."""

import json
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

url, name = sys.argv[1:]
provider = OpenAIProvider(base_url=url, api_key="none")
found = {}
for kind in (OpenAIChatModel, OpenAIResponsesModel):
    agent = Agent(
        kind(name, provider=provider), model_settings={"temperature": 0, "max_tokens": 16}
    )
    found[kind.__name__] = agent.run_sync("What is the capital of France?").output
print(json.dumps(found))
