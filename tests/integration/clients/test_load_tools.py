"""Load tools, unmodified, against a real deployment: 32 requests each, none lost.

By `make test-clients`.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.engine.weights.resolve import ModelSource
from tests.integration.support.client_tools import installed
from tests.integration.support.openai_deployment import MODEL
from tests.integration.support.processes import Served
from tests.patience import DEPLOYMENT_S

pytestmark = [pytest.mark.deployment, pytest.mark.clients]

VLLM = os.environ.get("PDSERVE_VLLM", "")  # the command of an installed vLLM
NUM_REQUESTS, NUM_USERS, NUM_INPUT, NUM_OUTPUT = 32, 8, 64, 8


def run(command: list[str], **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | variables,
        timeout=DEPLOYMENT_S / 2,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def tool(name: str) -> str:
    return str(installed(name) / "bin" / name)


def root_of(served: Served) -> str:
    return served.openai.removesuffix("/v1")


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_aiperf(served: Served, model: ModelSource, tmp_path: Path, kind: str) -> None:
    flags = {
        "--model": MODEL,
        "--url": root_of(served),
        "--endpoint-type": kind,
        "--tokenizer": str(model.path),
        "--request-count": str(NUM_REQUESTS),
        "--concurrency": str(NUM_USERS),
        "--synthetic-input-tokens-mean": str(NUM_INPUT),
        "--output-tokens-mean": str(NUM_OUTPUT),
        "--random-seed": "7",
        "--workers-max": "2",
        "--ui": "simple",
        "--artifact-dir": str(tmp_path),
    }
    pairs = [part for pair in flags.items() for part in pair]
    run([tool("aiperf"), "profile", "--streaming", *pairs])
    found = read(tmp_path / "profile_export_aiperf.json")
    assert found["completed_request_count"]["avg"] == NUM_REQUESTS
    assert found["error_summary"] == []


def test_guidellm(served: Served, model: ModelSource, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    flags = {
        "--backend": f"kind=openai_http,target={root_of(served)}",
        "--profile": f"kind=concurrent,streams={NUM_USERS}",
        "--constraint": f"kind=max_requests,count={NUM_REQUESTS}",
        "--data": f"kind=synthetic_text,prompt_tokens={NUM_INPUT},output_tokens={NUM_OUTPUT}",
        "--tokenizer": f"kind=hf_auto,model={model.path}",
        "--output": f"kind=json,path={result}",
    }
    pairs = [part for pair in flags.items() for part in pair]
    run([tool("guidellm"), "run", "--disable-console-interactive", *pairs])
    (benchmark,) = read(result)["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (NUM_REQUESTS, 0)


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_inference_perf(served: Served, model: ModelSource, tmp_path: Path, kind: str) -> None:
    command = tool("inference-perf")
    prompts = {  # its random ones are for completions alone
        "num_unique_system_prompts": NUM_REQUESTS // 8,
        "num_users_per_system_prompt": 8,
        "system_prompt_len": NUM_INPUT // 2,
        "question_len": NUM_INPUT // 2,
        "output_len": NUM_OUTPUT,
    }
    stage = {"num_requests": NUM_REQUESTS, "concurrency_level": NUM_USERS}
    config = {
        "api": {"type": kind, "streaming": True},
        "data": {"type": "shared_prefix", "shared_prefix": prompts},
        "load": {"type": "concurrent", "stages": [stage], "num_workers": 2, "base_seed": 7},
        "server": {"type": "vllm", "model_name": MODEL, "base_url": root_of(served)},
        "tokenizer": {"pretrained_model_name_or_path": str(model.path)},
        "storage": {"local_storage": {"path": str(tmp_path)}},
    }
    file = tmp_path / "config.yml"
    file.write_text(json.dumps(config), "utf-8")
    run([command, "--config_file", str(file)])
    found = read(tmp_path / "summary_lifecycle_metrics.json")
    assert (found["successes"]["count"], found["failures"]["count"]) == (NUM_REQUESTS, 0)


@pytest.mark.skipif(not VLLM, reason="set PDSERVE_VLLM to the command of an installed vLLM")
@pytest.mark.parametrize(
    ("backend", "path"), [("vllm", "/v1/completions"), ("openai-chat", "/v1/chat/completions")]
)
def test_vllm_bench_serve(
    served: Served, model: ModelSource, tmp_path: Path, backend: str, path: str
) -> None:
    flags = {
        "--backend": backend,
        "--base-url": root_of(served),
        "--endpoint": path,
        "--model": MODEL,
        "--tokenizer": str(model.path),
        "--dataset-name": "random",
        "--random-input-len": str(NUM_INPUT),
        "--random-output-len": str(NUM_OUTPUT),
        "--num-prompts": str(NUM_REQUESTS),
        "--max-concurrency": str(NUM_USERS),
        "--seed": "7",
        "--result-dir": str(tmp_path),
        "--result-filename": "result.json",
    }
    pairs = [part for pair in flags.items() for part in pair]
    switches = ["--ignore-eos", "--save-result"]
    run([VLLM, "bench", "serve", *switches, *pairs], HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
    found = read(tmp_path / "result.json")
    counts = (found["completed"], found["failed"], found["total_output_tokens"])
    assert counts == (NUM_REQUESTS, 0, NUM_REQUESTS * NUM_OUTPUT)
