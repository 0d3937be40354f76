"""Forms for programs: which commands have them, and what they print."""

import json

import pytest

from cli.grid import plain_lines
from cli.top_forms import frame_dict, frame_grid
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_help import COMMANDS
from tests.unit.cli.test_top import FRAME, NAMES

# commands without --json, each with the reason
WITHOUT_JSON = {
    ("serve",): "a server: it prints one line for scripts, `pdserve ready`",
    ("router",): "a server",
    ("chat",): "a conversation",
    ("demo",): "a picture",
    ("drain",): "one word and a name; the exit code says the rest",
    ("config", "schema"): "JSON anyway",
}
# commands without --plain besides, each with the reason
WITHOUT_PLAIN = {
    ("generate",): "text is its plain form",
    ("chaos",): "--json names a file for the report",
    ("token", "create"): "without --json it prints the token alone on a line",
}


def options(command: object) -> set[str]:
    return {name for param in command.params for name in param.opts}  # type: ignore[attr-defined]


def test_every_command_has_a_form_for_programs_or_a_reason_not_to() -> None:
    without_json = {path for path, command in COMMANDS if "--json" not in options(command)}
    without_plain = {path for path, command in COMMANDS if "--plain" not in options(command)}
    assert without_json == set(WITHOUT_JSON)
    assert without_plain == {*WITHOUT_JSON, *WITHOUT_PLAIN}


def test_a_frame_of_top_is_a_status_with_rates() -> None:
    found = json.loads(json.dumps(frame_dict(FRAME)))
    assert found["router"]["totals"]["completed"] == 30
    assert found["requests_per_s"] == {"completed": 10.0, "rejected": 3.0, "failed": 1.0}
    assert found["tokens_per_s"] == {
        NAMES[0]: {"prefill_tokens": 1000.0, "output_tokens": 50.0},
        NAMES[1]: {"prefill_tokens": None, "output_tokens": None},
    }


def test_a_plain_frame_of_top_has_one_worker_a_line() -> None:
    assert [line.split("\t") for line in plain_lines(frame_grid(FRAME))] == [
        [NAMES[0], "prefill", "ready", "4", "2", "0.750", "1000.0", "50.0"],
        [NAMES[1], "decode", "unreachable", "-", "-", "-", "-", "-"],
    ]


@pytest.mark.parametrize("form", ["--json", "--plain"])
def test_a_live_screen_has_no_form_for_programs(run: Run, form: str) -> None:
    ended = run("top", form)
    assert ended.code == 2
    assert "--once" in ended.line


def test_findings_of_the_doctor_are_json_and_rows(run: Run) -> None:
    ended = run("doctor", "--json")
    found = {each["name"]: each for each in json.loads(ended.out)}
    assert {"python", "memory", "packages"} <= set(found)
    assert set(found["python"]) == {"name", "value", "problem", "remark"}
    rows = [line.split("\t") for line in run("doctor", "--plain").out.splitlines()]
    assert [row[0] for row in rows] == list(found)
    assert {row[1] for row in rows} <= {"ok", "problem"}
    assert (ended.code == 0) == all(row[1] == "ok" for row in rows)


def test_a_token_s_parts_are_json(run: Run) -> None:
    ended = run("token", "create", "--tenant", "acme", "--json")
    found = json.loads(ended.out)
    assert found["token"].startswith("pds_")
    assert found["access_line"].startswith("acme user sha256:")
    assert ended.err == ""


@pytest.mark.parametrize("command", ["doctor", "top", "scale"])
def test_two_forms_at_once_are_refused(run: Run, command: str) -> None:
    needed = ("--decode", "1") if command == "scale" else ()
    ended = run(command, *needed, "--json", "--plain")
    assert ended.code == 2
    assert "--json and --plain exclude each other" in ended.line
