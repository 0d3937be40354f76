"""Streams over Ray, with doubles of Ray's functions."""

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorDiedError

from common.kv_transfer.ray_transport import RayKVStream
from common.kv_transfer.transport import TransferError


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
    for generation in range(2):
        gc.collect(generation)  # of another thread: it makes all that lives old
    for value in values:
        assert refs
        raise value


class RefsLikeRay:
    """Stands in for the generator of a task that failed: it catches the error, and ends."""

    def __init__(self) -> None:
        self._own = Ref()
        self.sent_last: Callable[[], Ref | None] = lambda: None

    def __next__(self) -> Ref:
        sent_last = Ref()
        self.sent_last = weakref.ref(sent_last)
        with contextlib.suppress(ActorDiedError):
            get_like_ray(sent_last, 0.0)
        return self._own

    def completed(self) -> Ref:
        return self._own


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("is_closed", [False, True])
def test_a_stream_whose_worker_died_holds_no_object(
    is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(ray, "get", get_like_ray)
    refs, worker, request = RefsLikeRay(), Mock(), Mock()
    stream = RayKVStream(worker, cast(Any, refs), request)
    if is_closed:
        stream.close()
    with pytest.raises(TransferError, match="prefill worker failed: ActorDiedError"):
        stream.next(60.0)
    assert refs.sent_last() is None
