"""Thread that an engine is built in."""

import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.config import EngineConfig, WorkerSpec
from common.engine.cpu.threads import get_num_threads
from common.worker import host
from common.worker.host import build_host
from tests.patience import WITHIN_S

UNUSED: Any = None
SPEC = WorkerSpec(
    name="decode-0",
    role="decode",
    model_dir=Path("model"),
    model_name="tiny",
    namespace="pdserve",
    num_threads=1,
    engine=EngineConfig(device="cpu"),
)


@pytest.mark.parametrize(
    ("changes", "thread"),
    [
        ({}, "decode-0"),
        ({"starts_beside_others": True}, "low-priority"),
        ({"starts_beside_others": True, "cores": (1,)}, "decode-0"),
    ],
)
def test_a_start_is_gentle_where_others_serve_on_its_cores(
    changes: dict[str, object], thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_in = list[str]()
    name = lambda *_: SimpleNamespace(spec=None, thread=threading.current_thread().name)  # noqa: E731
    monkeypatch.setattr(host, "build", name)
    monkeypatch.setattr(host, "load_compiler", name)
    note = lambda *_: measured_in.append(threading.current_thread().name)  # noqa: E731
    monkeypatch.setattr(host, "begin_costs", note)
    found: Any = build_host(SPEC.model_copy(update=changes), UNUSED)
    assert found.engine.thread == thread
    # else a role builds it when it serves
    assert (found.compiler and found.compiler.thread) == (
        thread if thread == "low-priority" else None
    )
    assert measured_in == ["decode-0"]  # at the priority at which it computes
    if thread == "low-priority":  # what the steps use is set in their own thread
        counted: Future[int] = Future()
        found.loop.post(lambda: counted.set_result(get_num_threads()))
        assert counted.result(WITHIN_S) == SPEC.num_threads
    found.loop.stop(WITHIN_S)
