"""Wanted workers in Ray's own key-value store, where the next process of a supervisor finds them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from ray.experimental import internal_kv

from deploy.launched import Launched
from deploy.placement import Share

_SPACE = b"pdserve"


class SavedWorker(BaseModel):
    """A wanted worker: all that its next process needs beside the deployment's settings."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["prefill", "decode"]
    num_threads: int
    cores: tuple[int, ...]
    memory_bytes: int | None
    machine_workers: int = 1
    retired: str = ""

    @property
    def share(self) -> Share:
        """Its share of the machine."""
        return Share(self.num_threads, self.cores)


class SavedState(BaseModel):
    """Wanted workers, the names given out by role, and how often a supervisor took them over."""

    model_config = ConfigDict(frozen=True)

    workers: tuple[SavedWorker, ...]
    num_names: dict[str, int]
    num_starts: int


class WantedStore:
    """One deployment's entry in the store; it lives as long as Ray."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def save(self, state: SavedState) -> None:
        """Replace the entry."""
        value = state.model_dump_json().encode()
        internal_kv._internal_kv_put(self._key, value, overwrite=True, namespace=_SPACE)

    def load(self) -> SavedState | None:
        """Return the entry; None if there is none."""
        value = internal_kv._internal_kv_get(self._key, namespace=_SPACE)
        return SavedState.model_validate_json(value) if value else None

    def delete(self) -> None:
        """Remove the entry."""
        internal_kv._internal_kv_del(self._key, namespace=_SPACE)


def to_saved(worker: Launched, retired: str) -> SavedWorker:
    """Return what is saved of a worker."""
    spec, share = worker.spec, worker.share
    return SavedWorker(
        name=spec.name,
        role=spec.role,
        num_threads=share.num_threads,
        cores=share.cores,
        memory_bytes=spec.memory_bytes,
        machine_workers=spec.machine_workers,
        retired=retired,
    )
