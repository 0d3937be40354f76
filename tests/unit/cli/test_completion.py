"""Completion in a shell: what the shell's script asks `pdserve`, and what it answers."""

from pathlib import Path

import pytest

from common.engine.weights.catalog import CATALOG
from tests.unit.cli.conftest import Run

SHELLS = ("bash", "zsh", "fish")


def completed(run: Run, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Return what bash would offer for the last word."""
    monkeypatch.setenv("_PDSERVE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(("pdserve", *words)))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    ended = run()
    assert (ended.code, ended.err) == (0, "")
    return ended.out.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_calls_pdserve(
    run: Run, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_PDSERVE_COMPLETE", f"source_{shell}")
    ended = run()
    assert (ended.code, ended.err) == (0, "")
    assert f"_PDSERVE_COMPLETE=complete_{shell}" in ended.out.replace("$", "")


def test_commands_and_options_are_completed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(run, monkeypatch, "sta") == ["status"]
    assert completed(run, monkeypatch, "model", "pu") == ["pull"]
    assert completed(run, monkeypatch, "serve", "--metrics") == ["--metrics-compat"]


@pytest.mark.parametrize("words", [("model", "pull"), ("serve",)])
def test_models_are_completed(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    assert completed(run, monkeypatch, *words, "smo") == [
        alias for alias in CATALOG if alias.startswith("smo")
    ]


def test_workers_with_a_log_are_completed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for worker in ("decode-0", "prefill-0"):
        log = tmp_path / "pdserve" / "logs" / "pdserve" / worker / "1.log"
        log.parent.mkdir(parents=True)
        log.write_text("x\n")
    assert completed(run, monkeypatch, "logs", "dec") == ["decode-0"]
