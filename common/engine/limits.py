"""Limits of an engine's steps: those that are set, and a choice for those that are `auto`."""

from dataclasses import dataclass, replace

from common.config import EngineConfig

_MAX_NUM_SEQS = {"cpu": 64, "cuda": 256}
_MAX_BATCH_TOKENS = {"cpu": 512, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that schedulers and routers keep."""

    max_num_seqs: int
    max_batch_tokens: int
    itl_target_s: float = 0.0  # for a step's time; 0: none


def choose_limits(config: EngineConfig, device_type: str = "cpu") -> Limits:
    """Return the limits of a configuration on a device, "cpu" or "cuda".

    A limit that is set decides the one that is `auto`: half of a step's tokens may decode at most, so that
    prompts have the other half.
    """
    set_seqs, set_tokens = config.max_num_seqs, config.max_batch_tokens
    num_seqs = _MAX_NUM_SEQS[device_type] if set_seqs == "auto" else set_seqs
    if set_tokens != "auto":
        if set_seqs == "auto":
            num_seqs = max(min(num_seqs, set_tokens // 2), 1)
        return Limits(num_seqs, set_tokens, config.itl_target_s or 0.0)
    num_tokens = max(_MAX_BATCH_TOKENS[device_type], 2 * num_seqs)
    return Limits(num_seqs, num_tokens, config.itl_target_s or 0.0)


def fit_blocks(limits: Limits, config: EngineConfig, num_blocks: int) -> Limits:
    """Return the limits with no more sequences than blocks, where their number is `auto`.

    A sequence needs a block of its own, so more could never run; on CUDA each size of a batch costs memory.
    """
    if config.max_num_seqs != "auto" or limits.max_num_seqs <= num_blocks:
        return limits
    return replace(limits, max_num_seqs=num_blocks)
