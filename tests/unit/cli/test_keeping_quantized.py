"""`pdserve serve` keeps a quantized GGUF file as it is where every worker can run it so."""

import pytest

from cli.serve import may_keep_quantized
from common.config import ServeConfig


def config(engine: dict[str, str], **fields: object) -> ServeConfig:
    return ServeConfig.model_validate({"engine": engine} | fields)


@pytest.mark.parametrize(
    ("engine", "fields", "has_gpu", "keeps"),
    [
        ({}, {}, False, True),
        ({}, {}, True, False),
        ({"device": "cpu"}, {}, True, True),
        ({"device": "cuda"}, {}, False, False),
        ({"quantization": "none"}, {}, False, False),
        ({"quantization": "int8"}, {}, False, False),
        ({"fusion": "off"}, {}, False, False),
        ({}, {"ray_address": "head:6379"}, False, False),  # its nodes may have GPUs
        ({"device": "cpu"}, {"ray_address": "head:6379"}, False, True),
    ],
)
def test_it_keeps_where_all_workers_run_on_cpus_by_the_fused_pass(
    monkeypatch: pytest.MonkeyPatch,
    engine: dict[str, str],
    fields: dict[str, object],
    has_gpu: bool,
    keeps: bool,
) -> None:
    monkeypatch.setattr("cli.serve.has_gpu", lambda: has_gpu)
    assert may_keep_quantized(config(engine, **fields)) is keeps
