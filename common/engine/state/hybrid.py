"""Parts that a model with state gets beside its attention: memory for states, and their forward pass."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from common.config import EngineConfig
from common.engine.limits import Limits
from common.engine.memory.kv_cache import DTYPES, KVCache
from common.engine.model_runner import TokenModel
from common.engine.model_spec import ModelSpec
from common.engine.state.cache import StateCache
from common.engine.state.families import family_of
from common.engine.state.long_chunks import check_long_chunks
from common.engine.state.mixers import StepStates
from common.engine.state.model import StatefulModel
from common.machine import read_memory
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

_GIB = 2**30
_log = get_logger()


def fit_states(
    limits: Limits, config: EngineConfig, spec: ModelSpec, num_bytes: int
) -> tuple[Limits, int]:
    """Return the limits, and the bytes for blocks, in a worker that has `num_bytes` for blocks and states.

    Where the number of sequences is `auto`, states take half at most. A size that is set is for blocks alone.
    """
    if spec.state is None:
        return limits, num_bytes
    if config.max_num_seqs == "auto":
        most = max(StateCache.slots_in(spec.state, num_bytes // 2), 1)
        limits = replace(limits, max_num_seqs=min(limits.max_num_seqs, most))
    if config.kv_cache_gib != "auto":
        return limits, num_bytes
    state_bytes = StateCache.bytes_for(spec.state, limits.max_num_seqs)
    if state_bytes >= num_bytes:
        raise _too_large(limits.max_num_seqs, state_bytes, num_bytes)
    return limits, num_bytes - state_bytes


def add_state(
    token_model: TokenModel,
    model: torch.nn.Module,
    spec: ModelSpec,
    num_slots: int,
    cache: KVCache,
) -> tuple[TokenModel, StateCache | None, Callable[[], None]]:
    """Return a forward pass that keeps the states of `num_slots` sequences, their memory, and a check.

    The check runs modules by themselves, and raises SetupError (long_chunks.py); it is for later, when the
    model as a whole has passed. A model without state stays as it is. Raises SetupError where the memory is
    not there, or the modules that hold state are not found.
    """
    if spec.state is None:
        return token_model, None, lambda: None
    num_bytes = StateCache.bytes_for(spec.state, num_slots)
    usable = _usable_bytes(cache)
    if num_bytes > usable:
        raise _too_large(num_slots, num_bytes, usable)
    _log.info(
        "prefix_sharing_off",
        reason="layers with state",
        state_mib=round(num_bytes / 2**20, 1),
        slots=num_slots,
    )
    device = cache.keys.device
    mixers = family_of(model).mixers(model, spec.state.layers)
    hidden_size = model.config.get_text_config().hidden_size
    given = mixers, spec.state, hidden_size, DTYPES[spec.dtype], device
    states = StateCache(spec.state, num_slots, device)
    stateful = StatefulModel(token_model, StepStates(mixers, states))
    return stateful, states, partial(check_long_chunks, *given)


def _too_large(num_slots: int, num_bytes: int, left: int) -> SetupError:
    return SetupError(
        f"the states of {num_slots} sequences take {num_bytes / _GIB:.2f} GiB, "
        f"and {left / _GIB:.2f} GiB are left",
        "lower engine.max_num_seqs",
    )


def _usable_bytes(cache: KVCache) -> int:
    if cache.keys.is_cuda:
        free_bytes, _ = torch.cuda.mem_get_info(cache.keys.device)
        return int(free_bytes)
    return read_memory().usable_bytes - cache.num_bytes  # a host's pages are taken when first used
