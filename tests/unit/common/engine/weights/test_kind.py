"""A classifier, a reward model or an adapter is not served as if it were the causal LM it was made from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from common.engine.weights.kind import refuse_other_kinds
from common.engine.weights.load import load_model
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.common.engine.weights.edited import edit_config


def load(folder: Path) -> None:
    load_model(folder, "float32", torch.device("cpu"), allow_unused_weights=True)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (AutoModelForSequenceClassification, "LlamaForSequenceClassification"),
        (AutoModelForTokenClassification, "LlamaForTokenClassification"),
        (AutoModelForQuestionAnswering, "LlamaForQuestionAnswering"),
    ],
)
def test_a_classifier_made_from_a_causal_lm_is_refused(
    tmp_path: Path, kind: Any, name: str
) -> None:
    """A classifier with a tied head is refused too: there no weight is missing."""
    base = save_model(tmp_path / "base", "llama", tie_word_embeddings=True)
    kind.from_pretrained(base, num_labels=1, dtype=torch.float32).save_pretrained(tmp_path / "made")
    with pytest.raises(SetupError, match=rf"config\.json: {name} is no causal LM") as caught:
        load(tmp_path / "made")
    assert "reward model" in caught.value.remedy


@pytest.mark.parametrize("name", ["LlamaForRewardModel", "LlamaModelForScore", "LlamaForMaskedLM"])
def test_names_that_transformers_does_not_know_are_refused_too(tmp_path: Path, name: str) -> None:
    folder = save_model(tmp_path, "llama")
    edit_config(folder, architectures=[name])
    with pytest.raises(SetupError, match=f"{name} is no causal LM"):
        load(folder)


@pytest.mark.parametrize("architectures", [None, [], ["LlamaForCausalLM"], ["MyLlamaForCausalLM"]])
def test_a_folder_that_says_nothing_or_a_causal_lm_is_judged_by_its_weights(
    tmp_path: Path, architectures: list[str] | None
) -> None:
    folder = save_model(tmp_path, "llama")
    edit_config(folder, architectures=architectures)
    load(folder)


def test_an_adapter_that_is_not_merged_is_refused(tmp_path: Path) -> None:
    """An adapter would be put around the layers with peft, and forgotten without peft."""
    folder = save_model(tmp_path, "llama")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(SetupError, match=r"adapter_config\.json says that an adapter") as caught:
        load(folder)
    assert "merge_and_unload" in caught.value.remedy


def test_the_body_of_a_model_is_no_other_kind(tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(
        save_model(tmp_path / "whole", "llama", tie_word_embeddings=True)
    )
    whole.model.save_pretrained(tmp_path / "body")
    load(tmp_path / "body")


def test_a_classifier_of_images_that_transformers_counts_among_writers_is_refused(
    tmp_path: Path,
) -> None:
    config = AutoConfig.for_model("shieldgemma2", architectures=["Gemma3ForConditionalGeneration"])
    with pytest.raises(SetupError, match="shieldgemma2 is no causal LM"):
        refuse_other_kinds(tmp_path, config)
