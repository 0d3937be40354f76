"""Kernels that the products of a model need, by the forms of its weights."""

from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.fused.families import known_activation
from common.engine.fused.held import is_gate
from common.engine.fused.quantize import PanelForm
from common.engine.fused.select import quantized_format
from common.engine.kernel_checks.verdicts import trusted_products
from common.engine.weights.choose import read_model_config
from common.engine.weights.gguf_blocks import BLOCK_TYPES
from common.engine.weights.gguf_index import is_kept, read_index
from common.engine.weights.prequantized.keeping import expected_forms


def product_forms(model_dir: Path, config: EngineConfig) -> dict[str | PanelForm, bool]:
    """Return the forms of products' weights, and True for those of gates: those of a kept file, or one."""
    if not is_kept(model_dir):
        return expected_forms(model_dir, config) or {quantized_format(config) or "none": True}
    found: dict[str | PanelForm, bool] = {}
    for name, tensor in read_index(model_dir).tensors.items():
        if block := BLOCK_TYPES.get(tensor.kind):
            module = name.removesuffix(".weight")
            found[block.form] = found.get(block.form, False) or is_gate(module)
    return found


def are_held_in_full(model_dir: Path, config: EngineConfig) -> bool:
    """Return True if a folder's small integers are held in full width, since a kernel for them is wrong here.

    The dtype of `config` is chosen already. Kernels are tried, or were before, where the folder has integers
    that a CPU holds as they are.
    """
    try:
        forms = product_forms(model_dir, config).items()
        held = {form: has_gates for form, has_gates in forms if isinstance(form, PanelForm)}
        if not held:
            return False
        model, architecture = read_model_config(model_dir, config, torch.device("cpu"))
        activation = known_activation(architecture, model.get_text_config())
    # whatever is wrong with the folder: loading it, which comes next, says it
    except Exception:
        return False
    return not all(
        trusted_products(config.dtype, activation if has_gates else None, form) is None
        for form, has_gates in held.items()
    )
