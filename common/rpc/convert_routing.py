"""Conversion of the numbers that routing needs: profiles, corrections, prefixes."""

from common.prefix_log import DIGEST_BYTES, PrefixUpdate
from common.profile import Correction, WorkerProfile
from pdserve.v1 import admin_pb2, worker_pb2

_RATES = tuple(
    name
    for name in WorkerProfile.__dataclass_fields__
    if name not in ("row_counts", "row_seconds", "correction")
)


def profile_to_pb(profile: WorkerProfile) -> worker_pb2.WorkerProfile:
    """Convert a profile to its message; its correction travels in load reports."""
    return worker_pb2.WorkerProfile(
        row_counts=profile.row_counts,
        row_seconds=profile.row_seconds,
        **{name: getattr(profile, name) for name in _RATES},
    )


def profile_from_pb(message: worker_pb2.WorkerProfile) -> WorkerProfile:
    """Convert a message to a profile; the default profile where its numbers are unusable."""
    profile = WorkerProfile(
        row_counts=tuple(message.row_counts),
        row_seconds=tuple(message.row_seconds),
        **{name: getattr(message, name) for name in _RATES},
    )
    return profile if profile.is_sound() else WorkerProfile()


def correction_to_pb(correction: Correction) -> admin_pb2.CostCorrection:
    """Convert a correction to its message."""
    return admin_pb2.CostCorrection(
        prefill=correction.prefill,
        decode=correction.decode,
        copy_out=correction.copy_out,
        insert=correction.insert,
        handoff_s=correction.handoff_s,
    )


def correction_from_pb(message: admin_pb2.CostCorrection) -> Correction:
    """Convert a message to a correction."""
    return Correction(
        message.prefill, message.decode, message.copy_out, message.insert, message.handoff_s
    )


def prefixes_to_pb(update: PrefixUpdate) -> worker_pb2.PrefixUpdate:
    """Convert a prefix update to its message."""
    return worker_pb2.PrefixUpdate(
        start=update.start,
        end=update.end,
        is_snapshot=update.is_snapshot,
        added=b"".join(update.added),
        removed=b"".join(update.removed),
    )


def prefixes_from_pb(message: worker_pb2.PrefixUpdate) -> PrefixUpdate:
    """Convert a message to a prefix update."""
    return PrefixUpdate(
        message.start,
        message.end,
        message.is_snapshot,
        added=_split(message.added),
        removed=_split(message.removed),
    )


def _split(digests: bytes) -> tuple[bytes, ...]:
    return tuple(digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))
