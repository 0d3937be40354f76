import re
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

from cli.main import app
from cli.settings import load_config, setting_keys
from common.config import ServeConfig
from pdserve.errors import Reason
from tests.unit.repository.sources import ROOT

CONFIGURATION = (ROOT / "docs" / "operate" / "configuration.md").read_text("utf-8")
ERRORS = (ROOT / "docs" / "use" / "errors.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in CONFIGURATION.splitlines()
    if line.startswith("| `")
]
SETTINGS = {row[0].strip("`"): row[1:] for row in ROWS if len(row) == 5}
FLAGS = {row[0]: row[1] for row in ROWS if len(row) == 2}


def default_of(key: str) -> object:
    value: object = ServeConfig()
    for name in key.split("."):
        value = getattr(value, name)
    return value


def test_every_reason_is_documented_once_and_no_other_is() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", ERRORS, re.MULTILINE)) == sorted(Reason)


def test_every_setting_is_documented_and_no_other_is() -> None:
    assert sorted(SETTINGS) == sorted(setting_keys())


@pytest.mark.parametrize("key", SETTINGS)
def test_a_documented_setting_has_its_default_and_a_meaning(key: str) -> None:
    kind, default, _, meaning = SETTINGS[key]
    expected = default_of(key)
    assert default == ("unset" if expected is None else f"`{expected}`")
    assert kind
    assert meaning
    if key.endswith(("_s", "_gib", "_mib")):
        unit = {"s": "seconds", "gib": "GiB", "mib": "MiB"}[key.rpartition("_")[2]]
        assert SETTINGS[key][2] == unit


def test_every_choice_of_a_setting_is_documented() -> None:
    found = _choices(ServeConfig, "")
    assert ("engine.dtype", ("auto", "float32", "bfloat16", "float16")) in found
    for key, choices in found:
        assert re.findall(r"`([^`]+)`", SETTINGS[key][0]) == list(choices), key


def test_every_flag_of_serve_is_documented_with_its_key() -> None:
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    names = {param.opts[0] for param in serve.params if param.name != "help"}
    documented = {re.findall(r"`([^`]+)`", cell)[0] for cell in FLAGS}
    assert {name.lower() for name in documented} == names
    keys = {cell.strip("`") for cell in FLAGS.values()} - {"the YAML file"}
    assert keys <= set(setting_keys())


def test_the_example_is_a_file_that_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    file = tmp_path / "example.yaml"
    file.write_text(example)
    config = load_config(file, {})
    assert (config.prefill, config.engine.kv_cache_gib) == (2, 4.0)


def _choices(model: type[BaseModel], prefix: str) -> list[tuple[str, tuple[str, ...]]]:
    found = []
    for name, schema in model.model_json_schema()["properties"].items():
        if "enum" in schema:
            found.append((f"{prefix}{name}", tuple(schema["enum"])))
        inner = model.model_fields[name].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _choices(inner, f"{prefix}{name}.")
    return found
