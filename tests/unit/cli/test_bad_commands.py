"""Bad command lines of every kind: an exit code, and one line on stderr with the remedy."""

import json
import re
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

NOBODY = ("--address", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["serve", "no-such-model"], ["no-such-model", "smollm2-135m"]),
        (["serve", "smolm2-135m"], ["Did you mean smollm2-135m?"]),
        (["serve", "./missing"], ["no such folder", "missing"]),
        (["serve", "missing.gguf"], ["no such file", "missing.gguf"]),
        (["serve", "--prefill", "some"], ["--prefill", "integer"]),
        (["serve", "--prefill", "-1"], ["prefill", "greater than or equal to 0", "-1"]),
        (["serve", "--decode", "0"], ["decode", "greater than or equal to 1"]),
        (["serve", "--grpc-port", "65536"], ["grpc_port", "65535"]),
        (["serve", "--dtype", "int3"], ["engine.dtype", "float32", "int3"]),
        (["serve", "--pin", "some"], ["pin", "auto"]),
        (["serve", "--namespace", "a b"], ["namespace", "a b"]),
        (["serve", "--config", "missing.yaml"], ["--config", "missing.yaml"]),
        (["serve", "--access-file", "missing"], ["missing", "cannot be read"]),
        (["serve", "--grpc-host", "0.0.0.0"], ["0.0.0.0", "security.access_file", "--insecure"]),
        (["serve", "--no-such-flag"], ["--no-such-flag", "--help"]),
        (["serve", "--prefill"], ["--prefill", "requires an argument"]),
        (["config", "show", "--decode", "0"], ["decode", "greater than or equal to 1"]),
        (["config", "show", "--no-such-flag"], ["--no-such-flag", "--help"]),
        (["config", "show", "--config", "missing.yaml"], ["--config", "missing.yaml"]),
        (["chaos", "no-such-model"], ["no-such-model", "smollm2-135m"]),
        (["chaos", "--minutes", "0"], ["--minutes"]),
        (["chaos", "--json", "missing/faults.json"], ["--json", "no such folder"]),
        (["no-such-command"], ["no-such-command", "--help"]),
        (["generate"], ["PROMPT", "--prompts-file"]),
        (["generate", "x", "--prompts-file", "y"], ["PROMPT", "--prompts-file"]),
        (["generate", "--prompts-file", "missing"], ["--prompts-file", "missing"]),
        (["generate", "x", "--ordered"], ["--ordered", "--prompts-file"]),
        (["generate", "x", "--max-tokens", "0"], ["--max-tokens"]),
        (["generate", "x", "--max-tokens", str(2**31)], ["--max-tokens"]),
        (["generate", "x", "--seed", "-1"], ["--seed"]),
        (["generate", "x", "--seed", str(2**64)], ["--seed"]),
        (["generate", "x", "--concurrency", "0"], ["--concurrency"]),
        (["generate", "x", "--stop", "\udcff"], ["--stop"]),
        (["generate", "x", "--top-k", "-1"], ["--top-k"]),
        (["generate", "x", "--top-p", "most"], ["--top-p", "number"]),
        (["generate", "x", "--min-tokens", "-1"], ["--min-tokens"]),
        (["generate", "x", "--bad-word", "\udcff"], ["--bad-word"]),
        (["generate", "x", "--allowed-token-id", "-1"], ["--allowed-token-id"]),
        (["generate", "x", "--logprobs", "21"], ["--logprobs"]),
        (["generate", "x", "--prompt-logprobs", "21"], ["--prompt-logprobs"]),
        (["generate", "x", "--logit-bias", "5"], ["--logit-bias", "5", "ID=VALUE"]),
        (["generate", "x", "--logit-bias", "-5=1"], ["--logit-bias", "ID=VALUE"]),
        (["generate", "x", "--logit-bias", "5=much"], ["--logit-bias", "ID=VALUE"]),
        (["explain"], ["REQUEST_IDS", "--blocks"]),
        (["explain", "x", "--blocks"], ["REQUEST_IDS", "--blocks"]),
        (["explain", "--blocks", "--trace", "y"], ["--trace", "REQUEST_IDS"]),
        (["status", "--tls-ca", "missing"], ["missing", "cannot be read"]),
        (["status", "--tls-cert", "missing"], ["--tls-cert", "--tls-key"]),
        (["chat", "--token", "n\u00f6"], ["--token"]),
        (["explain", "x", "--token", "a\nb"], ["--token"]),
        (["chat", "--max-tokens", "0"], ["--max-tokens"]),
        (["scale"], ["--prefill", "--decode", "give one"]),
        (["scale", "--decode", "2", "--decode-by", "1"], ["--decode-by", "exclude"]),
        (["scale", "--prefill", "-1"], ["--prefill", "0"]),
        (["scale", "--decode", "two"], ["--decode", "integer"]),
        (["scale", "--decode", "2", "--drain-timeout", "-1"], ["--drain-timeout"]),
        (["scale", "--decode", "2", "--drain-timeout", "0"], ["--drain-timeout", "0.001"]),
        (["drain"], ["worker", "--help"]),
        (["drain", "decode-1", "--drain-timeout", "0"], ["--drain-timeout", "0.001"]),
        (["model", "pull", "no-such-model"], ["no-such-model", "smollm2-135m"]),
        (["model", "pull", "a", "b"], ["unexpected", "b"]),
    ],
)
def test_what_cannot_start_is_one_line_and_code_2(
    run: Run, args: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run(*args)
    assert ended.code == 2
    assert ended.line.startswith("pdserve: ")
    for part in expected:
        assert part in ended.line


def test_a_hub_that_cannot_be_reached_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ended = run("serve", "org/name")
    assert ended.code == 2
    assert "no folder 'org/name' here, and the hub did not give it" in ended.line
    assert "fetch the model elsewhere and give its folder" in ended.line


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "x", *NOBODY],
        ["generate", "\udcff", *NOBODY],
        ["explain", "x", *NOBODY],
        ["explain", "--blocks", *NOBODY],
        ["generate", "x", "--address", "no such host"],
        ["scale", "--decode", "2", *NOBODY],
        ["drain", "decode-1", *NOBODY],
        ["status", *NOBODY],
        ["status", "--json", *NOBODY],
    ],
)
def test_a_request_that_fails_is_one_line_and_code_1(run: Run, args: list[str]) -> None:
    ended = run(*args)
    assert ended.code == 1
    assert ended.line.startswith("pdserve: ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "line 2"),
        ("[]", "not a JSON object"),
        ("{}", "no prompt"),
        ('{"prompt": 3}', "prompt must be a text"),
        ('{"token_ids": ["x"]}', "token_ids must be an integer"),
        ('{"messages": [{"role": "user"}]}', "content"),
    ],
)
def test_a_bad_line_of_prompts_is_named_by_its_number(
    run: Run, tmp_path: Path, line: str, reason: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    ended = run("generate", "--prompts-file", str(file), *NOBODY)
    assert ended.code == 2
    assert "line 2" in ended.line
    assert reason in ended.line


def test_prompts_that_cannot_be_sent_are_reported_each_and_the_code_is_1(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    entries: list[dict[str, object]] = [
        {"token_ids": [-1]},
        {"token_ids": [2**32]},
        {"prompt": "\ud800"},
        {"prompt": "x"},
    ]
    named = [{"request_id": f"r{i}", **entry} for i, entry in enumerate(entries)]
    file.write_text("\n".join(json.dumps(entry) for entry in named))
    ended = run("generate", "--prompts-file", str(file), *NOBODY)
    assert ended.code == 1
    errors = [json.loads(line) for line in ended.out.splitlines()]
    reasons = {error["request_id"]: error["error"]["reason"] for error in errors}
    assert reasons == dict.fromkeys(("r0", "r1", "r2"), "INVALID_FIELD") | {
        "r3": "ROUTER_UNREACHABLE"
    }


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\n \n"])
def test_a_file_without_prompts_is_refused(run: Run, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    ended = run("generate", "--prompts-file", str(file))
    assert ended.code == 2
    assert str(file) in ended.line


def test_a_configuration_key_that_is_unknown_is_answered_with_the_nearest(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("router: {max_queued_request: 3}")
    ended = run("serve", "--config", str(file))
    assert ended.code == 2
    assert "did you mean 'router.max_queued_requests'?" in ended.line


def test_an_interrupt_is_code_130_without_a_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.serve.load_config", interrupt)
    ended = run("serve")
    assert (ended.code, ended.err) == (130, "")


def test_help_shows_every_command_and_its_flags(run: Run) -> None:
    shown = run("--help")
    assert shown.code == 0
    for name in ("serve", "generate", "chat", "status", "doctor", "demo", "model"):
        assert name in shown.out
    assert "--prefill" in run("serve", "--help").out
    for name in ("generate", "chat"):
        assert re.search(r"\[default: \(?512\)?\]", run(name, "--help").out)
    assert run().code == 2  # no command: help, and no success
