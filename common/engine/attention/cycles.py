"""Layers that run several times a step, each time with keys and values of their own (HRM-Text).

Such a module tells its cache which layer it is this time, and not its attention, which reads `layer_idx`.
"""

from typing import Any

Module = Any  # modules of `transformers`, read by attribute name

_CYCLIC = {"HrmTextAttention"}  # classes of modules that are called with a `cycle_offset`


def take_over_cycles(model: Module) -> None:
    """Let each call of such a module carry the number of its layer in that cycle; safe to repeat."""
    for module in model.modules():
        hooks = getattr(module, "_forward_pre_hooks", {}).values()
        if type(module).__name__ in _CYCLIC and not any(isinstance(h, _Renumber) for h in hooks):
            module.register_forward_pre_hook(_Renumber(module.layer_idx), with_kwargs=True)


class _Renumber:
    """Hook before a module's call: sets the module's `layer_idx`, counted from that of the first cycle."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __call__(self, module: Module, args: tuple[object, ...], keywords: dict[str, int]) -> None:
        module.layer_idx = self._first + keywords.get("cycle_offset", 0)
