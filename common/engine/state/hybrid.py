"""Parts that a model with state gets beside its attention: memory for states, and their forward pass."""

import torch

from common.engine.model_runner import TokenModel
from common.engine.model_spec import ModelSpec
from common.engine.state.cache import StateCache
from common.engine.state.mixers import StepStates, number_kv_layers
from common.engine.state.model import StatefulModel
from common.machine import read_memory
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

_GIB = 2**30
_log = get_logger()


def add_state(
    token_model: TokenModel,
    model: torch.nn.Module,
    spec: ModelSpec,
    num_slots: int,
    device: torch.device,
) -> tuple[TokenModel, StateCache | None]:
    """Return a forward pass that keeps the states of `num_slots` sequences, and their memory.

    A model without state stays as it is. Raises SetupError where the memory is not there, or the modules
    that hold state are not found.
    """
    if spec.state is None:
        return token_model, None
    num_bytes = StateCache.bytes_for(spec.state, num_slots)
    usable = _usable_bytes(device)
    if num_bytes > usable:
        raise SetupError(
            f"the states of {num_slots} sequences take {num_bytes / _GIB:.2f} GiB, "
            f"and {usable / _GIB:.2f} GiB are left",
            "lower engine.max_num_seqs",
        )
    _log.info(
        "prefix_sharing_off",
        reason="layers with state",
        state_mib=round(num_bytes / 2**20, 1),
        slots=num_slots,
    )
    cache = StateCache(spec.state, num_slots, device)
    number_kv_layers(model, spec.kv_layers or ())
    return StatefulModel(token_model, StepStates(model, cache)), cache


def _usable_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes)
    return read_memory().usable_bytes
