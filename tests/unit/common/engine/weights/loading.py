"""A folder, loaded in float32 on the CPU, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.weights.load import load_model
from pdserve.errors import SetupError


def load(folder: Path, *, allow_unused_weights: bool = False) -> Any:
    cpu = torch.device("cpu")
    model, _ = load_model(folder, "float32", cpu, allow_unused_weights=allow_unused_weights)
    return model


def refusal(folder: Path, **options: bool) -> SetupError:
    with pytest.raises(SetupError) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value
