"""The OpenAPI document as it is served, and what schemathesis makes of it."""

import asyncio
import sys
from pathlib import Path

import openapi_spec_validator
import pytest

from tests.integration.support.openai_stack import OpenAiStack
from tests.patience import DEPLOYMENT_S, WITHIN_S

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the fixtures

OPTIONS = [
    *("--exclude-checks", "positive_data_acceptance"),  # ranges depend on the model
    *("--suppress-health-check", "all"),  # of which `too_slow` measures the machine
    *("--warnings", "off"),
    "--generation-deterministic",
    "--no-shrink",
    "--no-color",
]


async def test_the_document_is_served(api: OpenAiStack) -> None:
    response = await api.http.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    openapi_spec_validator.validate(response.json())


async def test_a_few_requests_from_the_document_find_no_fault(
    api: OpenAiStack, tmp_path: Path
) -> None:
    await fuzz(api, tmp_path, WITHIN_S, "--phases", "fuzzing", "--max-examples", "5")


@pytest.mark.clients
@pytest.mark.timeout(DEPLOYMENT_S)
async def test_many_requests_from_the_document_find_no_fault(
    api: OpenAiStack, tmp_path: Path
) -> None:
    many = ("--phases", "coverage,fuzzing", "--max-examples", "100", "--max-time", "300")
    await fuzz(api, tmp_path, 300 + WITHIN_S, *many)


async def fuzz(api: OpenAiStack, folder: Path, within_s: float, *options: str) -> None:
    """Run schemathesis: no 5xx, and no answer, header or refusal that the document does not tell."""
    url = f"{api.http.base_url}/openapi.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", url, *OPTIONS, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
