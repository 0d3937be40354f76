"""Choice of quantized checkpoints whose integers are kept as they are, for panels of the fused pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import EngineConfig
from common.engine.fused.families import known_activation
from common.engine.fused.held import is_gate
from common.engine.fused.quantize import PanelForm, Scales
from common.engine.weights.prequantized.packed import PackedWeight
from common.engine.weights.prequantized.panel_groups import kept_form
from common.engine.weights.prequantized.plan import Plan, read_plan
from common.telemetry.logs import get_logger

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_log = get_logger()

_MERGED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # by the fused pass


def keeps_integers(folder: Path, engine: EngineConfig) -> bool:
    """Return True if a worker on a CPU holds a folder's integers as they are.

    It does where `engine.quantization` is auto and the fused pass has panels for all quantized weights.
    """
    return _kept_plan(folder, engine) is not None


def expected_forms(folder: Path, engine: EngineConfig) -> dict[str | PanelForm, bool]:
    """Return the forms of panels that a worker on a CPU will have of kept integers, and True for gates'.

    Empty where none are kept. Whether zero points are in the middle is known by the settings alone before the
    weights are read.
    """
    found: dict[str | PanelForm, bool] = {}
    plan = _kept_plan(folder, engine)
    for weight in plan.packed.values() if plan else ():
        if kept := kept_form(weight):
            has_offsets = not kept.integers.is_centred
            is_wide = has_offsets or kept.integers.has_wide_scales
            scales: Scales = "float32" if is_wide else "float16"
            form = PanelForm(kept.integers.bits, has_offsets, scales)
            found[form] = found.get(form, False) or is_gate(weight.name.removesuffix(".weight"))
    return found


def _kept_plan(folder: Path, engine: EngineConfig) -> Plan | None:
    if (engine.quantization, engine.fusion) != ("auto", "auto"):
        return None
    try:
        plan = read_plan(folder)
        if plan is None:
            return None
        from common.engine.cpu.target import host_target

        # two seconds of a core, which a plain model does not need
        from common.engine.weights.writing_part import read_writing_config

        if not host_target().has_kernels:  # torch would need them in full width
            return None
        is_kept = can_keep(plan, read_writing_config(folder))
    # whatever is wrong with the folder: loading it says it
    except Exception as error:
        _log.warning("integers_not_kept", reason=repr(error))
        return None
    return plan if is_kept else None


def can_keep(plan: Plan, config: "PreTrainedConfig") -> bool:
    """Return True if the fused pass has panels for all quantized weights of a model."""
    from common.engine.weights.text_part import text_architecture

    if known_activation(text_architecture(config), config.get_text_config()) is None:
        return False
    has_panels = all(kept_form(weight) is not None for weight in plan.packed.values())
    return has_panels and not _is_mixed(plan.packed)


def _is_mixed(packed: Mapping[str, PackedWeight]) -> bool:
    """Return True if only some of the products that are merged are quantized."""
    for name in packed:
        owner, _, leaf = name.removesuffix(".weight").rpartition(".")
        for group in _MERGED:
            if leaf in group and any(f"{owner}.{one}.weight" not in packed for one in group):
                return True
    return False
