"""Trial at load of chunks that are longer than those in which a mixer itself computes.

Mamba 2's scans, delta rules and their like cut a chunk of a prompt into parts of a fixed size, often more
tokens than the probe of a whole model runs (self_check.py). So one mixer of each class runs by itself, on
random rows: as a whole, and as a chunk of more than a part behind a short one.
"""

from collections.abc import Mapping, Sequence

import torch

from common.engine.kernel_checks.close import normal
from common.engine.memory.freed import give_freed_back
from common.engine.state.copied import names_in
from common.engine.state.layer_state import LayerState
from common.engine.state.layout import Key, StateLayout
from common.engine.state.mixer import Mixer
from pdserve.errors import SetupError

_BEFORE, _BEHIND = 5, 3  # tokens before the long chunk, and of it behind its first part
_USUAL_PART = 64  # of delta rules, whose modules do not say
_LIMIT, _HALF_LIMIT = 0.001, 0.1  # relative; rounding gives 1e-5 in float32

_States = Mapping[Key, torch.Tensor]


def check_long_chunks(
    mixers: Sequence[Mixer],
    layout: StateLayout,
    hidden_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Raise SetupError where a mixer's long chunk does not go on from a state."""
    for mixer in {type(mixer.module): mixer for mixer in reversed(mixers)}.values():
        part = part_tokens(mixer.module)
        if part is None:
            continue
        rows = normal(1, _BEFORE + part + _BEHIND, hidden_size, dtype=dtype).to(device)
        states = _empty_states(mixer, layout, device)
        with torch.inference_mode():
            whole = _run(mixer, states, (rows,))
            cut = _run(mixer, states, rows.split((_BEFORE, part + _BEHIND), dim=1))
        error = _largest_error(whole, cut)
        limit = _LIMIT if dtype == torch.float32 else _HALF_LIMIT
        if error > limit:
            raise SetupError(
                f"the model is not supported: its layer {mixer.layer} computes {part} tokens at a time, "
                f"and a longer chunk behind others gives results that differ by {error:.0%}"
            )
    give_freed_back()


def part_tokens(module: torch.nn.Module) -> int | None:
    """Return the tokens that a mixer computes at a time; None: it cuts no chunks."""
    config = getattr(module, "config", None)
    for owner, name in ((module, "chunk_size"), (module, "block_size"), (config, "chunk_size")):
        size = getattr(owner, name, None)
        if isinstance(size, int):
            return size
    cuts_chunks = any("chunk_" in name for name in names_in(module))
    return _USUAL_PART if cuts_chunks else None


def _empty_states(mixer: Mixer, layout: StateLayout, device: torch.device) -> _States:
    """Return memory [1, ...] for the states that a mixer keeps."""
    return {
        part.key: torch.zeros(1, *part.shape, dtype=getattr(torch, part.dtype), device=device)
        for part in layout.parts
        if part.layer == mixer.layer and (mixer.keys is None or part.key in mixer.keys)
    }


def _run(mixer: Mixer, states: _States, chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run chunks [1, tokens, channels] one behind the other.

    Return the rows of the last tokens behind the first part of a long chunk, all of its rows, and the states.
    """
    only, source = torch.zeros(1, dtype=torch.long, device=chunks[0].device), None
    for chunk in chunks:
        state = LayerState(states, source)
        rows = mixer.run(chunk, state)[0]
        state.store(only)
        source = only
    long = rows[:, _BEFORE:] if len(chunks) == 1 else rows
    found = (long[:, -_BEHIND:], long, *states.values())
    return tuple(each.float().clone() for each in found)


def _largest_error(whole: Sequence[torch.Tensor], cut: Sequence[torch.Tensor]) -> float:
    """Return the largest relative error; 0 where random rows leave numbers that are not finite."""
    if not all(bool(each.isfinite().all()) for each in whole):
        return 0.0
    pairs = zip(whole, cut, strict=True)
    errors = [float((b - a).norm() / a.norm().clamp(min=1e-6)) for a, b in pairs]
    return max(float("inf") if error != error else error for error in errors)
