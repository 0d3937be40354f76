import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from router.access.tenant import ANONYMOUS
from router.edge.vllm.service import VllmEngineService
from router.intake.intake import Intake
from router.intake.job import Limits
from tests.integration.support.router_stack import serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder


class TakesNothing:
    """A call whose client reads no message."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []

    async def write(self, message: object) -> None:
        await asyncio.Event().wait()

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def abort_with_status(self, status: grpc.Status) -> None:
        self.codes.append(status.code)


async def test_the_last_words_of_an_aborted_request_may_be_too_slow_as_well(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 257}))
    worker, context = ScriptedWorker(), TakesNothing()
    async with serving(tmp_path, worker) as stack:
        router = stack.router
        assert router._grammars is not None
        limits = Limits("tiny", VOCAB_SIZE, 512, 256)
        intake = Intake(limits, router._tokenizer, router._grammars, router._admission)
        journeys = router._make_journeys()
        service = VllmEngineService(tmp_path, intake, journeys, router._state, slow_client_s=0.05)
        request = vllm_pb2.GenerateRequest(request_id="one", text="x")
        request.sampling_params.max_tokens = 5
        call: Any = asyncio.create_task(service.Generate(request, context))  # type: ignore[arg-type]
        await asyncio.to_thread(worker.wait_for_request)
        router._admission.cancel(ANONYMOUS, "one")
        async with asyncio.timeout(WITHIN_S):
            await call
    assert context.codes == [grpc.StatusCode.RESOURCE_EXHAUSTED]
