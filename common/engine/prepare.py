"""Preparation of kernels: each that a model can need is compiled or loaded, and tried, before requests.

`python -m common.engine.prepare MODEL_DIR` compiles them alone, without the model's weights.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.attention.kernel_shapes import attention_shapes
from common.engine.device import select_device
from common.engine.dtype import choose_dtype
from common.engine.fused.families import known_activation
from common.engine.kernel_checks.verdicts import (
    compile_truncation,
    trusted_attention,
    trusted_products,
    trusted_sampling,
)
from common.engine.kv_dtype import check_kv_device, with_kv_dtype
from common.engine.product_kernels import product_forms
from common.engine.weights.choose import read_model_config
from common.engine.weights.spec import read_unhashed

Family = Callable[[], object]


def prepare_kernels(
    model_dir: Path, config: EngineConfig, num_threads: int, is_second: bool = False
) -> str:
    """Try the kernel families that the model needs on this CPU; says what there was to do.

    Of two processes that start at one time the second goes the other way round: each compiles half, and
    loads what the other has compiled.
    """
    device = select_device(config)
    if device.type != "cpu":
        return "none on CUDA"
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.kernel_cache import tally
    from common.engine.cpu.threads import set_num_threads

    set_num_threads(num_threads)
    families = _families(model_dir, config, device)
    for family in reversed(families) if is_second else families:
        family()
    return f"{tally().compiled} new, {tally().loaded} from disk"


def _families(model_dir: Path, config: EngineConfig, device: torch.device) -> list[Family]:
    try:
        check_kv_device(config, device)
        dtype = choose_dtype(config, model_dir, device).dtype
        model, architecture = read_model_config(model_dir, config, device)
        spec = with_kv_dtype(read_unhashed(model_dir, model, dtype), config)
        activation = known_activation(architecture, model.get_text_config())
    # whatever is wrong with the folder: loading it, which comes next, says it
    except Exception:
        return []
    families: list[Family] = []
    for shape in attention_shapes(spec, config, device):
        families.append(partial(trusted_attention, shape))
    # apart, and first: with it two processes that meet in the middle have compiled as much each
    families.append(compile_truncation)
    families.append(trusted_sampling)
    if activation is not None and config.fusion == "auto":
        for kind, has_gates in product_forms(model_dir, config).items():
            gate = activation if has_gates else None
            families.append(partial(trusted_products, dtype, gate, kind))
    return families


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    prepare_kernels(Path(sys.argv[1]), EngineConfig(), cores, "--second" in sys.argv)
