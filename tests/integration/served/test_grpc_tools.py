"""Generic gRPC tools and the README's own examples, against a real deployment."""

import base64
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from google.rpc import error_details_pb2

from tests.integration.support.markdown_blocks import blocks
from tests.integration.support.processes import Served
from tests.patience import WITHIN_S

README_ADDRESS = "127.0.0.1:50051"
BUF = Path(sys.executable).parent / "buf"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def buf_curl(served: Served, *args: str, method: str = "") -> subprocess.CompletedProcess[str]:
    """Run `buf curl` by reflection, over HTTP/2 without TLS."""
    url = f"http://{served.grpc}/{method}".rstrip("/")
    flags = ("--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", "grpc-v1alpha")
    return run(str(BUF), "curl", *flags, *args, url)


def test_buf_curl_lists_every_method(served: Served) -> None:
    listed = buf_curl(served, "--list-methods")
    assert listed.returncode == 0, listed.stderr
    ours = {
        f"pdserve.v1.Inference/{name}"
        for name in ("Generate", "Cancel", "Explain", "ListModels", "Tokenize")
    }
    assert ours | {"pdserve.v1.Admin/Status", "grpc.health.v1.Health/Check"} <= set(
        listed.stdout.split()
    )


def test_buf_curl_describes_a_service(served: Served) -> None:
    described = buf_curl(served, "--list-services")
    assert described.returncode == 0, described.stderr
    assert "pdserve.v1.Inference" in described.stdout.split()


@pytest.mark.parametrize(
    ("method", "request_json", "expected"),
    [
        ("pdserve.v1.Inference/Tokenize", {"text": "1, 2, 3,"}, {"numTokens": 8}),
        ("grpc.health.v1.Health/Check", {"service": "pdserve.v1.Admin"}, {"status": "SERVING"}),
    ],
)
def test_buf_curl_calls(
    served: Served, method: str, request_json: dict[str, str], expected: dict[str, object]
) -> None:
    answer = buf_curl(served, "-d", json.dumps(request_json), method=method)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout).items() >= expected.items()


def test_buf_curl_shows_why_a_request_was_refused(served: Served) -> None:
    answer = buf_curl(served, "-d", '{"text": ""}', method="pdserve.v1.Inference/Generate")
    error = json.loads(answer.stderr)
    assert (answer.returncode != 0, error["code"]) == (True, "invalid_argument")
    details = {detail["type"]: detail["value"] for detail in error["details"]}
    assert set(details) == {"google.rpc.ErrorInfo", "google.rpc.BadRequest"}
    info = error_details_pb2.ErrorInfo.FromString(
        base64.b64decode(details["google.rpc.ErrorInfo"] + "==")
    )
    assert (info.reason, info.metadata["field"]) == ("EMPTY_PROMPT", "text")


def test_the_readme_s_buf_curl_example_works(served: Served) -> None:
    (command,) = blocks("README.md", "### With gRPC", "sh")
    command = command.replace("\\\n", " ")
    assert README_ADDRESS in command
    answer = run(str(BUF), *shlex.split(command.replace(README_ADDRESS, served.grpc))[1:])
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout
    assert "FINISH_REASON_STOP" in answer.stdout


def test_the_readme_s_python_example_works(served: Served) -> None:
    (source,) = blocks("README.md", "### With gRPC", "python")
    assert README_ADDRESS in source
    ended = run(sys.executable, "-c", source.replace(README_ADDRESS, served.grpc))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Paris" in ended.stdout
