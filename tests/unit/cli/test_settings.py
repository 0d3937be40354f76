import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.settings import find_origins, get_setting, load_config, setting_keys
from common.config import ServeConfig
from pdserve.errors import SetupError

# some of each kind, with values that no other layer uses
VALUES: dict[str, list[object]] = {
    "prefill": [2, 3, 4],
    "namespace": ["from-flag", "from-env", "from-file"],
    "engine.block_size": [8, 32, 64],
    "engine.dtype": ["float32", "float16", "bfloat16"],
    "router.stalled_after_s": [1.5, 2.5, 3.5],
}
layers = st.dictionaries(st.sampled_from(sorted(VALUES)), st.sets(st.sampled_from([0, 1, 2])))


def nested(values: dict[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for dotted, value in values.items():
        section, _, name = dotted.rpartition(".")
        inner = tree.setdefault(section, {}) if section else tree
        assert isinstance(inner, dict)
        inner[name] = value
    return tree


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


@settings(deadline=None, derandomize=True, max_examples=60)
@given(layers)
def test_flag_over_environment_over_file_over_default(
    tmp_path_factory: pytest.TempPathFactory, given_in: dict[str, set[int]]
) -> None:
    flags: dict[str, object] = dict.fromkeys(VALUES)
    in_file: dict[str, object] = {}
    origins = dict.fromkeys(VALUES, "default")
    expected = {key: get_setting(ServeConfig(), key) for key in VALUES}
    with pytest.MonkeyPatch.context() as patch:
        for key, where in given_in.items():
            if 0 in where:
                flags[key] = VALUES[key][0]
            if 1 in where:
                patch.setenv(f"PDSERVE_{key.replace('.', '__').upper()}", str(VALUES[key][1]))
            if 2 in where:
                in_file[key] = VALUES[key][2]
            if where:
                expected[key] = VALUES[key][min(where)]
                origins[key] = ("flag", "env", "file")[min(where)]
        file = write(tmp_path_factory.getbasetemp(), yaml.safe_dump(nested(in_file)))
        config = load_config(file, flags)
        found = find_origins(file, flags)
    assert {key: found[key] for key in VALUES} == origins
    assert {origin for key, origin in found.items() if key not in VALUES} == {"default"}
    assert {key: get_setting(config, key) for key in VALUES} == expected


def test_one_file_and_no_layer_at_all_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(None, {}) == ServeConfig()
    assert load_config(write(tmp_path, "# nothing yet\n"), {}) == ServeConfig()


def test_a_section_in_the_environment_joins_the_file_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "engine: {block_size: 32, dtype: float32}")
    monkeypatch.setenv("PDSERVE_ENGINE", '{"dtype": "float16"}')
    monkeypatch.setenv("pdserve_engine__max_num_seqs", "7")
    engine = load_config(file, {}).engine
    assert (engine.block_size, engine.dtype, engine.max_num_seqs) == (32, "float16", 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine:\n  blok_size: 16", r"'engine\.blok_size'. did you mean 'engine\.block_size'\?"),
        ("prefil: 1", r"'prefil'. did you mean 'prefill'\?"),
        ("zzz: 1", r"'zzz'. see docs/operate/configuration\.md"),
        ("1: 2", "unknown configuration key '1'"),
        ("engine: 3", "^engine: "),
        ("engine:", "^engine: "),
        ("engine: {dtype: int3}", r"^engine\.dtype: .* \(got 'int3'\)"),
        ("engine: {max_batch_tokens: 8, max_num_seqs: 8}", "^engine: max_batch_tokens must be"),
        ("engine: {kv_cache_gib: much}", r"^engine\.kv_cache_gib: .*'auto' or a number .*'much'"),
        ("engine: {kv_cache_gib: .inf}", r"^engine\.kv_cache_gib: Input should be 'auto' or a"),
        ("engine: {max_num_seqs: 0}", r"^engine\.max_num_seqs: .*'auto' or a whole number .*got 0"),
        ("engine: {max_num_seqs: 1.5}", r"^engine\.max_num_seqs: .*'auto' or a whole number"),
        ("engine: {max_batch_tokens: off}", r"^engine\.max_batch_tokens: Input should be 'auto'"),
        ("- a\n- b", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_a_bad_file_is_one_line_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        load_config(write(tmp_path, text), {})
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no\.yaml cannot be read: No such file"):
        load_config(tmp_path / "no.yaml", {})
    with pytest.raises(SetupError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes("model: é".encode("latin-1"))
    with pytest.raises(SetupError, match="is not UTF-8"):
        load_config(tmp_path / "latin.yaml", {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PDSERVE_PREFIL", "1", "PDSERVE_PREFIL. did you mean PDSERVE_PREFILL"),
        ("PDSERVE_ENGINE__BLOK_SIZE", "1", "did you mean PDSERVE_ENGINE__BLOCK_SIZE"),
        ("PDSERVE_ENGINE__ZZZ", "1", "PDSERVE_ENGINE__ZZZ. see docs"),
        ("PDSERVE_PREFILL", "many", r"^prefill: .* \(got 'many'\)"),
        ("PDSERVE_ENGINE", "not json", '"engine".*a whole section is one JSON object'),
        ("PDSERVE_ENGINE", '{"blok_size": 1}', r"^engine\.blok_size: "),
    ],
)
def test_a_bad_variable_is_one_line_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=message) as caught:
        load_config(None, {})
    assert "\n" not in str(caught.value)


def test_what_kubernetes_adds_for_a_service_named_pdserve_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for service in ("PDSERVE", "PDSERVE_ROUTER"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.1:50051")
        monkeypatch.setenv(f"{service}_PORT_50051_TCP", "tcp://10.0.0.1:50051")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_GRPC", "50051")
    assert load_config(None, {}) == ServeConfig()


def test_a_bad_flag_is_one_line_with_its_key() -> None:
    with pytest.raises(SetupError, match=r"^engine\.dtype: .* \(got 'int3'\)"):
        load_config(None, {"engine.dtype": "int3"})
    with pytest.raises(SetupError, match=r"^decode: .* \(got 0\)"):
        load_config(None, {"decode": 0})


def test_every_setting_can_be_named_in_the_environment() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for key in setting_keys():
            default = get_setting(ServeConfig(), key)
            if default is not None:
                patch.setenv(f"PDSERVE_{key.replace('.', '__').upper()}", str(default))
        assert len([name for name in os.environ if name.startswith("PDSERVE_")]) > 20
        assert load_config(None, {}) == ServeConfig()


def test_a_bare_off_in_yaml_is_the_choice_of_that_name_and_nothing_else(tmp_path: Path) -> None:
    text = "pin: off\nrouter: {generation_config: off}\ncluster: {roles: on}"
    config = load_config(write(tmp_path, text), {})
    assert (config.pin, config.router.generation_config) == ("off", "off")
    assert config.cluster.roles == "on"
    for text in ("pin: on", "engine: {dtype: off}", "namespace: off"):
        with pytest.raises(SetupError, match=text.strip("}").rpartition("{")[2].partition(":")[0]):
            load_config(write(tmp_path, text), {})
