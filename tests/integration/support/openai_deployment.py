"""Deployment with OpenAI's API, and the same questions asked over pdserve.v1."""

import time
from dataclasses import dataclass
from typing import Any

import grpc
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from pdserve.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests.integration.support.processes import Served
from tests.integration.support.waiting import held_blocks
from tests.patience import WITHIN_S

MODEL = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer over pdserve.v1."""

    text: str
    usage: inference_pb2.Usage


class Both:
    """One deployment with both APIs: `api` is the client under test, `ask` the oracle."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.api = OpenAI(base_url=served.openai, api_key="none", max_retries=0, timeout=WITHIN_S)
        channel = grpc.insecure_channel(served.grpc)
        self._inference = inference_pb2_grpc.InferenceStub(channel)
        self._admin = admin_pb2_grpc.AdminStub(channel)

    def chat(self, messages: str | list[ChatCompletionMessageParam], **options: Any) -> Any:
        """Request a chat completion, greedy and at most 16 tokens unless options differ."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        options = {"temperature": 0, "max_tokens": 16} | options
        return self.api.chat.completions.create(model=MODEL, messages=messages, **options)

    def complete(self, prompt: str | list[str], **options: Any) -> Any:
        """Request a completion of text, with the same defaults."""
        options = {"temperature": 0, "max_tokens": 16} | options
        return self.api.completions.create(model=MODEL, prompt=prompt, **options)

    def ask(self, prompt: str | list[tuple[str, str]], **sampling: Any) -> Said:
        """Send a text, or a chat of (role, content), over pdserve.v1; greedy, at most 16 tokens."""
        sampling = {"max_tokens": 16} | sampling
        request = inference_pb2.GenerateRequest(sampling=inference_pb2.SamplingParams(**sampling))
        if isinstance(prompt, str):
            request.text = prompt
        else:
            for role, content in prompt:
                request.chat.messages.add(role=role, content=content)
        parts = list(self._inference.Generate(request, timeout=WITHIN_S))
        return Said("".join(part.text for part in parts), parts[-1].finished.usage)

    def until_nothing_is_held(self) -> admin_pb2.RouterStatus:
        """Return the router's status when it has no request in flight and no block is held.

        Fails after WITHIN_S.
        """
        deadline = time.monotonic() + WITHIN_S
        while True:
            status = self._admin.Status(admin_pb2.StatusRequest(), timeout=WITHIN_S)
            if not status.router.requests_in_flight and not any(held_blocks(status).values()):
                return status.router
            assert time.monotonic() < deadline, f"still held: {held_blocks(status)}"
