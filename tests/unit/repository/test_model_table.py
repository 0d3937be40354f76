"""Table of all model types: it names those of the pinned `transformers`, and says of each what is true."""

from pathlib import Path

import pytest

from scripts.survey.forked import run_all
from scripts.survey.kinds import all_kinds
from scripts.survey.outcome import Outcome, known_outcomes
from scripts.survey.table import PAGE, markdown
from scripts.survey.trial import run_trial


def test_the_table_names_every_model_type_of_the_pinned_transformers() -> None:
    assert list(known_outcomes()) == all_kinds()


def test_the_page_is_what_the_survey_writes_of_its_results() -> None:
    assert PAGE.read_text("utf-8") == markdown(list(known_outcomes().values()))


@pytest.mark.parametrize(
    "kind",
    [
        "deepseek_ocr2",
        "fast_vlm",
        "llama",
        "perception_lm",
        "qwen2_5_omni_thinker",
        "qwen2_5_vl",
        "xlnet",
    ],
)
def test_a_model_type_gives_what_the_table_says(tmp_path: Path, kind: str) -> None:
    assert run_trial(kind, tmp_path) == known_outcomes()[kind]


def test_a_child_that_dies_is_told_and_the_others_go_on() -> None:
    def trial(kind: str, folder: Path) -> Outcome:
        if kind == "gpt2":
            raise SystemExit(3)
        return Outcome(kind, "equal", "general")

    found = {outcome.kind: outcome for outcome in run_all(["gpt2", "llama"], trial, 2)}
    assert found["llama"] == Outcome("llama", "equal", "general")
    assert found["gpt2"].verdict == "failed"
    assert "ended with status" in found["gpt2"].reason
