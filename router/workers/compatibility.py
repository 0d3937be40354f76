"""Compatibility of the workers of a deployment: KV of one must be valid for another.

Block size, attention backend and device may differ: KV on the wire does not depend on them.
"""

from common.messages import WorkerInfo
from pdserve.errors import SetupError


def check_compatibility(new: WorkerInfo, known: WorkerInfo) -> None:
    """Raise SetupError that names both workers and the first thing in which they differ."""
    for thing, ours, theirs, remedy in (
        # a fingerprint covers the dtype too, so that this comes first
        (
            "dtype",
            new.dtype,
            known.dtype,
            f"set {_key(new, known)}{_reasons(new, known)}",
        ),
        (
            "model",
            new.model_fingerprint,
            known.model_fingerprint,
            "give all workers of a deployment the same model, and one engine.max_context_tokens",
        ),
        (
            "KV wire version",
            new.wire_version,
            known.wire_version,
            "run the same release of pdserve on all workers",
        ),
    ):
        if ours != theirs:
            raise SetupError(
                f"worker {new.name} has {thing} {ours}, worker {known.name} has {theirs}", remedy
            )


def _key(new: WorkerInfo, known: WorkerInfo) -> str:
    """Return the setting that two dtypes differ in; they are written as ModelSpec.stored_as writes them."""
    ours, theirs = (worker.dtype.partition("+")[0] for worker in (new, known))
    if ours == theirs:
        return "engine.kv_cache_dtype"
    is_other = ours.partition("/")[0] != theirs.partition("/")[0]
    return "engine.dtype" if is_other else "engine.quantization"


def _reasons(new: WorkerInfo, known: WorkerInfo) -> str:
    """Return the reasons for the dtypes: with `auto`, two kinds of CPU may choose differently."""
    if not (new.dtype_reason and known.dtype_reason):
        return ""
    return f" ({new.dtype}: {new.dtype_reason}; {known.dtype}: {known.dtype_reason})"
