"""Chats with OpenAI's API in tests: templates, workers that say a text, and prompts read back."""

from typing import Any

from common.messages import FinishReason, SequenceOutput, WorkRequest
from tests.integration.support.openai_stack import OpenAiStack
from tests.integration.support.router_stack import MODEL
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import IM_END, IM_START

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# as Qwen3's, as far as matters here
HERMES = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments.city }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


async def chat(api: OpenAiStack, messages: Any = None, **options: Any) -> Any:
    create: Any = api.client.chat.completions.create
    return await create(**({"model": MODEL, "messages": messages or HELLO} | options))


def saying(text: str) -> ScriptedWorker:
    """A worker that answers everything with a text, a byte a step."""

    def say(worker: ScriptedWorker, request: WorkRequest) -> None:
        data = text.encode()
        for index, byte in enumerate(data):
            reason = FinishReason.STOP if index == len(data) - 1 else None
            worker.publish(SequenceOutput(request.request_id, index, (byte,), reason))

    return ScriptedWorker(script=say)


def prompt_of(worker: ScriptedWorker) -> str:
    """The text of the latest prompt, special tokens as the template writes them."""
    names = {IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
    ids = worker.requests[-1].prompt_token_ids
    parts = [names[i].encode() if i in names else bytes([i]) for i in ids]
    return b"".join(parts).decode()
