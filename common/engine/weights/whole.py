"""Loading of weights with nothing missing, nothing of another shape and nothing unused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from common.engine.attention.interface import our_name
from common.engine.weights.experts import refuse_uneven_experts
from common.engine.weights.loading_report import LoadingReport, check_report
from common.engine.weights.prequantized.held_integers import put_held
from common.engine.weights.prequantized.plain_files import plain_files
from common.engine.weights.prequantized.plan import Plan
from common.engine.weights.quantization import refuse_quantized_tensors
from common.engine.weights.renaming import renaming
from common.engine.weights.stored import loaded_tensors
from common.engine.weights.text_part import as_causal_lm, multimodal_class, without_towers


def load_whole(
    path: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    plan: Plan | None,
    *,
    allow_unused: bool,
) -> torch.nn.Module:
    """Load a model, or a multimodal one's text part, with our attention and the folder's weights.

    Each tensor goes straight to `device`; `plan` is that of quantized weights. Raises SetupError, naming the
    tensor, for weights that are not exactly the model's; whatever else `transformers` raises passes through.
    """
    tensors = loaded_tensors(path) if plan is None else plan.entries()
    refuse_quantized_tensors(tensors)
    kind, is_part = _class_of(config)
    with _reported_to_us(), plain_files(plan, dtype) as held:
        try:
            model, raw = kind.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                device_map={"": device},
                attn_implementation=our_name(config.model_type),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                # so that the report names them; none is ever served
                ignore_mismatched_sizes=True,
            )
        except RuntimeError:
            refuse_uneven_experts(path, tensors)  # names the expert that cannot be stacked
            raise
    report = _read_report(raw, plan, model)
    if report.mismatched:
        refuse_uneven_experts(path, tensors)
    check_report(report, path, _head(model), allow_unused=allow_unused)
    return put_held(as_causal_lm(model, config) if is_part else model, held)


def _class_of(config: PreTrainedConfig) -> tuple[Any, bool]:
    """Return the class that loads the model, and True if that is a multimodal one's text part."""
    multimodal = multimodal_class(config)
    return (without_towers(multimodal), True) if multimodal else (AutoModelForCausalLM, False)


def _read_report(raw: dict[str, Any], plan: Plan | None, model: Any) -> LoadingReport:
    report = LoadingReport.read(raw)
    if plan is None or not report.unused:
        return report
    harmless = plan.zero_biases(report.unused, renaming(model))
    return replace(report, unused=tuple(n for n in report.unused if n not in harmless))


def _head(model: Any) -> str | None:
    """Return the name of the weight that gives the logits."""
    head = model.get_output_embeddings()
    names = (name for name, module in model.named_modules() if module is head)
    return next((f"{name}.weight" for name in names), None)


@contextmanager
def _reported_to_us() -> Iterator[None]:
    """Silence the table that `transformers` logs of the same: an error of ours is one line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
