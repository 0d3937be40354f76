import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from cli.config import shown
from cli.settings import setting_keys
from common.config import ServeConfig
from tests.unit.cli.conftest import Run


def rows(run: Run, *args: str) -> dict[str, dict[str, object]]:
    ended = run("config", "show", "--json", *args)
    assert (ended.code, ended.err) == (0, "")
    found: dict[str, dict[str, object]] = json.loads(ended.out)
    return found


def test_show_says_what_was_set_and_where(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("prefill: 2\nengine: {kv_cache_gib: 2, dtype: float16}")
    monkeypatch.setenv("PDSERVE_ENGINE__DTYPE", "float32")
    monkeypatch.setenv("PDSERVE_PREFILL", "3")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    found = rows(run, "a-model", "--config", str(file), "--prefill", "4", "--policy", "round_robin")
    assert found == {
        "model": {"value": "a-model", "from": "flag"},
        "prefill": {"value": 4, "from": "flag"},
        "ray_address": {"value": "head:6379", "from": "env"},
        "engine.dtype": {"value": "float32", "from": "env"},
        "engine.kv_cache_gib": {"value": 2.0, "from": "file"},
        "router.policy": {"value": "round_robin", "from": "flag"},
    }


def test_unused_weights_are_allowed_by_a_flag(run: Run) -> None:
    found = rows(run, "a-model", "--allow-unused-weights")
    assert found["engine.allow_unused_weights"] == {"value": True, "from": "flag"}


def test_effective_shows_every_setting(run: Run) -> None:
    found = rows(run, "--effective")
    assert list(found) == list(setting_keys())
    assert {row["from"] for row in found.values()} == {"default"}
    table = run("config", "show", "--effective").out
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert lines["engine.dtype"] == ["auto", "default"]
    assert lines["engine.block_size"] == ["unset", "default"]
    assert set(lines) == {"setting", *setting_keys()}


@pytest.mark.parametrize("key", ["auth.token", "cluster_token", "tls.password", "secret"])
def test_secrets_are_masked_and_what_only_names_a_file_is_not(key: str) -> None:
    assert shown(key, "hunter2") == "********"
    assert shown(key, None) is None
    assert shown("auth.token_file", "/etc/tokens") == "/etc/tokens"
    assert shown("engine.max_batch_tokens", 512) == 512


def test_the_schema_accepts_the_example_and_refuses_a_typo(run: Run) -> None:
    schema = json.loads(run("config", "schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    example = yaml.safe_load("model: m\nprefill: 2\nengine: {kv_cache_gib: 4}")
    jsonschema.validate(example, schema)
    jsonschema.validate(json.loads(ServeConfig().model_dump_json()), schema)
    for wrong in ({"prefil": 1}, {"engine": {"dtype": "int3"}}, {"decode": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
