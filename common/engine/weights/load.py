"""Loading of a model folder for serving."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from common.auto_setting import Auto
from common.config import StoredDtype
from common.engine.attention.interface import ATTENTION_NAME, register
from common.engine.memory.kv_cache import DTYPES
from common.engine.model_spec import ModelSpec
from common.engine.weights.context import use_context
from common.engine.weights.decoder_part import use_decoder_sizes
from common.engine.weights.gguf_held import load_held
from common.engine.weights.gguf_index import GgufIndex, is_kept, read_index
from common.engine.weights.kind import refuse_other_kinds
from common.engine.weights.plain import AsServed
from common.engine.weights.prequantized.plan import Plan, read_plan
from common.engine.weights.spec import read_spec
from common.engine.weights.stored import unchanged
from common.engine.weights.whole import load_whole
from common.engine.weights.writing_part import read_writing_config
from pdserve.errors import SetupError


def load_model(
    path: Path,
    dtype: StoredDtype,
    device: torch.device,
    *,
    allow_unused_weights: bool = False,
    keeps_integers: bool = False,
    context_tokens: int | Auto = "auto",
    as_served: AsServed = lambda spec: spec,
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load a causal LM in eval mode with our attention, and its numbers.

    Safetensors, or a GGUF file that is kept as it is (on a CPU); never code from the folder. Raises
    SetupError unless the folder holds a causal LM that `transformers` knows, with attention that can be
    replaced and exactly the model's tensors. `allow_unused_weights` lets it hold more. With `keeps_integers`
    quantized weights are held as they are: on a CPU, where can_keep allows it. `context_tokens` will be
    served, as use_context takes it.
    """
    register()
    transformers_logging.disable_progress_bar()
    try:
        config, mark = _read_config(path, context_tokens)
        with unchanged(path):
            source = _read_source(path, keeps_integers)
            spec = read_spec(path, config, dtype).quantized(_form_of(source))
            spec = replace(spec, fingerprint=spec.fingerprint + mark)
            refuse_other_kinds(path, config)
            spec = as_served(spec)
            if isinstance(source, GgufIndex):
                model = load_held(path, source, config, DTYPES[dtype])
            else:
                allow = allow_unused_weights
                model = load_whole(path, config, DTYPES[dtype], device, source, allow_unused=allow)
    except SetupError:
        raise
    # transformers has no error class for folders it does not expect: OSError, ValueError, KeyError,
    # AttributeError and RuntimeError all come out of it.
    except Exception as error:
        raise SetupError(f"{path} is not a model pdserve can load: {_reason(error)}") from error
    return model.to(device).eval(), spec


def _read_source(path: Path, keeps_integers: bool) -> GgufIndex | Plan | None:
    """Read where quantized weights lie, and what becomes of them; None: they are full."""
    if is_kept(path):
        return read_index(path)
    plan = read_plan(path)
    return replace(plan, keeps=True) if plan and keeps_integers else plan


def _form_of(source: GgufIndex | Plan | None) -> str:
    if isinstance(source, GgufIndex):
        return source.form
    return source.method if source and source.keeps else "none"


def _read_config(path: Path, context_tokens: int | Auto) -> tuple[PreTrainedConfig, str]:
    """Read the configuration for a context, as use_context does, and return what that returns.

    It says nothing of quantization: `transformers` would look for kernels of its own.
    """
    config = read_writing_config(path)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    use_decoder_sizes(config)
    return config, use_context(config, context_tokens)


def _reason(error: Exception) -> str:
    if error.args == (ATTENTION_NAME,):  # it looks its layers up by the attention's name
        return "its attention layers cannot take another attention than their own"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
