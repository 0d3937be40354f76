"""Who a worker is."""

import os
import secrets
from dataclasses import replace

from common.config import WorkerSpec
from common.engine.model_spec import ModelSpec
from common.profile import WorkerProfile
from common.request import Role, WorkerInfo, WorkerLoad


def make_info(spec: WorkerSpec, model: ModelSpec, profile: WorkerProfile) -> WorkerInfo:
    """The identity of this process; call once a process and role."""
    return WorkerInfo(
        name=spec.name,
        role=Role(spec.role),
        pid=os.getpid(),
        incarnation=secrets.token_hex(6),
        model_fingerprint=model.fingerprint,
        max_context_tokens=model.max_context_tokens,
        vocab_size=model.vocab_size,
        profile=profile,
    )


def with_age(load: WorkerLoad, progress_age_s: float) -> WorkerLoad:
    """The report with its progress age as of now."""
    return replace(load, progress_age_s=progress_age_s)
