"""Loading of a model folder for serving."""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from common.config import StoredDtype
from common.engine.attention.interface import ATTENTION_NAME, register
from common.engine.memory.kv_cache import DTYPES
from common.engine.model_spec import ModelSpec
from common.engine.weights.decoder_part import use_decoder_sizes
from common.engine.weights.gguf_held import load_held
from common.engine.weights.gguf_index import is_kept, read_index
from common.engine.weights.kind import refuse_other_kinds
from common.engine.weights.plain import Admit
from common.engine.weights.prequantized.plan import read_plan
from common.engine.weights.spec import read_spec
from common.engine.weights.stored import unchanged
from common.engine.weights.whole import load_whole
from pdserve.errors import SetupError


def load_model(
    path: Path,
    dtype: StoredDtype,
    device: torch.device,
    *,
    allow_unused_weights: bool = False,
    admit: Admit = lambda spec: None,
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load a causal LM in eval mode with our attention, and its numbers.

    Safetensors, or a GGUF file that is kept as it is (on a CPU); never code from the folder. Raises
    SetupError unless the folder holds a causal LM that `transformers` knows, with attention that can be
    replaced and exactly the model's tensors.
    `allow_unused_weights` lets it hold more. `admit` sees the numbers before the weights are loaded, and may
    raise SetupError.
    """
    register()
    transformers_logging.disable_progress_bar()
    try:
        config = _read_config(path)
        with unchanged(path):
            kept = read_index(path) if is_kept(path) else None
            plan = read_plan(path)
            spec = read_spec(path, config, dtype).quantized(kept.form if kept else "none")
            refuse_other_kinds(path, config)
            admit(spec)
            model = (
                load_whole(
                    path, config, DTYPES[dtype], device, plan, allow_unused=allow_unused_weights
                )
                if kept is None
                else load_held(path, kept, config, DTYPES[dtype])
            )
    except SetupError:
        raise
    # transformers has no error class for folders it does not expect: OSError, ValueError, KeyError,
    # AttributeError and RuntimeError all come out of it.
    except Exception as error:
        raise SetupError(f"{path} is not a model pdserve can load: {_reason(error)}") from error
    return model.to(device).eval(), spec


def _read_config(path: Path) -> PreTrainedConfig:
    """Read the configuration, but for quantization: `transformers` would look for kernels of its own."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    use_decoder_sizes(config)
    return config


def _reason(error: Exception) -> str:
    if error.args == (ATTENTION_NAME,):  # it looks its layers up by the attention's name
        return "its attention layers cannot take another attention than their own"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
