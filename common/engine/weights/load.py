"""Loading a model folder for serving."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from common.config import StoredDtype
from common.engine.attention.interface import ATTENTION_NAME, register
from common.engine.kv_cache import DTYPES
from common.engine.model_spec import ModelSpec
from common.engine.weights.spec import read_spec
from pdserve.errors import SetupError


def load_model(
    path: Path, dtype: StoredDtype, device: torch.device
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load a causal LM in eval mode with our attention, and its numbers.

    Safetensors only, never code from the folder. Raises SetupError when the folder does not hold a
    causal LM that `transformers` knows and whose attention can be replaced.
    """
    register()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        spec = read_spec(path, config, dtype)
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise SetupError(f"the model is not supported: {config.model_type} is no causal LM")
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except SetupError:
        raise
    # transformers has no error class for folders it does not expect: OSError, ValueError, KeyError,
    # AttributeError and RuntimeError all come out of it.
    except Exception as error:
        raise SetupError(f"{path} is not a model pdserve can load: {_reason(error)}") from error
    return model.to(device).eval(), spec


def _reason(error: Exception) -> str:
    if error.args == (ATTENTION_NAME,):  # it looks its layers up by the attention's name
        return "its attention layers cannot take another attention than their own"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
