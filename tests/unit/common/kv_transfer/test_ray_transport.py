"""Streams over Ray, with doubles of Ray's functions."""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from common.kv_transfer.ray_transport import RayKVStream
from common.kv_transfer.transport import TransferError

A: Any = None  # what a stream only passes on


class Ref:
    """Stands in for the reference to an object."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def get_like_ray(ref: Ref, timeout: float) -> None:
    """Raise as `ray.get` does: its frame has the reference and the error."""
    refs, values = [ref], [ActorDiedError()]
    for value in values:
        assert refs
        raise value


class RefsLikeRay:
    """Stands in for the generator of a task that failed: it catches the error, and ends."""

    def __init__(self) -> None:
        self.held: list[weakref.ref[Ref]] = []

    def __next__(self) -> Ref:
        sent_last, own = Ref(), Ref()
        self.held = [weakref.ref(sent_last), weakref.ref(own)]
        with contextlib.suppress(ActorDiedError):
            get_like_ray(sent_last, 0.0)
        return own


@pytest.mark.usefixtures("no_collector")
def test_a_stream_whose_worker_died_holds_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(ray, "get", get_like_ray)
    refs: Any = RefsLikeRay()
    stream = RayKVStream(A, refs, A)
    with pytest.raises(TransferError, match="prefill worker failed: ActorDiedError"):
        stream.next(60.0)
    assert [held() for held in refs.held] == [None, None]
