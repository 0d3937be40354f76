"""Identity of a worker, and its load between two steps."""

import os
import secrets
from dataclasses import replace

from common.config import WorkerSpec
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import WIRE_VERSION
from common.kv_transfer.node_store import NodeStore
from common.messages import Role, WorkerInfo, WorkerLoad
from common.profile import WorkerProfile


def make_info(spec: WorkerSpec, model: ModelSpec, profile: WorkerProfile) -> WorkerInfo:
    """Return the identity of this process; call it once for each role that the process takes."""
    return WorkerInfo(
        name=spec.name,
        role=Role(spec.role),
        pid=os.getpid(),
        incarnation=secrets.token_hex(6),
        model_fingerprint=model.fingerprint,
        max_context_tokens=model.max_context_tokens,
        vocab_size=model.vocab_size,
        dtype=model.stored_as,
        dtype_reason=model.dtype_reason,
        wire_version=WIRE_VERSION,
        profile=profile,
    )


def at_this_moment(load: WorkerLoad, progress_age_s: float, store: NodeStore) -> WorkerLoad:
    """Return a step's load with the numbers that change between steps brought up to date."""
    spilled_bytes = store.spilled_bytes()
    return replace(load, progress_age_s=progress_age_s, spilled_bytes=spilled_bytes)
