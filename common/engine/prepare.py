"""Every kernel that a model can need, compiled or loaded and tried before the first request.

`python -m common.engine.prepare MODEL_DIR` compiles them alone, without the model's weights.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig

from common.config import EngineConfig
from common.engine.dtype import choose_dtype
from common.engine.engine import attention_shape, select_device
from common.engine.fused.families import known_activation
from common.engine.kernel_checks.verdicts import (
    trusted_attention,
    trusted_products,
    trusted_sampling,
)
from common.engine.weights.spec import read_spec

Family = Callable[[], object]


def prepare_kernels(model_dir: Path, config: EngineConfig, *, is_second: bool = False) -> None:
    """Try the kernel families that the model needs on this CPU; nothing where it runs on CUDA.

    Of two processes that start at one time the second goes the other way round: each compiles half, and
    loads what the other has compiled. Raises SetupError for a model that cannot be served.
    """
    device = select_device(config)
    if device.type != "cpu":
        return
    families = _families(model_dir, config, device)
    for family in reversed(families) if is_second else families:
        family()


def _families(model_dir: Path, config: EngineConfig, device: torch.device) -> list[Family]:
    dtype = choose_dtype(config.dtype, model_dir, device).dtype
    model = AutoConfig.from_pretrained(model_dir, trust_remote_code=False)
    families: list[Family] = []
    shape = attention_shape(read_spec(model_dir, model, dtype), config, device)
    if shape is not None and config.attention_backend in ("auto", "cpu"):
        families.append(lambda: trusted_attention(shape))
    families.append(trusted_sampling)
    activation = known_activation((model.architectures or [""])[0], model.get_text_config())
    if activation is not None and config.fusion == "auto":
        families.append(lambda: trusted_products(dtype, activation))
    return families


if __name__ == "__main__":
    prepare_kernels(Path(sys.argv[1]), EngineConfig(), is_second="--second" in sys.argv)
