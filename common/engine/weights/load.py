"""Loading a model folder for serving."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from common.config import Dtype
from common.engine.attention.interface import ATTENTION_NAME, register
from common.engine.kv_cache import DTYPES
from common.engine.model_spec import ModelSpec
from common.engine.weights.fingerprint import fingerprint
from common.engine.weights.folder import read_eos_token_ids
from pdserve.errors import SetupError

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_NEEDED = ("num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")


def load_model(path: Path, dtype: Dtype, device: torch.device) -> tuple[torch.nn.Module, ModelSpec]:
    """Load a causal LM in eval mode with our attention, and its numbers.

    Safetensors only, never code from the folder. Raises SetupError when the folder does not hold a
    causal LM that `transformers` knows.
    """
    register()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        spec = read_spec(path, config, dtype)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=ATTENTION_NAME,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise SetupError(f"{path} is not a model pdserve can load: {first_line}") from error
    return model.to(device).eval(), spec


def read_spec(path: Path, config: PreTrainedConfig, dtype: Dtype) -> ModelSpec:
    """The model's numbers from its configuration files.

    Raises SetupError for layers that are not attention over all, or a window of, earlier positions.
    """
    text = config.get_text_config()
    for layer, kind in enumerate(getattr(text, "layer_types", None) or ()):
        if kind not in _LAYER_TYPES:
            raise SetupError(f"the model is not supported: its layer {layer} is {kind}")
    if missing := [name for name in _NEEDED if not hasattr(text, name)]:
        raise SetupError(f"the model is not supported: {text.model_type} has no {missing[0]}")
    heads = text.num_attention_heads
    return ModelSpec(
        num_layers=text.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=text.vocab_size,
        max_context_tokens=text.max_position_embeddings,
        eos_token_ids=read_eos_token_ids(path),
        dtype=dtype,
        fingerprint=f"{fingerprint(path)}-{dtype}",
    )
