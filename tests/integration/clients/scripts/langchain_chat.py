"""A chat, a stream and structured output by langchain. Usage: langchain_chat.py URL MODEL; prints JSON."""

import json
import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

url, model = sys.argv[1:]


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)


chat = ChatOpenAI(base_url=url, model=model, api_key="none", temperature=0, max_tokens=32)
question = "What is the capital of France?"
whole = chat.invoke(question).content
text = "".join(part.content for part in chat.stream(question))
city = chat.with_structured_output(City, method="json_schema").invoke(question)
print(json.dumps({"text": whole, "stream": text, "city": city.name}))
