"""Quick import of torch in a worker, without parts that only its compiler, its exporter and training use.

Half of torch's import makes Python versions of operations for tensors without memory, which trace programs.
They are put off until something asks for them. These are private matters of torch: a version that was not
tried is imported plainly.
"""

import sys
from importlib.metadata import version

from common.later import import_now, is_put_off, put_off

_TRIED = "2.13."
_PARTS = (
    "torch._meta_registrations",
    "torch.distributions",
    "torch.export",
    "torch.hub",
    "torch.quantization",
)


def put_off_parts() -> None:
    """Have the first `import torch` leave parts out; nothing if that was already, or by another version."""
    if "torch" not in sys.modules and version("torch").startswith(_TRIED):
        put_off(*_PARTS)


def complete_generators() -> None:
    """Let torch.Generator() work where parts were left out: one of them gives its class a metaclass."""
    if not any(is_put_off(name) for name in _PARTS):
        return
    import torch
    from torch._opaque_base import OpaqueBaseMeta

    torch._C._set_generator_metaclass(OpaqueBaseMeta)


def import_parts() -> None:
    """Import what was left out: `transformers` may use all of torch."""
    for name in _PARTS:
        if name in sys.modules:
            import_now(name)
